"""Downloads over HTTPS: one resumable stream a file, several files at a time.

The part of a file that has arrived lies beside it as ``<name>.<version>.part``, where the version is the object's ETag:
the next download continues from there, or starts from the first byte if the object has changed. A file gets its name
only after its size and checksum have been compared.
"""

import contextlib
import errno
import glob
import hashlib
import logging
import os
import random
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import quote

import requests
import urllib3
from requests.adapters import HTTPAdapter

from neuropictor.records.files import atomic_path, lock
from neuropictor.records.progress import progress

log = logging.getLogger(__name__)

#: Failures in a row, without one new byte, before giving up on a file.
ATTEMPTS = 8
#: Seconds before the second try, doubled with each further one up to the longest, and shortened at random by up to
#: half, so that connections do not all return at once.
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
#: Seconds to wait for a connection, or for a byte.
TIMEOUT = 30.0
#: Bytes a second below which, over so many seconds, a server counts as none: NSD would take years.
SLOWEST, PATIENCE = 1000, 300.0
#: Most bytes read from a connection at a time.
CHUNK_BYTES = 2**18
#: A part is flushed to disk after each block of this many bytes, and a later process continues from the last block:
#: bytes after it may be zeros if the machine has crashed.
BLOCK_BYTES = 32 * 2**20
#: Bytes of which the parts of an upload are multiples, and those of most: AWS's clients take 8 MiB, and more only where
#: an object would have above 10,000 parts (boto3's TransferConfig, `aws s3`).
PART_UNIT, USUAL_PART = 2**20, 8 * 2**20
#: Parts from which their number leaves no other size than a multiple of the unit: with 100 of 8 MiB, 84 kB.
MANY_PARTS = 100
_MOST_LENGTHS = 3  # each takes as long as reading the file
Item = TypeVar("Item")
Result = TypeVar("Result")


class FetchError(RuntimeError):
    """A file could not be fetched; the message says which, the value, what is allowed and an example."""


class AbsentError(FetchError):
    """The endpoint refuses the object (403) or has none of this name (404)."""


class WrongBytesError(FetchError):
    """The received bytes are not the object: they changed on the way, or it was replaced while being read."""


class _PassingError(Exception):
    """A failure that may not happen again."""


@dataclass(frozen=True)
class Remote:
    """An object: address of its server, key, size in bytes, and ETag without quotation marks."""

    endpoint: str
    key: str
    size: int
    etag: str


@dataclass(frozen=True)
class Source:
    """A public bucket in messages: the setting of its address, the address, and what to do where it lacks an object."""

    setting: str = "nsd.endpoint"
    address: str = "https://natural-scenes-dataset.s3.amazonaws.com"
    absent: str = (
        "NSD answers 403 for what it holds back and for keys that do not exist; a mirror may hold only a part. Allowed:"
        " keys that NSD's bucket shows to everybody, e.g. nsddata/experiments/nsd/nsd_expdesign.mat; check subject,"
        " session, nsd.beta_version and nsd.endpoint"
    )


class Client:
    """Anonymous reads of public servers, such as ``https://natural-scenes-dataset.s3.amazonaws.com``.

    Parameters
    ----------
    connections
        Most files at a time.
    source
        For messages; NSD's by default.
    """

    def __init__(self, connections: int, source: Source | None = None):
        self.connections, self._stop, self._source = connections, threading.Event(), source or Source()
        self._session = requests.Session()
        # Neither on the way nor after a redirect does anybody get what ~/.netrc has for their host.
        self._session.auth = lambda request: request
        self._session.rebuild_auth = lambda prepared_request, response: None
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=connections, max_retries=0))

    def find(self, endpoint: str, key: str) -> Remote:
        """Ask for an object's size and ETag.

        Raises
        ------
        AbsentError
            For 403 and 404.
        FetchError
            If there is no answer, or one without size or ETag.
        """
        return self._retry(key, partial(self._describe, endpoint.rstrip("/"), key))

    def find_all(self, endpoint: str, keys: Iterable[str]) -> list[Remote]:
        """Ask for many objects' sizes and ETags."""
        return self._each(partial(self.find, endpoint), keys)

    def download(
        self,
        remotes: Sequence[Remote],
        root: Path,
        known: Mapping[str, str],
        note: Callable[[Remote, str, str], object] = lambda remote, sha256, checked: None,
    ) -> None:
        """Download files, or their missing parts.

        Parameters
        ----------
        remotes
            As returned by `find`.
        root
            Folder to put them into, by their keys.
        known
            For some keys, the start of the file's SHA-256.
        note
            Called for each file that arrived with its `Remote` (a new one if it was replaced meanwhile), its SHA-256,
            and the comparison made (see `compare`).

        Raises
        ------
        FetchError
            If there is too little room, or a file does not arrive or is wrong twice. Parts of others are kept.
        """
        total = sum(remote.size for remote in remotes)
        to_come = total - sum(arrived(root / remote.key, remote) for remote in remotes)
        check_room(root, to_come, f"{len(remotes)} files")
        lock, began = threading.Lock(), time.monotonic()
        with progress(total, "Fetching", start=total - to_come, unit="byte") as bar:

            def report(count: int) -> None:
                with lock:
                    rate = (bar.done + count - bar.start) / 1e6 / max(time.monotonic() - began, 1e-3)
                    bar.advance(count, **{"MB/s": max(0.0, rate)})

            def download(remote: Remote) -> None:
                target, sha256 = root / remote.key, known.get(remote.key, "")
                try:
                    note(remote, *self._download(remote, target, sha256, report))
                except WrongBytesError as error:
                    log.warning("%s. Fetching it once more from the start", error)
                    remote = self.find(remote.endpoint, remote.key)
                    note(remote, *self._download(remote, target, sha256, report))

            self._each(download, remotes)

    def _each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Call a function with each item, several at a time; the first error also ends the others."""
        with ThreadPoolExecutor(self.connections) as pool:
            jobs = [pool.submit(function, item) for item in items]
            try:
                for job in as_completed(jobs):
                    job.result()
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise
            return [job.result() for job in jobs]

    def _download(self, remote: Remote, target: Path, sha256: str, report: Callable[[int], None]) -> tuple[str, str]:
        """Download a file; return its SHA-256 and the comparison made. Wrong bytes are thrown away."""
        part = _part(target, remote)
        part.parent.mkdir(parents=True, exist_ok=True)
        for other in set(target.parent.glob(f"{glob.escape(target.name)}.*.part")) - {part}:
            log.warning("%s has changed since a part of it was fetched: fetching from the start", remote.key)
            other.unlink()
        try:
            with _locked(part) as file:
                file.truncate(arrived(target, remote))
                self._retry(remote.key, partial(self._stream, remote, file, report), file.tell)
                file.flush()
                digest, checked = compare(part, remote, sha256)
                with atomic_path(target) as temporary:
                    part.rename(temporary)
        except WrongBytesError:
            report(-part.stat().st_size)
            part.unlink()
            raise
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise _full_disk(remote.key, target.parent, remote.size - part.stat().st_size) from error
            raise
        return digest, checked

    def _stream(self, remote: Remote, file: BinaryIO, report: Callable[[int], None]) -> None:
        """Append the missing bytes of a part, in one request conditional on the object being the same."""
        start = file.seek(0, os.SEEK_END)
        if start == remote.size:
            return
        headers = {"Range": f"bytes={start}-", "If-Range": f'"{remote.etag}"'} if start else {}
        with self._ask("GET", remote.endpoint, remote.key, headers) as answer:
            etag = answer.headers.get("ETag", "").strip('"')
            if etag and etag != remote.etag:
                raise WrongBytesError(f"{remote.key} was replaced at {remote.endpoint} while it was being fetched")
            if answer.status_code == 206:
                expected = f"bytes {start}-{remote.size - 1}/{remote.size}"
                content_range = answer.headers.get("Content-Range", "no Content-Range")
                if content_range != expected:
                    raise _PassingError(f"sent {content_range} instead of {expected}")
            elif start:
                log.info("%s: %s only sends whole files, so it starts anew", remote.key, remote.endpoint)
                report(-start)
                file.truncate(start := file.seek(0))
            flushed = counted = start
            began = time.monotonic()
            for data in _chunks(answer):
                if self._stop.is_set():
                    raise FetchError(f"{remote.key}: stopped, since another file could not be fetched")
                if file.tell() + len(data) > remote.size:
                    raise WrongBytesError(
                        f"{remote.key}: {remote.endpoint} sends more than the {remote.size} bytes told"
                    )
                file.write(data)
                report(len(data))
                if time.monotonic() - began > PATIENCE:
                    if file.tell() - counted < SLOWEST * PATIENCE:
                        raise FetchError(
                            f"{remote.key}: given up, as only {file.tell() - counted} bytes came in {PATIENCE:.0f} s."
                            f" Allowed: {SLOWEST} bytes a second or more; bytes fetched so far are kept, and the same"
                            f" command goes on from there. Check the network and {self._source.setting}"
                        )
                    began, counted = time.monotonic(), file.tell()
                if file.tell() - flushed >= BLOCK_BYTES:
                    file.flush()
                    os.fsync(file.fileno())
                    flushed = file.tell()
        if file.tell() < remote.size:
            raise _PassingError(f"the answer ended {remote.size - file.tell()} bytes short")

    def _retry(self, key: str, action: Callable[[], Result], position: Callable[[], int] = lambda: 0) -> Result:
        """Repeat an action after failures that may pass; their count restarts once its position has grown."""
        failures, furthest = 0, position()
        while True:
            try:
                return action()
            except _PassingError as error:
                failures = 1 if position() > furthest else failures + 1
                furthest = max(furthest, position())
                if failures >= ATTEMPTS or self._stop.is_set():
                    raise FetchError(
                        f"{key}: given up after {failures} tries in a row without a new byte; the last ended with:"
                        f" {error}. Bytes fetched so far are kept, and the same command goes on from there. Check the"
                        f" network and {self._source.setting}, e.g. endpoint: {self._source.address}"
                    ) from error
                seconds = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (failures - 1)) * random.uniform(0.5, 1)
                log.info("%s: %s; next try in %.1f s", key, error, seconds)
                self._stop.wait(seconds)

    def _describe(self, endpoint: str, key: str) -> Remote:
        with self._ask("HEAD", endpoint, key, {}) as answer:
            size, etag = answer.headers.get("Content-Length", ""), answer.headers.get("ETag", "")
        if not re.fullmatch("[0-9]+", size) or not re.fullmatch('".+"', etag):
            raise FetchError(
                f"{key}: {endpoint} tells the size {size or 'not at all'} and the ETag {etag or 'not at all'};"
                " without both, an interrupted file cannot go on. Allowed: a server that sends Content-Length and a"
                ' strong ETag, as S3 does, e.g. ETag: "9b2cf535f27731c974343645a3985328"'
            )
        return Remote(endpoint, key, int(size), etag.strip('"'))

    def _ask(self, method: str, endpoint: str, key: str, headers: dict[str, str]) -> requests.Response:
        """Send a request; answers other than 200 and 206 are errors."""
        try:
            answer = self._session.request(
                method,
                f"{endpoint}/{quote(key)}",
                headers={"Accept-Encoding": "identity", **headers},  # the object's own bytes, not compressed on the way
                stream=True,
                timeout=TIMEOUT,
            )
        except requests.RequestException as error:
            raise _PassingError(f"no answer ({error})") from error
        hops = [step.url for step in (*answer.history, answer)]
        if endpoint.startswith("https://") and not all(hop.startswith("https://") for hop in hops):
            answer.close()
            raise FetchError(
                f"{key}: {endpoint} sends on to {hops[-1]}, where anybody on the way could change the bytes. Allowed:"
                f" an endpoint that stays with https://, e.g. {self._source.address}"
            )
        if len(hops) > 1:
            log.info("%s: %s sends on to %s", key, endpoint, hops[-1])
        status = answer.status_code
        if status in {200, 206}:
            return answer
        answer.close()
        at = f"{key}: {endpoint} answers {status}"
        if status >= 500 or status in {408, 429}:  # request timeout, too many requests
            raise _PassingError(f"{status} {answer.reason}")
        if status in {403, 404}:
            raise AbsentError(f"{at} ({answer.reason}). {self._source.absent}")
        if status == 416:
            raise WrongBytesError(f"{key} was replaced at {endpoint} by a shorter one while it was being fetched")
        raise FetchError(
            f"{at} ({answer.reason}), which is no answer of a public bucket. Allowed: 200 or 206; check"
            f" {self._source.setting}, e.g. endpoint: {self._source.address}"
        )


def _chunks(answer: requests.Response) -> Iterator[bytes]:
    """Yield the bytes of an answer as they come."""
    try:
        while data := answer.raw.read1(CHUNK_BYTES, decode_content=False):
            yield data
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _PassingError(f"the connection failed ({error})") from error


def _part(target: Path, remote: Remote) -> Path:
    """Return the name of the part of a version of a file."""
    return target.with_name(f"{target.name}.{hashlib.sha256(remote.etag.encode()).hexdigest()[:12]}.part")


def arrived(target: Path, remote: Remote) -> int:
    """Return the number of bytes of a file that need not be fetched again."""
    part = _part(target, remote)
    size = part.stat().st_size if part.is_file() else 0
    return max(0, size - 1) // BLOCK_BYTES * BLOCK_BYTES if size <= remote.size else 0


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """Open a part, unchanged, for this process alone; never another file, which a link of this name leads to."""
    try:
        file = open(part, "a+b", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))  # noqa: SIM115
    except OSError as error:
        if error.errno not in (errno.ELOOP, None):  # none: a pipe
            raise
        raise _led_astray(part) from None
    with file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise _led_astray(part)
        try:
            lock(file)
            alone = os.path.samefile(part, file.fileno())  # else another process has renamed it before the lock
        except (BlockingIOError, FileNotFoundError):
            alone = False
        if not alone:
            raise FetchError(
                f"{part} is being written by another process, which fetches the same file. Allowed: one at a time;"
                " wait for it, e.g. until the .part file is gone, and give the command again"
            )
        yield file


def _led_astray(part: Path) -> FetchError:
    return FetchError(
        f"{part} is a link or no file, which somebody else has laid there: what is fetched would overwrite another"
        " file. Allowed: a folder that only you and those you trust can write to; remove it, and give the command again"
    )


def compare(path: Path, remote: Remote, sha256: str = "") -> tuple[str, str]:
    """Compare a file's size with an object's, its SHA-256 with its known start, and its MD5 with the ETag.

    S3's ETag is the MD5 of an object that was uploaded at once. That of an upload in parts is the MD5 of their MD5s and
    their number; how large they were is not told, but follows from the number where the parts are many.

    Returns
    -------
    sha256 : str
        Of the file.
    checked : str
        The strongest comparison: ``sha256``, ``md5``, ``md5 of parts`` or ``size``.

    Raises
    ------
    WrongBytesError
        If they differ.
    """
    size = path.stat().st_size
    if size != remote.size:
        raise WrongBytesError(f"{remote.key}: {size} bytes came, expected {remote.size}; fetch it again")
    expected, hashes = {"sha256": sha256}, {"sha256": hashlib.sha256()}
    if re.fullmatch("[0-9a-f]{32}", remote.etag):
        expected["md5"], hashes["md5"] = remote.etag, hashlib.md5(usedforsecurity=False)
    parts = [_Parts(length) for length in _part_lengths(remote)]
    with open(path, "rb") as file:
        while data := file.read(2**22):
            for digest in (*hashes.values(), *parts):
                digest.update(data)
    digests = {kind: digest.hexdigest() for kind, digest in hashes.items()}
    etags = [part.hexdigest() for part in parts]
    if remote.etag in etags or (etags and parts[0].count > MANY_PARTS):
        digests["md5 of parts"] = remote.etag if remote.etag in etags else etags[0]
        expected["md5 of parts"] = remote.etag
    for kind, digest in digests.items():
        if not digest.startswith(expected[kind]):
            raise WrongBytesError(
                f"{remote.key}: {kind} {digest}, expected {expected[kind]}: the {size} bytes that came are not those at"
                " the endpoint, and are not used. Something between here and there changes bytes: allowed is the object"
                " as it is, e.g. over https:// and without a proxy; then give the same command again"
            )
    return digests["sha256"], next((kind for kind in expected if expected[kind]), "size")


class _Parts:
    """The ETag of an upload in parts of a length."""

    def __init__(self, length: int):
        self._length, self._filled, self.count = length, 0, 0
        self._joined, self._part = hashlib.md5(usedforsecurity=False), hashlib.md5(usedforsecurity=False)

    def update(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            taken = rest[: self._length - self._filled]
            self._part.update(taken)
            self._filled, rest = self._filled + len(taken), rest[len(taken) :]
            if self._filled == self._length:
                self._end_part()

    def _end_part(self) -> None:
        self._joined.update(self._part.digest())
        self._part, self._filled, self.count = hashlib.md5(usedforsecurity=False), 0, self.count + 1

    def hexdigest(self) -> str:
        if self._filled:
            self._end_part()
        return f"{self._joined.hexdigest()}-{self.count}"


def _part_lengths(remote: Remote) -> list[int]:
    """Return the lengths that the parts of an upload may have had, by its ETag; none where too many fit."""
    match = re.fullmatch("[0-9a-f]{32}-([0-9]{1,5})", remote.etag)
    count = int(match[1]) if match else 0
    if count < 1:
        return []
    least = -(-remote.size // count)
    most = (remote.size - 1) // (count - 1) if count > 1 else remote.size + USUAL_PART
    if least <= USUAL_PART <= most:
        return [USUAL_PART]
    fitting = range(-(-least // PART_UNIT) * PART_UNIT, most + 1, PART_UNIT)
    return list(fitting) if len(fitting) <= _MOST_LENGTHS else []


def check_room(folder: Path, needed: int, what: str) -> None:
    """Make sure that the disk that a folder lies on, or will lie on, has room for this many more bytes.

    Raises
    ------
    FetchError
        If not.
    """
    free = free_bytes(folder)
    log.info("%s: %.3f GB to come, %.1f GB free at %s", what, needed / 1e9, free / 1e9, folder)
    if needed > free:
        raise _full_disk(what, folder, needed)


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk that a folder lies on, or will lie on."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def _full_disk(what: str, folder: Path, needed: int) -> FetchError:
    return FetchError(
        f"No room for {what} on the disk of {folder}: {needed / 1e9:.3f} GB more are needed,"
        f" {free_bytes(folder) / 1e9:.3f} GB are free (or a quota is used up). What is there already is kept, and the"
        " same command goes on from there. Allowed: more room, fewer people or sessions, or a folder on another disk"
        " (section paths), e.g. paths: {nsd: /scratch/nsd}"
    )
