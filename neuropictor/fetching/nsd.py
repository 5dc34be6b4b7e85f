"""Fetch NSD's files from its public bucket, and COCO's annotations, into a folder in NSD's layout.

Each file gets a line in the manifest beside the data once its size and checksum have been compared.
"""

import logging
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from neuropictor.config import NsdConfig
from neuropictor.fetching import manifest
from neuropictor.fetching.agreement import check_root, check_terms
from neuropictor.fetching.download import AbsentError, Client, FetchError, Remote, check_room
from neuropictor.fetching.folder import bytes_to_come, fetch_missing, write_plan
from neuropictor.nsd import keys
from neuropictor.nsd.constants import HEMISPHERES, SESSIONS
from neuropictor.records.checksums import checksum
from neuropictor.records.files import atomic_path

log = logging.getLogger(__name__)

#: COCO's archives, and the kinds of annotations used from them.
ARCHIVES = {
    "annotations/annotations_trainval2017.zip": ("captions", "instances"),
    "annotations/stuff_annotations_trainval2017.zip": ("stuff",),
}
#: Bytes of the longest annotation file that is unpacked; COCO's have some 700 MB.
LARGEST = 2 * 10**9


def keys_of(
    kinds: Iterable[str],
    subjects: Iterable[int],
    sessions: Sequence[int] | None,
    beta_version: str,
) -> list[str]:
    """List the keys of some kinds of files.

    Parameters
    ----------
    kinds
        design: order of trials and table of images; images: all 73,000 images (39.6 GB); betas: of each subject,
        0.98 GB a session; others have no keys.
    subjects
        1..8.
    sessions
        From 1; default: all of each subject.
    beta_version
        Of betas.

    Raises
    ------
    ValueError
        If a subject or session does not exist.
    """
    names, kinds = [], set(kinds)
    if "design" in kinds:
        names += [keys.EXPERIMENT_DESIGN, keys.STIMULUS_INFO]
    for subject in subjects:
        name, last = keys.subject_name(subject), SESSIONS[subject]
        beyond = [session for session in sessions or [] if not 1 <= session <= last]
        if beyond:
            raise ValueError(f"session {beyond[0]} of {name} does not exist; allowed: 1 to {last} (e.g. 1)")
        if "betas" in kinds:
            chosen = sessions or range(1, last + 1)
            names += [keys.betas(subject, session, side, beta_version) for session in chosen for side in HEMISPHERES]
    if "images" in kinds:
        names.append(keys.STIMULI)
    return names


def fetch(file_keys: Sequence[str], root: str | Path, config: NsdConfig) -> None:
    """Fetch files that are missing.

    Parameters
    ----------
    file_keys
        As in NSD's bucket.
    root
        Folder in NSD's layout; made if needed.
    config
        `endpoint`, `connections` and `terms_accepted` are used.

    Raises
    ------
    AgreementError
        If NSD's terms are not accepted.
    FetchError
        If a file could not be fetched; its part is kept for the next time, and others are complete or absent.
    """
    check_terms(config.terms_accepted)
    root, client = Path(root), Client(config.connections)
    _mark(root, client, config)
    fetch_missing(client, client.find_all(config.endpoint, file_keys), root)


def plan_fetch(
    kept: Sequence[str], passing: Sequence[str], at_once: int, root: str | Path, config: NsdConfig, out: str | Path
) -> None:
    """Find all files of a workflow at the endpoint, and make sure that there is room for them, before fetching any.

    COCO's annotations count too, unless they exist.

    Parameters
    ----------
    kept
        Keys of files that stay.
    passing
        Keys of files that are removed after use.
    at_once
        How many of `passing` may exist at the same time.
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
    root, client = Path(root), Client(config.connections)
    _mark(root, client, config)
    stay, removed = (client.find_all(config.endpoint, names) for names in (kept, passing))
    archives = client.find_all(config.coco_endpoint, _archives_to_come(root))
    # The annotations used take about as much space unpacked as COCO's archives.
    needed = sum(bytes_to_come(root, remote) for remote in stay) + 2 * sum(remote.size for remote in archives)
    needed += sum(sorted((remote.size for remote in removed), reverse=True)[:at_once])
    write_plan([*stay, *removed, *archives], needed, root, out)


def fetch_annotations(root: str | Path, config: NsdConfig) -> None:
    """Fetch COCO's archives of annotations and unpack the files used.

    Raises
    ------
    FetchError
        As `fetch`, and if an archive lacks a file.
    """
    root, client = Path(root), Client(config.connections)
    remotes = client.find_all(config.coco_endpoint, _archives_to_come(root))
    fetch_missing(client, remotes, root)
    for remote in remotes:
        archive = root / remote.key
        try:
            _unpack(archive, root, remote)
        except FetchError:
            raise  # no room: the archive stays
        except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
            archive.unlink()
            raise FetchError(
                f"{archive} cannot be unpacked ({error}), though it came as it is at {config.coco_endpoint}; it was"
                f" removed. Allowed: COCO's archive of 2017 as it is at {NsdConfig().coco_endpoint}; check"
                " nsd.coco_endpoint, and give the same command again"
            ) from error
        archive.unlink()


def _unpack(archive: Path, root: Path, remote: Remote) -> None:
    """Write the files used of one of COCO's archives, each with a line in the manifest."""
    targets = {f"{keys.ANNOTATION_FOLDER}/{path.name}": path for path in _unpacked(root, remote.key)}
    with zipfile.ZipFile(archive) as packed:
        members = {info.filename: info for info in packed.infolist() if info.filename in targets}
        lacking = [name for name in targets if name not in members]
        if lacking:
            raise zipfile.BadZipFile(f"it lacks {lacking[0]}")
        largest = max(members.values(), key=lambda info: info.file_size)
        if largest.file_size > LARGEST:
            raise zipfile.BadZipFile(f"{largest.filename} has {largest.file_size:,} bytes, more than {LARGEST:,}")
        check_room(root, sum(info.file_size for info in members.values()), remote.key)
        for name, target in targets.items():
            with (
                packed.open(members[name]) as source,
                atomic_path(target) as temporary,
                open(temporary, "wb") as file,
            ):
                shutil.copyfileobj(source, file, 2**20)
            digest = checksum(target).partition(":")[2]
            manifest.note(root, target.relative_to(root).as_posix(), digest, remote.etag, f"crc32 in {archive.name}")


def _archives_to_come(root: Path) -> list[str]:
    """List the archives with files still to unpack."""
    return [key for key in ARCHIVES if not all(path.is_file() for path in _unpacked(root, key))]


def _unpacked(root: Path, archive: str) -> list[Path]:
    return [root / keys.annotations(kind, split) for kind in ARCHIVES[archive] for split in keys.COCO_SPLITS]


def _mark(root: Path, client: Client, config: NsdConfig) -> None:
    """Keep real and simulated data apart; copy the file that marks simulated data."""
    simulated = None
    if config.endpoint != NsdConfig().endpoint:
        try:
            simulated = client.find(config.endpoint, keys.SIMULATED)
        except AbsentError:
            log.info("%s has no %s: it is taken for a mirror of NSD itself", config.endpoint, keys.SIMULATED)
    check_root(root, simulated is not None)
    if simulated and not keys.is_simulated(root):
        fetch_missing(client, [simulated], root)
