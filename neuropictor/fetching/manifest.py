"""What was fetched or simulated: ``manifest.jsonl`` beside the data, a line a file, appended to by many processes."""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from neuropictor.records.checksums import WHOLE_HASH_LIMIT, DamagedFileError, checksum
from neuropictor.records.progress import progress

log = logging.getLogger(__name__)

NAME = "manifest.jsonl"


@dataclass(frozen=True)
class Entry:
    """A fetched file: its key, size in bytes, ETag, sha256, time of fetching, and the check made then."""

    key: str
    size: int
    etag: str
    sha256: str
    time: str
    checked: str


@dataclass(frozen=True)
class Verified:
    """Keys of files that are unchanged since they were fetched or are gone, and the faults of the others."""

    right: list[str]
    gone: list[str]
    wrong: list[str]


def note(root: Path, key: str, sha256: str, etag: str, checked: str) -> None:
    """Add a line for an existing file; safe while others do the same, and after a kill within a line."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    line = json.dumps(asdict(Entry(key, (root / key).stat().st_size, etag, sha256, now, checked))).encode() + b"\n"
    with open(root / NAME, "a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
            line = b"\n" + line
        file.write(line)
        os.fsync(file.fileno())


def read(root: Path) -> dict[str, Entry]:
    """Return the last entry of each key; empty where nothing has been fetched."""
    path = root / NAME
    entries: dict[str, Entry] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.is_file() else [], 1):
        try:
            values = json.loads(line)
            entry = Entry(**{field.name: values[field.name] for field in fields(Entry)})
        except (ValueError, KeyError, TypeError):
            log.warning("%s, line %d is cut off or damaged, and left out", path, number)
            continue
        entries[entry.key] = entry
    return entries


def note_simulated(root: Path, keys: Iterable[str]) -> None:
    """Add simulated files in their present state, so that the stages that read them notice damage."""
    for key in keys:
        note(root, key, checksum(root / key).partition(":")[2], "", "simulated")


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
        entry = known.get(path.relative_to(root).as_posix())
        if entry and path.is_file() and (difference := _difference(path, entry, large_too=False)):
            raise DamagedFileError(
                f"{path} is not what was fetched or simulated: {difference} in {root / NAME}. Allowed: the file as it "
                "came. Remove it and run snakemake again, which fetches or simulates it anew"
            )


def verify(root: Path) -> Verified:
    """Read every file of the manifest again and compare its size and sha256.

    Raises
    ------
    FileNotFoundError
        If there is no manifest.
    """
    entries = read(root)
    if not entries:
        raise FileNotFoundError(
            f"{root / NAME} is missing or empty, so there is nothing to compare with. Allowed: a folder that"
            " `neuropictor fetch` or the rules fetch_* have filled, e.g. --nsd data/real/nsd"
        )
    verified = Verified([], [], [])
    with progress(sum(entry.size for entry in entries.values()), "Verifying", unit="byte") as bar:
        for key, entry in entries.items():
            if not (root / key).is_file():
                verified.gone.append(key)
            elif difference := _difference(root / key, entry):
                verified.wrong.append(f"{key}: {difference} were fetched; remove it and fetch it again")
            else:
                verified.right.append(key)
            bar.advance(entry.size)
    return verified


def _difference(path: Path, entry: Entry, large_too: bool = True) -> str:
    """Say how a file differs from its entry; empty if it does not."""
    size = path.stat().st_size
    if size != entry.size:
        return f"{size} bytes, {entry.size} bytes"
    if size <= WHOLE_HASH_LIMIT or entry.checked == "simulated":
        digest = checksum(path).partition(":")[2]
    elif large_too:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        return ""
    return "" if digest == entry.sha256 else f"sha256 {digest[:12]}, {entry.sha256[:12]}"
