"""A file on its way: ``<name>.part`` beside the target, and ``<name>.part.json`` which says what of it has arrived.

Both outlive any interruption. The target's own name is given only to a file whose size and ETag have been checked.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Self

from neuropictor.fetching.bucket import FetchError, Remote

log = logging.getLogger(__name__)

_FULL = {errno.ENOSPC, errno.EDQUOT}

Range = tuple[int, int]


class DiskFullError(FetchError):
    """There is no room for the file."""


class PartFile:
    """What has arrived of an object, held by one process at a time; use as a context manager.

    Parameters
    ----------
    target
        The final file.
    remote
        The object. What is left of another version of it is thrown away.
    """

    def __init__(self, target: Path, remote: Remote):
        self.target, self.remote = target, remote
        self.path, self.state = _names(target)
        self.done: list[Range] = []
        self._lock = threading.Lock()
        self._file = -1

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._open()
        try:
            self.done, reason = left_behind(self.target, self.remote)
            if reason:
                log.warning("%s: fetching from the start", reason)
            if not self.done:
                self.state.unlink(missing_ok=True)
                os.ftruncate(self._file, 0)
                os.ftruncate(self._file, self.remote.size)
        except BaseException:
            os.close(self._file)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._file)

    @property
    def arrived(self) -> int:
        """Bytes that have arrived."""
        return sum(stop - start for start, stop in self.done)

    def missing(self, range_bytes: int) -> list[Range]:
        """Return what has not arrived, in ranges of at most so many bytes."""
        edges = [0, *(edge for pair in self.done for edge in pair), self.remote.size]
        return [
            (first, min(first + range_bytes, stop))
            for start, stop in zip(edges[::2], edges[1::2], strict=True)
            for first in range(start, stop, range_bytes)
        ]

    def write(self, data: bytes, position: int) -> None:
        """Write bytes to their place.

        Raises
        ------
        DiskFullError
            If there is no room.
        """
        view = memoryview(data)
        try:
            while view:
                count = os.pwrite(self._file, view, position)
                view, position = view[count:], position + count
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise full_disk(self.remote.key, self.target.parent, self.remote.size - self.arrived) from error

    def keep(self, start: int, stop: int) -> None:
        """Note that a range has arrived, after it is safely on disk."""
        if start == stop:
            return
        with self._lock:
            self.done = merged([*self.done, (start, stop)])
            try:
                os.fsync(self._file)
                new = self.state.with_name(f"{self.state.name}.new")
                new.write_text(json.dumps({"size": self.remote.size, "etag": self.remote.etag, "done": self.done}))
                os.replace(new, self.state)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                raise full_disk(self.remote.key, self.target.parent, self.remote.size - self.arrived) from error

    def finish(self) -> None:
        """Give the file its final name."""
        os.fsync(self._file)
        os.replace(self.path, self.target)
        folder = os.open(self.target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self.state.unlink(missing_ok=True)

    def discard(self) -> None:
        """Throw away all that has arrived."""
        for path in (self.state, self.state.with_name(f"{self.state.name}.new"), self.path):
            path.unlink(missing_ok=True)

    def _open(self) -> int:
        """Open the file for this process alone."""
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                raise FetchError(
                    f"{self.path} is being written by another process, which fetches the same file. Allowed: one at a"
                    " time; wait for it, e.g. until the .part file is gone, and give the command again"
                ) from None
            # Between opening and locking, another process may have given the file its final name.
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self.path).st_ino == os.fstat(file).st_ino:
                    return file
            os.close(file)


def left_behind(target: Path, remote: Remote) -> tuple[list[Range], str]:
    """Read what an earlier process left of an object.

    Returns
    -------
    done : list of (int, int)
        Ranges that have arrived; none if there is no part, or one of something else.
    reason : str
        Why a part that is there cannot be used.
    """
    part, state = _names(target)
    try:
        found = json.loads(state.read_text())
        done = merged([(int(start), int(stop)) for start, stop in found["done"]])
        version = (found["size"], found["etag"])
        size = part.stat().st_size
    except FileNotFoundError:
        return [], ""
    except (ValueError, KeyError, TypeError):
        return [], f"{state} is damaged"
    if version != (remote.size, remote.etag):
        return [], f"{remote.key} has changed since a part of it was fetched"
    if size != remote.size or (done and done[-1][1] > remote.size):
        return [], f"{part} does not have the size that it was left with"
    return done, ""


def _names(target: Path) -> tuple[Path, Path]:
    return target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json")


def merged(ranges: list[Range]) -> list[Range]:
    """Sort ranges and join those that touch."""
    joined: list[Range] = []
    for start, stop in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined


def full_disk(what: str, folder: Path, needed: int) -> DiskFullError:
    """Make the error of a disk without room for so many bytes more."""
    free = free_bytes(folder)
    return DiskFullError(
        f"No room for {what} on the disk of {folder}: {needed / 1e9:.3f} GB more are needed, {free / 1e9:.3f} GB are"
        " free (or a quota is used up). Bytes fetched so far are kept, and the same command goes on from there."
        " Allowed: more room, fewer subjects or sessions, or a folder on another disk, e.g. paths: {nsd: /scratch/nsd}"
    )


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk that a folder lies on, or will lie on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def forget_state(target: Path) -> None:
    """Remove what a process killed between naming its finished file and cleaning up has left beside it."""
    _names(target)[1].unlink(missing_ok=True)
