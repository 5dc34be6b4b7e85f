"""What was fetched or simulated: ``manifest.jsonl`` beside the data, a line a file, appended to by many processes."""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from neuropictor.fetching.bucket import FetchError
from neuropictor.records.checksums import WHOLE_HASH_LIMIT, DamagedFileError, checksum
from neuropictor.records.progress import progress

log = logging.getLogger(__name__)

NAME = "manifest.jsonl"


@dataclass(frozen=True)
class Entry:
    """A fetched file: its key, size in bytes, ETag, sha256, when it was fetched, and how it was checked then."""

    key: str
    size: int
    etag: str
    sha256: str
    time: str
    checked: str


@dataclass(frozen=True)
class Verified:
    """Keys of files that are still as they were fetched, that are gone, and what is wrong with the others."""

    right: list[str]
    gone: list[str]
    wrong: list[str]


def append(root: Path, entry: Entry) -> None:
    """Add a line; safe while others do the same, and after a process was killed within a line."""
    line = json.dumps(asdict(entry)).encode() + b"\n"
    root.mkdir(parents=True, exist_ok=True)
    file = os.open(root / NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = os.fstat(file).st_size
        if end and os.pread(file, 1, end - 1) != b"\n":
            line = b"\n" + line
        os.write(file, line)
        os.fsync(file)
    finally:
        os.close(file)


def read(root: Path) -> dict[str, Entry]:
    """Return the last entry of each key; empty where nothing has been fetched."""
    path = root / NAME
    if not path.is_file():
        return {}
    found, names = {}, {field.name for field in fields(Entry)}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            values = json.loads(line)
            entry = Entry(**{name: values[name] for name in names})
        except (ValueError, KeyError, TypeError):
            log.warning("%s, line %d is cut off or damaged, and left out", path, number)
            continue
        found[entry.key] = entry
    return found


def note_simulated(root: Path, keys: Iterable[str]) -> None:
    """Add simulated files as they are now, so that the stages that read them notice damage."""
    for key in keys:
        digest = checksum(root / key).partition(":")[2]
        append(root, Entry(key, (root / key).stat().st_size, "", digest, "", "simulated"))


def check(root: Path, paths: Iterable[Path]) -> None:
    """Compare files with their lines in the manifest before they are used; those without one pass.

    Files above `WHOLE_HASH_LIMIT`, which would take minutes, are compared by size.

    Raises
    ------
    DamagedFileError
        Naming the first file that differs.
    """
    known = read(root)
    for path in paths:
        entry = known.get(path.relative_to(root).as_posix()) if path.is_file() else None
        if entry is None:
            continue
        size = path.stat().st_size
        if size != entry.size:
            found, wanted = f"{size} bytes", f"{entry.size}"
        elif size <= WHOLE_HASH_LIMIT and checksum(path) != f"sha256:{entry.sha256}":
            found, wanted = checksum(path)[:19], entry.sha256[:12]
        else:
            continue
        raise DamagedFileError(
            f"{path} is not what was fetched or simulated: {found} found, {wanted} in {root / NAME}. Allowed: the file "
            "as it came. Remove it and run snakemake again, which fetches or simulates it anew"
        )


def verify(root: Path) -> Verified:
    """Read every file of the manifest again and compare its size and sha256.

    Raises
    ------
    FetchError
        If there is no manifest.
    """
    entries = list(read(root).values())
    if not entries:
        raise FetchError(
            f"{root / NAME} is missing or empty, so there is nothing to compare with. Allowed: a folder that"
            " `neuropictor fetch` or the rules fetch_* have filled, e.g. --nsd data/real/nsd"
        )
    verified = Verified([], [], [])
    present = [entry for entry in entries if (root / entry.key).is_file()]
    verified.gone.extend(entry.key for entry in entries if entry not in present)
    with progress(sum(entry.size for entry in present), "Verifying", unit="byte") as bar:
        for entry in present:
            problem = _compared(root / entry.key, entry)
            if problem:
                verified.wrong.append(f"{entry.key}: {problem}")
            else:
                verified.right.append(entry.key)
            bar.advance(entry.size)
    return verified


def _compared(path: Path, entry: Entry) -> str:
    size = path.stat().st_size
    if size != entry.size:
        return f"{size} bytes, {entry.size} were fetched; remove it and fetch it again"
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return "" if found == entry.sha256 else f"sha256 {found}, fetched {entry.sha256}; remove it and fetch it again"
