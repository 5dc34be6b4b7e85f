"""A bucket's files in a folder, below the same keys, each with a line in the manifest once it has been compared."""

import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from neuropictor.fetching import manifest
from neuropictor.fetching.download import Client, Remote, WrongBytesError, arrived, check_room, compare
from neuropictor.records.files import atomic_path

log = logging.getLogger(__name__)


def fetch_missing(client: Client, remotes: Sequence[Remote], root: Path) -> None:
    """Download the files that are missing, and note them in the manifest.

    Raises
    ------
    FetchError
        If one could not be fetched; its part is kept for the next time, and others are complete or absent.
    """
    known = manifest.read(root)
    missing = [remote for remote in remotes if not _is_there(root, remote, known.get(remote.key))]
    if not missing:
        log.info("All %d files are there already.", len(remotes))
        return
    again = [remote.key for remote in missing if remote.key in known and known[remote.key].etag == remote.etag]
    digests = {key: known[key].sha256 for key in again}
    client.download(missing, root, digests, partial(_note, root))


def bytes_to_come(root: Path, remote: Remote) -> int:
    """Return the bytes that a file still needs on disk."""
    target = root / remote.key
    complete = target.is_file() and target.stat().st_size == remote.size
    return 0 if complete else remote.size - arrived(target, remote)


def write_plan(remotes: Sequence[Remote], needed: int, root: Path, out: str | Path) -> None:
    """Make sure that there is room for so many bytes more, and write what is to be fetched.

    Parameters
    ----------
    remotes
        All files.
    needed
        Bytes that they need at most at a time.
    root
        Folder that they will lie in.
    out
        JSON to write: key, size and ETag of each file, and the bytes needed.

    Raises
    ------
    FetchError
        If there is too little room.
    """
    check_room(root, needed, f"{len(remotes)} files")
    files = [{"key": remote.key, "size": remote.size, "etag": remote.etag} for remote in remotes]
    with atomic_path(out) as temporary:
        temporary.write_text(json.dumps({"bytes_needed": needed, "files": files}, indent=1) + "\n", encoding="utf-8")


def _is_there(root: Path, remote: Remote, entry: manifest.Entry | None) -> bool:
    """Tell whether a file has been fetched; one from elsewhere is compared with the endpoint's."""
    target = root / remote.key
    if not target.is_file():
        return False
    if entry and (target.stat().st_size, entry.etag) == (remote.size, remote.etag):
        return True
    log.info("%s is not in the manifest: comparing it with the endpoint's", target)
    try:
        _note(root, remote, *compare(target, remote))
    except WrongBytesError as error:
        log.warning("%s is replaced, as it is not what the endpoint has: %s", target, error)
        return False
    return True


def _note(root: Path, remote: Remote, sha256: str, checked: str) -> None:
    manifest.note(root, remote.key, sha256, remote.etag, checked)
