"""The published networks' weights: fetched once, compared with their checksums, and then only read."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from neuropictor.fetching.download import Client, FetchError
from neuropictor.records.checksums import checksum
from neuropictor.records.files import Folder, atomic_path

if TYPE_CHECKING:
    from neuropictor.config import WeightsConfig

log = logging.getLogger(__name__)

NOTES = "weights.json"
"""File beside the others, with SHA-256 and size of each when it was fetched."""


class WeightsError(ValueError):
    """A file of weights is missing or is not the published one."""


class WeightFile(NamedTuple):
    """A file of weights: its name, the key of its address in the section `weights`, and the start of its SHA-256."""

    name: str
    endpoint: str
    digest: str = ""  # torchvision puts eight digits into its files' names; the other makers give none


def fetch_weights(files: Mapping[str, WeightFile], config: WeightsConfig, out: Folder) -> None:
    """Fetch all missing files; interrupted downloads continue.

    Parameters
    ----------
    files
        mapping of WeightFile: by the networks' names.
    config
        Section of the configuration.
    out
        Folder; `weights.json` in it is written last.

    Raises
    ------
    WeightsError
        If a file does not arrive (its part is kept), or is not the published one (it is not used).
    """
    out, client, notes = Path(out), Client(config.connections), _notes(Path(out))
    expected = {file.name: notes.get(file.name, {}).get("sha256") or _expected(file, config) for file in files.values()}
    missing = [file for file in files.values() if not (out / file.name).is_file()]
    try:
        client.download([client.find(getattr(config, file.endpoint), file.name) for file in missing], out, expected)
    except FetchError as error:
        raise WeightsError(
            f"Weights could not be fetched: {str(error).partition('. ')[0]}. What came is kept, unless it was wrong."
            " Allowed: addresses in the section weights that serve the files with size and ETag, e.g. swav:"
            f" {type(config)().swav}; or put the file into {out} yourself and give the same command again"
        ) from error
    for network, file in files.items():
        digest = _checked(out / file.name, expected[file.name])
        if not expected[file.name]:
            log.warning(
                "%s: its maker publishes no checksum; SHA-256 %s is noted in %s and compared from now on. Compare it"
                " with somebody else's, or set weights.%s_sha256",
                file.name,
                digest,
                NOTES,
                file.endpoint,
            )
        notes[file.name] = {"network": network, "sha256": digest, "bytes": (out / file.name).stat().st_size}
    with atomic_path(out / NOTES) as temporary:
        temporary.write_text(json.dumps(notes, indent=1) + "\n", encoding="utf-8")


def locate(folder: Path, file: WeightFile) -> Path:
    """Return a file of weights in a folder after comparing it with the checksum noted when it was fetched.

    Raises
    ------
    WeightsError
        If it is missing or has changed.
    """
    path = Path(folder) / file.name
    noted = _notes(Path(folder)).get(path.name)
    if not path.is_file() or noted is None:
        raise WeightsError(
            f"{path} is missing or not noted in {NOTES}. Allowed: a folder that `neuropictor"
            f" fetch-weights` filled, e.g. neuropictor fetch-weights --out {folder}; or networks: miniature"
        )
    _checked(path, noted["sha256"])
    return path


def _expected(file: WeightFile, config: WeightsConfig) -> str:
    return file.digest or getattr(config, f"{file.endpoint}_sha256")


def _notes(folder: Path) -> dict[str, dict]:
    path = folder / NOTES
    if not path.is_file():
        return {}
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(note["sha256"], str) for note in notes.values()):
            return notes
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    raise WeightsError(
        f"{path} is damaged: it is not the JSON that `neuropictor fetch-weights` writes. Allowed: none, or a whole one;"
        " remove it and fetch the weights again"
    )


def _checked(path: Path, expected: str) -> str:
    """Return a file's SHA-256 after comparing it with its known start."""
    digest = checksum(path).removeprefix("sha256:")
    if not digest.startswith(expected):
        raise WeightsError(
            f"{path}: SHA-256 {digest}, expected {expected}{'' if len(expected) == 64 else '...'}. It is not used."
            " Allowed: the file as published; remove it and fetch it again, e.g. neuropictor fetch-weights, and check"
            " the address in the section weights"
        )
    return digest
