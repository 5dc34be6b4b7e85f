"""Whether a file is what its ETag stands for."""

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from neuropictor.fetching.bucket import FetchError, Remote

log = logging.getLogger(__name__)

_MIB = 2**20
#: Sizes of parts that uploading programs use, in MiB: AWS' own 8 and 16, others' 5, 10, 15 and so on.
USUAL_PARTS = (5, 8, 10, 15, 16, 20, 25, 32, 50, 64, 100, 128, 250, 256, 500, 512, 1024)
_READ_BYTES = 4 * _MIB


class WrongBytesError(FetchError):
    """All bytes came, but not those that the ETag stands for."""


@dataclass(frozen=True)
class Checked:
    """A file's checksum, and what was made sure of: ``md5``, ``md5 of parts``, or ``size`` alone."""

    sha256: str
    by: str


def check(path: Path, remote: Remote, part_size: int | None) -> Checked:
    """Compare a file with an object's size and ETag.

    S3's ETag is the MD5 of an object uploaded at once, and the MD5 of its parts' MD5s (and their number) else. Where
    the size of the parts is not known, all usual ones that make this number of parts are tried.

    Parameters
    ----------
    part_size
        Bytes of a part as told by the endpoint, if it did.

    Raises
    ------
    WrongBytesError
        If they differ. An ETag that stands for nothing that can be computed only gives a warning.
    """
    size = path.stat().st_size
    if size != remote.size:
        raise WrongBytesError(f"{remote.key}: {size} bytes came, expected {remote.size}; fetch it again")
    kind = re.fullmatch(r"([0-9a-f]{32})(?:-([1-9]\d*))?", remote.etag)
    if not kind:
        sizes, sure = [], False
    elif kind[2] is None:
        sizes, sure = [None], True
    else:
        sizes = [part_size] if part_size else part_sizes(size, int(kind[2]))
        sure = part_size is not None
    hashers = [_PartedMd5(part) for part in sizes]
    whole = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(_READ_BYTES):
            whole.update(data)
            for hasher in hashers:
                hasher.update(data)
    found = [hasher.etag() for hasher in hashers]
    if remote.etag in found:
        return Checked(whole.hexdigest(), "md5" if sizes == [None] else "md5 of parts")
    if sure:
        raise WrongBytesError(
            f"{remote.key}: the {size} bytes that came are not those at the endpoint: MD5 {found[0]}, expected"
            f" {remote.etag} (ETag). They have been removed. Something between here and there changes bytes: allowed is"
            " the object as it is, e.g. over https:// and without a proxy; then give the same command again"
        )
    log.warning(
        "%s: its ETag %s cannot be recomputed (parts of unknown size); only its size, %d bytes, could be checked,"
        " and its sha256 is recorded",
        remote.key,
        remote.etag,
        size,
    )
    return Checked(whole.hexdigest(), "size")


def part_sizes(size: int, parts: int) -> list[int]:
    """Return the usual sizes that cut a file into so many parts; where only few whole MiB do, all of those."""
    # The largest part p has (parts - 1) p < size <= parts p.
    least, most = -(-size // parts), (size - 1) // (parts - 1) if parts > 1 else size
    whole = range(-(-least // _MIB), most // _MIB + 1)
    chosen = whole if len(whole) <= len(USUAL_PARTS) else [part for part in USUAL_PARTS if part in whole]
    # An upload of one part only: its size does not matter.
    return [part * _MIB for part in chosen] or ([size] if parts == 1 and size else [])


class _PartedMd5:
    """S3's ETag of a file uploaded in parts of a given size, or at once (None)."""

    def __init__(self, part_size: int | None):
        self.part_size = part_size
        self._parts: list[bytes] = []
        self._current, self._filled = hashlib.md5(usedforsecurity=False), 0

    def update(self, data: bytes) -> None:
        if self.part_size is None:
            self._current.update(data)
            return
        view = memoryview(data)
        while view:
            piece = view[: self.part_size - self._filled]
            self._current.update(piece)
            self._filled += len(piece)
            view = view[len(piece) :]
            if self._filled == self.part_size:
                self._close()

    def etag(self) -> str:
        if self.part_size is None:
            return self._current.hexdigest()
        if self._filled:
            self._close()
        whole = hashlib.md5(b"".join(self._parts), usedforsecurity=False)
        return f"{whole.hexdigest()}-{len(self._parts)}"

    def _close(self) -> None:
        self._parts.append(self._current.digest())
        self._current, self._filled = hashlib.md5(usedforsecurity=False), 0
