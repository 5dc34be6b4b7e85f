"""Fetch people's files of MOSAIC from its public bucket, into a folder in the bucket's layout."""

from collections.abc import Sequence
from pathlib import Path

from neuropictor.config import MosaicConfig
from neuropictor.config.mosaic import ENDPOINT, file_key
from neuropictor.fetching.download import Client, Source
from neuropictor.fetching.folder import bytes_to_come, fetch_missing, write_plan

SOURCE = Source(
    "mosaic.endpoint",
    ENDPOINT,
    f"Allowed: the people that MOSAIC's bucket has, e.g. {file_key('sub-01_NOD')}; a mirror may hold only some. Check"
    " mosaic.endpoint",
)


def fetch_people(people: Sequence[str], root: str | Path, config: MosaicConfig) -> None:
    """Fetch people's files that are missing.

    Parameters
    ----------
    people
        Names of files without ending, e.g. ``sub-01_NOD``.
    root
        Folder in the layout of MOSAIC's bucket; made if needed.
    config
        `endpoint` and `connections` are used.

    Raises
    ------
    ValueError
        If MOSAIC has nobody of a name.
    FetchError
        If a file could not be fetched; its part is kept for the next time, and others are complete or absent.
    """
    client = Client(config.connections, SOURCE)
    fetch_missing(client, client.find_all(config.endpoint, map(file_key, people)), Path(root))


def plan_people(people: Sequence[str], at_once: int, root: str | Path, config: MosaicConfig, out: str | Path) -> None:
    """Find all people's files at the endpoint, and make sure that there is room for them, before fetching any.

    Parameters
    ----------
    people, root
        As for `fetch_people`.
    at_once
        How many files may exist at the same time, unless all are kept.
    config
        `keep_raw` too is used.
    out
        JSON to write: key, size and ETag of each file, and the bytes needed.

    Raises
    ------
    ValueError, FetchError
        As `fetch_people`, and if the disk has too little room.
    """
    root, client = Path(root), Client(config.connections, SOURCE)
    remotes = client.find_all(config.endpoint, map(file_key, people))
    needed = sorted((bytes_to_come(root, remote) for remote in remotes), reverse=True)
    write_plan(remotes, sum(needed if config.keep_raw else needed[:at_once]), root, out)
