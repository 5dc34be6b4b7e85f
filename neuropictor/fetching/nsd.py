"""Fetch NSD's files from its public bucket: in ranges over several connections, resumed after any interruption.

A file gets its own name only after its size and ETag have been checked, and a line in the manifest beside the data.
"""

import hashlib
import json
import logging
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from neuropictor.config import NsdConfig
from neuropictor.fetching import manifest
from neuropictor.fetching.agreement import check_root, check_terms
from neuropictor.fetching.bucket import (
    AbsentError,
    Attempts,
    Bucket,
    FetchError,
    ObjectChangedError,
    PassingError,
    Remote,
    Retries,
)
from neuropictor.fetching.etag import WrongBytesError, check
from neuropictor.fetching.part_file import PartFile, forget_state, free_bytes, full_disk, left_behind
from neuropictor.nsd import keys
from neuropictor.nsd.constants import HEMISPHERES, SESSIONS
from neuropictor.records.files import atomic_path
from neuropictor.records.progress import Progress, progress

log = logging.getLogger(__name__)

#: Bytes a request: of 64 requests for a file of betas, a kill loses at most those under way.
RANGE_BYTES = 8 * 2**20
#: COCO's archives, and the files in them that are used.
ARCHIVES = {
    "annotations/annotations_trainval2017.zip": ("captions", "instances"),
    "annotations/stuff_annotations_trainval2017.zip": ("stuff",),
}
Kind = Literal["design", "pictures", "betas"]


def keys_of(
    kinds: Iterable[Kind], subjects: Iterable[int], sessions: Sequence[int] | None, beta_version: str
) -> list[str]:
    """List the keys of some kinds of files.

    Parameters
    ----------
    kinds
        design: order of trials and picture table; pictures: all 73,000 (39.6 GB); betas: of each subject, 0.98 GB a
        session.
    subjects
        1..8.
    sessions
        From 1; default: all that each subject has.
    beta_version
        Of betas.

    Raises
    ------
    ValueError
        If a subject or session does not exist.
    """
    found, kinds = [], set(kinds)
    if "design" in kinds:
        found += [keys.EXPERIMENT_DESIGN, keys.STIMULUS_INFO]
    for subject in subjects:
        name, last = keys.subject_name(subject), SESSIONS[subject]
        beyond = [session for session in sessions or [] if not 1 <= session <= last]
        if beyond:
            raise ValueError(f"session {beyond[0]} of {name} does not exist; allowed: 1 to {last} (e.g. 1)")
        if "betas" in kinds:
            chosen = sessions or range(1, last + 1)
            found += [keys.betas(subject, session, side, beta_version) for session in chosen for side in HEMISPHERES]
    if "pictures" in kinds:
        found.append(keys.STIMULI)
    return found


def fetch(
    wanted: Sequence[str],
    root: str | Path,
    config: NsdConfig,
    retries: Retries | None = None,
    range_bytes: int = RANGE_BYTES,
) -> None:
    """Fetch files that are not there yet.

    Parameters
    ----------
    wanted
        Keys as in NSD's bucket.
    root
        Folder in NSD's layout; made if needed.
    config
        `endpoint`, `connections` and `terms_accepted` are used.
    retries, range_bytes
        How patient to be, and bytes a request.

    Raises
    ------
    AgreementError
        If NSD's terms are not accepted.
    FetchError
        If a file could not be fetched; what came of it is kept for the next time, and others are whole or not there.
    """
    check_terms(config.terms_accepted)
    root, bucket = Path(root), Bucket(config.endpoint, config.connections, retries)
    _mark(root, bucket, config)
    _fetch_objects(bucket, bucket.find_all(wanted), root, range_bytes)


def plan_fetch(
    kept: Sequence[str], passing: Sequence[str], at_once: int, root: str | Path, config: NsdConfig, out: str | Path
) -> None:
    """Find all files of a workflow at the endpoint, and make sure that there is room, before the first is fetched.

    COCO's annotations count as well, unless they are there.

    Parameters
    ----------
    kept
        Keys of files that stay.
    passing
        Keys of files that are removed after use.
    at_once
        How many of those may be there at the same time.
    root, config
        As for `fetch`.
    out
        JSON to write: key, size and ETag of each file, and the bytes needed.

    Raises
    ------
    AgreementError, FetchError
        As `fetch`, and if the disk has too little room.
    """
    check_terms(config.terms_accepted)
    root, bucket = Path(root), Bucket(config.endpoint, config.connections)
    _mark(root, bucket, config)
    stay, pass_by = bucket.find_all(kept), bucket.find_all(passing)
    # Unpacked, what is used of COCO's archives is about as large as they are.
    archives = Bucket(config.coco_endpoint, config.connections).find_all(_archives_to_come(root))
    needed = sum(_bytes_to_come(root, remote) for remote in stay) + 2 * sum(remote.size for remote in archives)
    needed += sum(sorted((remote.size for remote in pass_by), reverse=True)[:at_once])
    _check_room(root, needed, f"{len(stay) + len(pass_by) + len(archives)} files")
    files = [vars(remote) for remote in [*stay, *pass_by, *archives]]
    with atomic_path(out) as temporary:
        temporary.write_text(json.dumps({"bytes_needed": needed, "files": files}, indent=1) + "\n", encoding="utf-8")


def fetch_annotations(root: str | Path, config: NsdConfig, retries: Retries | None = None) -> None:
    """Fetch COCO's archives of annotations and unpack what is used of them.

    Raises
    ------
    FetchError
        As `fetch`, and if an archive lacks a file.
    """
    root, bucket = Path(root), Bucket(config.coco_endpoint, config.connections, retries)
    for remote in bucket.find_all(_archives_to_come(root)):
        _fetch_objects(bucket, [remote], root, RANGE_BYTES)
        archive = root / remote.key
        with zipfile.ZipFile(archive) as packed:
            members = {Path(info.filename).name: info for info in packed.infolist()}
            targets = _unpacked(root, ARCHIVES[remote.key])
            lacking = [target.name for target in targets if target.name not in members]
            if lacking:
                raise FetchError(
                    f"{archive} lacks {lacking[0]}; allowed: COCO's archive of 2017 as it is at"
                    f" {NsdConfig().coco_endpoint}; check nsd.coco_endpoint"
                )
            _check_room(root, sum(members[target.name].file_size for target in targets), remote.key)
            for target in targets:
                with (
                    packed.open(members[target.name]) as source,
                    atomic_path(target) as temporary,
                    open(temporary, "wb") as file,
                ):
                    shutil.copyfileobj(source, file, 2**20)
                with open(target, "rb") as file:
                    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                part = Remote(target.relative_to(root).as_posix(), target.stat().st_size, remote.etag)
                _record(root, part, sha256, f"crc32 in {archive.name}")
        archive.unlink()


def _archives_to_come(root: Path) -> list[str]:
    """List the archives of which something is not there yet."""
    return [key for key, kinds in ARCHIVES.items() if not all(path.is_file() for path in _unpacked(root, kinds))]


def _unpacked(root: Path, kinds: Sequence[str]) -> list[Path]:
    return [root / keys.annotations(kind, split) for kind in kinds for split in keys.COCO_SPLITS]


def _mark(root: Path, bucket: Bucket, config: NsdConfig) -> None:
    """Keep real and simulated data apart; take the mark along that tells simulated ones."""
    simulated = None
    if config.endpoint != NsdConfig().endpoint:
        try:
            simulated = bucket.find(keys.SIMULATED)
        except AbsentError:
            log.info("%s has no %s: it is taken for a mirror of NSD itself", config.endpoint, keys.SIMULATED)
    check_root(root, simulated is not None)
    if simulated and not keys.is_simulated(root):
        _fetch_objects(bucket, [simulated], root, RANGE_BYTES)


def _fetch_objects(bucket: Bucket, remotes: list[Remote], root: Path, range_bytes: int) -> None:
    known = manifest.read(root)
    todo = [remote for remote in remotes if not _is_there(root, remote, known.get(remote.key), bucket)]
    if not todo:
        log.info("All %d files are there already.", len(remotes))
        return
    total, to_come = sum(remote.size for remote in todo), sum(_bytes_to_come(root, remote) for remote in todo)
    _check_room(root, to_come, f"{len(todo)} files")
    began = time.monotonic()
    with progress(total, "Fetching", start=total - to_come, unit="byte") as bar:
        report = reporter(bar, began)
        for remote in todo:
            _fetch_object(bucket, remote, root, range_bytes, report)


def reporter(bar: Progress, began: float) -> Callable[[int], None]:
    """Make a function that threads may call with the bytes that have come."""
    lock = threading.Lock()

    def report(count: int) -> None:
        with lock:
            rate = (bar.done + count - bar.start) / 1e6 / max(time.monotonic() - began, 1e-3)
            bar.advance(count, **{"MB/s": max(0.0, rate)})

    return report


def _bytes_to_come(root: Path, remote: Remote) -> int:
    """Return the bytes that an object still needs on disk."""
    target = root / remote.key
    if target.is_file() and target.stat().st_size == remote.size:
        return 0
    return remote.size - sum(stop - start for start, stop in left_behind(target, remote)[0])


def _check_room(root: Path, needed: int, what: str) -> None:
    free = free_bytes(root)
    log.info("%s: %.3f GB to come, %.1f GB free at %s", what, needed / 1e9, free / 1e9, root)
    if needed > free:
        raise full_disk(what, root, needed)


def _is_there(root: Path, remote: Remote, entry: manifest.Entry | None, bucket: Bucket) -> bool:
    """Tell whether a file has been fetched; one that was put there otherwise is compared with the endpoint's."""
    target = root / remote.key
    if not target.is_file():
        return False
    if entry and (target.stat().st_size, entry.etag) == (remote.size, remote.etag):
        forget_state(target)
        return True
    log.info("%s is not in the manifest: comparing it with the endpoint's", target)
    try:
        checked = check(target, remote, _part_size(bucket, remote))
    except WrongBytesError as error:
        log.warning("%s is replaced, as it is not what the endpoint has: %s", target, error)
        return False
    forget_state(target)
    _record(root, remote, checked.sha256, checked.by)
    return True


def _fetch_object(bucket: Bucket, remote: Remote, root: Path, range_bytes: int, report: Callable[[int], None]) -> None:
    target = root / remote.key
    for last in (False, True):
        with PartFile(target, remote) as part:
            try:
                fill(bucket, part, range_bytes, report)
                checked = check(part.path, remote, _part_size(bucket, remote))
            except ObjectChangedError:
                part.discard()
                raise
            except WrongBytesError as error:
                part.discard()
                if last:
                    raise
                log.warning("%s. Fetching it once more.", error)
                report(-remote.size)
                continue
            part.finish()
        _record(root, remote, checked.sha256, checked.by)
        return


def fill(bucket: Bucket, part: PartFile, range_bytes: int, report: Callable[[int], None]) -> None:
    """Fetch all that is missing, over several connections."""
    stop = threading.Event()
    with ThreadPoolExecutor(bucket.connections) as pool:
        ranges = part.missing(range_bytes)
        jobs = [pool.submit(_fetch_range, bucket, part, start, end, stop, report) for start, end in ranges]
        try:
            for job in as_completed(jobs):
                job.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _fetch_range(
    bucket: Bucket, part: PartFile, start: int, end: int, stop: threading.Event, report: Callable[[int], None]
) -> None:
    """Fetch one range, going on from the last byte that came; what came is noted, however it ends."""
    position, attempts = start, Attempts(part.remote.key, bucket.retries, stop)
    try:
        while position < end and not stop.is_set():
            try:
                for data in bucket.read(part.remote, position, end):
                    piece = data[: end - position]
                    part.write(piece, position)
                    position += len(piece)
                    report(len(piece))
                    attempts.went_on()
                    if stop.is_set():
                        break
                else:
                    if position < end:
                        raise PassingError(f"the answer ended {end - position} bytes short")
            except PassingError as error:
                attempts.failed(error)
    finally:
        part.keep(start, position)


def _part_size(bucket: Bucket, remote: Remote) -> int | None:
    parts = remote.etag.rpartition("-")[2]
    return bucket.part_size(remote, int(parts)) if "-" in remote.etag and parts.isdigit() else None


def _record(root: Path, remote: Remote, sha256: str, checked: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    manifest.append(root, manifest.Entry(remote.key, remote.size, remote.etag, sha256, now, checked))
