"""The published networks' weights: fetched once, compared with their checksums, and from then on only read."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neuropictor.fetching.bucket import Bucket, FetchError, Retries
from neuropictor.fetching.nsd import RANGE_BYTES, fill, reporter
from neuropictor.fetching.part_file import PartFile
from neuropictor.records.files import Folder, atomic_path
from neuropictor.records.progress import progress

if TYPE_CHECKING:
    from neuropictor.config import WeightsConfig

log = logging.getLogger(__name__)

NOTES = "weights.json"
"""Lies beside the files and holds the SHA-256 and size that each had when it was fetched."""


class WeightsError(ValueError):
    """A file of weights is missing or is not what was published."""


@dataclass(frozen=True)
class WeightFile:
    """A file of weights.

    Attributes
    ----------
    name : str
        At the endpoint and in the folder.
    endpoint : str
        Key of the section `weights` with its address.
    digest : str
        Start of the SHA-256: torchvision puts eight digits into its files' names; empty where the maker tells none.
    """

    name: str
    endpoint: str
    digest: str


WEIGHTS = {
    "alexnet": WeightFile("alexnet-owt-7be5be79.pth", "torchvision", "7be5be79"),  # IMAGENET1K_V1
    "inception": WeightFile("inception_v3_google-0cc3c7bd.pth", "torchvision", "0cc3c7bd"),  # IMAGENET1K_V1
    "effnet": WeightFile("efficientnet_b1-c27df63c.pth", "torchvision", "c27df63c"),  # IMAGENET1K_V2
    "clip": WeightFile("open_clip_model.safetensors", "clip", ""),
    "swav": WeightFile("swav_800ep_pretrain.pth.tar", "swav", ""),  # facebookresearch/swav, hubconf.py
}


def fetch_weights(config: WeightsConfig, out: Folder, retries: Retries | None = None) -> None:
    """Fetch all files that are not there yet; interrupted ones go on from where they were.

    Parameters
    ----------
    config : WeightsConfig
    out : Path
        Folder; `weights.json` in it is written last.
    retries : Retries, optional

    Raises
    ------
    WeightsError
        If a file does not come (what came of it is kept), or is not what was published (it is not used).
    """
    out = Path(out)
    notes = _notes(out)
    for network, file in WEIGHTS.items():
        expected = notes.get(file.name, {}).get("sha256") or _expected(network, config)
        target = out / file.name
        if not target.is_file():
            _fetch(file, getattr(config, file.endpoint), config.connections, target, expected, retries)
        found = _sha256(target)
        if not found.startswith(expected):
            raise _wrong(target, found, expected)
        if not expected:
            log.warning(
                "%s: its maker publishes no checksum; SHA-256 %s is noted in %s and compared from now on. Compare it"
                " with somebody else's, or set weights.%s_sha256",
                file.name,
                found,
                NOTES,
                file.endpoint,
            )
        notes[file.name] = {"network": network, "sha256": found, "bytes": target.stat().st_size}
    with atomic_path(out / NOTES) as temporary:
        temporary.write_text(json.dumps(notes, indent=1) + "\n", encoding="utf-8")


def _expected(network: str, config: WeightsConfig) -> str:
    return WEIGHTS[network].digest or getattr(config, f"{network}_sha256")


def _fetch(
    file: WeightFile, address: str, connections: int, target: Path, expected: str, retries: Retries | None
) -> None:
    """Fetch one file; it gets its name only with the right checksum."""
    bucket = Bucket(address, connections, retries)
    try:
        remote = bucket.find(file.name)
        with PartFile(target, remote) as part:
            with progress(remote.size, f"Fetching {file.name}", start=part.arrived, unit="byte") as bar:
                fill(bucket, part, RANGE_BYTES, reporter(bar, time.monotonic()))
            found = _sha256(part.path)
            if not found.startswith(expected):
                part.discard()
                raise _wrong(target, found, expected)
            part.finish()
    except FetchError as error:
        reason = str(error).partition(". ")[0]
        raise WeightsError(
            f"{file.name} could not be fetched: {reason}. What came of it is kept. Allowed: an address in"
            f" weights.{file.endpoint} that serves the file with its size, ETag and ranges, e.g. {file.endpoint}:"
            f" {address}; or put the file into {target.parent} yourself and give the same command again"
        ) from error


def locate(folder: Path, network: str) -> Path:
    """Return the file of a network's weights after comparing it with the checksum noted when it was fetched.

    Raises
    ------
    WeightsError
        If it is not there or has changed.
    """
    path = Path(folder) / WEIGHTS[network].name
    noted = _notes(Path(folder)).get(path.name)
    if not path.is_file() or noted is None:
        raise WeightsError(
            f"{path}: weights of {network} are missing or not noted in {NOTES}. Allowed: a folder that `neuropictor"
            f" fetch-weights` filled, e.g. neuropictor fetch-weights --out {folder}; or networks: miniature"
        )
    found = _sha256(path)
    if found != noted["sha256"]:
        raise _wrong(path, found, noted["sha256"])
    return path


def _notes(folder: Path) -> dict[str, dict]:
    path = folder / NOTES
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wrong(path: Path, found: str, expected: str) -> WeightsError:
    return WeightsError(
        f"{path}: SHA-256 {found}, expected {expected}{'' if len(expected) == 64 else '...'}. It is not used. Allowed:"
        " the file as published; remove it and fetch it again, e.g. neuropictor fetch-weights, and check the address in"
        " the section weights"
    )
