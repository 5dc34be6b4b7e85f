"""Files that are written whole or not at all."""

import contextlib
import errno
import fcntl
import glob
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any

log = logging.getLogger(__name__)

FOLDER = "folder of a file"
#: A folder that the workflow tracks by a file in it, such as a pipeline's by its ``model_index.json``.
Folder = Annotated[Path, FOLDER]


class NotWrittenError(OSError):
    """A file could not be written for lack of room or permission; the message says which and what to do."""


_CANNOT_WRITE = {
    errno.ENOSPC: "Make room",
    errno.EDQUOT: "Make room within your quota",
    errno.EFBIG: "Allow larger files (ulimit -f)",
    errno.EROFS: "Make it possible to write",
    errno.EACCES: "Make it possible to write",
    errno.EPERM: "Make it possible to write",
}


def lock(file: IO[Any], wait: bool = False) -> None:
    """Keep other processes from an open file, where its file system has locks (those of some clusters have none).

    Raises
    ------
    BlockingIOError
        If another process has it, unless this one shall `wait`.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as error:
        log.debug("%s: not locked, as its file system has no locks (%s)", file.name, error)


def need(path: str | Path, expected: str) -> None:
    """Raise FileNotFoundError if there is no such file, or only a pointer to it; `expected` completes the message."""
    path = Path(path)
    if path.is_file():
        with open(path, "rb") as file:
            start = file.read(64)
        if not start.startswith((b"version https://git-lfs", b"/annex/objects/")):
            return
        state = "a pointer to a file that Git LFS or git-annex has not fetched (git lfs pull, git annex get)"
    elif path.is_symlink():
        state = f"a link to {os.readlink(path)}, which is missing (with git-annex: git annex get)"
    else:
        state = "missing"
    raise FileNotFoundError(f"{path} is {state}; {expected}")


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Write a file whole or not at all.

    Yields a path of the same name in a temporary folder beside it, where nobody else can lay links that would lead
    astray; when the body ends well the file is flushed to disk and renamed to ``path``, otherwise it is removed and
    ``path`` stays unchanged.

    Parameters
    ----------
    path
        The final file; missing parent folders are made.

    Raises
    ------
    FileNotFoundError
        If the body wrote nothing.
    NotWrittenError
        If the disk or a quota is full, or the folder is read-only.
    """
    path, folder = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(path)
        folder = tempfile.mkdtemp(".partial", f"{_start(path)}{os.getpid()}.", path.parent)
        temporary = Path(folder, path.name)
        temporary.touch()
        mode = temporary.stat().st_mode  # by the umask: some writers make files that only their owner may read
        temporary.unlink()
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)
        os.replace(temporary, path)
        parent = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
    except Exception as error:
        number = _system_error(error)
        if number not in _CANNOT_WRITE or isinstance(error, NotWrittenError):
            raise
        raise NotWrittenError(
            number,
            f"{path} could not be written: {os.strerror(number)}. {_CANNOT_WRITE[number]} in {path.parent}, and run"
            " again; what was there before is untouched, and trainings go on from their last checkpoint",
        ) from error
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _system_error(error: BaseException) -> int | None:
    """Return the system's error number, which HDF5 and safetensors give only in their message."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    match = re.search(r"(?:errno = |os error )(\d+)", str(error))
    return int(match.group(1)) if match else None


def _start(path: Path) -> str:
    """Return how the names of a file's temporary folders begin, shortened so that they may be names."""
    return f".{path.name.encode()[:200].decode(errors='ignore')}."


def _remove_left_behind(path: Path) -> None:
    """Remove unfinished copies of a file left by killed processes of this machine."""
    for old in path.parent.glob(f"{glob.escape(_start(path))}*.partial"):
        number = old.name.removeprefix(_start(path)).partition(".")[0]
        if number.isdigit() and not Path(f"/proc/{number}").exists() and Path("/proc/self").exists():
            shutil.rmtree(old, ignore_errors=True)
