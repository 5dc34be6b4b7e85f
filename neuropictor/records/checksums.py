"""Checksums of files, and checks that a file is still the one its stage wrote. Standard library only."""

import hashlib
import json
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

#: Bytes above which a file is identified by size, head and tail: hashing all of NSD's images would take minutes.
WHOLE_HASH_LIMIT = 4 * 2**30
_EDGE = 16 * 2**20
#: Files in a stage's folder that are not results.
_PASSING = ("checkpoints", "tensorboard", "work")


class DamagedFileError(ValueError):
    """A file differs from the one that its stage wrote, by the record beside it."""


def checksum(path: str | Path) -> str:
    """Return ``sha256:...`` of a file or folder; above 4 GiB ``sha256-edges:...`` of its size, head and tail.

    A file that several parts of a stage ask for is read once: within a process it is identified by path, size, time of
    change and inode.

    Raises
    ------
    FileNotFoundError
        If `path` does not exist.
    """
    path = Path(path)
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(item for item in path.rglob("*") if item.is_file()):
            digest.update(f"{file.relative_to(path)} {checksum(file)}\n".encode())
        return f"sha256:{digest.hexdigest()}"
    status = path.stat()
    return _of_file(path.absolute(), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


@cache
def _of_file(path: Path, size: int, modified: int, changed: int, inode: int) -> str:
    with open(path, "rb") as file:
        if size <= WHOLE_HASH_LIMIT:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        digest = hashlib.sha256(f"{size}".encode() + file.read(_EDGE))
        file.seek(-_EDGE, os.SEEK_END)
        digest.update(file.read())
    return f"sha256-edges:{digest.hexdigest()}"


def of_outputs(outputs: Iterable[str | Path], record: Path) -> dict[str, str]:
    """Return checksums of files, and of all in folders, by their names relative to the record's folder."""
    checksums = {}
    for path in map(Path, outputs):
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in inside:
            name = Path(os.path.relpath(file, record.parent))
            if file.is_file() and file != record and not set(name.parts) & set(_PASSING):
                checksums[name.as_posix()] = checksum(file)
    return checksums


def verify(*paths: str | Path) -> None:
    """Compare files, and all in folders, with the records of the stages that wrote them; those without one pass.

    Raises
    ------
    DamagedFileError
        Naming the first file that differs, its record, and what to do.
    FileNotFoundError
        If one of `paths` does not exist, or a file of a folder is gone.
    """
    for path in map(Path, paths):
        if path.is_dir():
            _verify_folder(path)
        else:
            _verify_file(path)


def _verify_file(path: Path) -> None:
    folder = path.parent
    # The record of a subfolder (refine/sub-01/encoder/) is in the stage's folder.
    for record in [path.with_suffix(".run.json"), *folder.glob("*run.json"), folder.parent / "run.json"]:
        recorded = _outputs(record).get(path.relative_to(record.parent).as_posix())
        if recorded is not None:
            _compare(path, recorded, record)
            return


def _verify_folder(folder: Path) -> None:
    for record in (folder / "run.json", folder.parent / "run.json"):
        for name, recorded in _outputs(record).items():
            path = record.parent / name
            if path.is_relative_to(folder):
                _compare(path, recorded, record)


def _outputs(record: Path) -> dict[str, str]:
    if not record.is_file():
        return {}
    try:
        outputs = json.loads(record.read_text(encoding="utf-8")).get("outputs", {})
        if not isinstance(outputs, dict) or not all(isinstance(digest, str) for digest in outputs.values()):
            raise TypeError
        return outputs
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise DamagedFileError(
            f"{record} is damaged: it is not the JSON that its stage wrote. Remove it and what it belongs to, and run "
            "snakemake again"
        ) from None


def _compare(path: Path, recorded: str, record: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, which {record} lists; run snakemake again to make it anew")
    actual = checksum(path)
    if actual != recorded:
        raise DamagedFileError(
            f"{path} is not what its stage wrote: {actual[:19]}... found, {recorded[:19]}... recorded in {record}. "
            "Allowed: the file as it was written. Remove it and run snakemake again, which makes it anew; to use it "
            "all the same, remove the record"
        )
