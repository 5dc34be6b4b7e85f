"""The published networks' weights: fetched once, compared with their checksums, and from then on only read."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from neuropictor.fetching.download import Client, FetchError
from neuropictor.records.checksums import checksum
from neuropictor.records.files import Folder, atomic_path

if TYPE_CHECKING:
    from neuropictor.config import WeightsConfig

log = logging.getLogger(__name__)

NOTES = "weights.json"
"""Lies beside the files and holds the SHA-256 and size that each had when it was fetched."""


class WeightsError(ValueError):
    """A file of weights is missing or is not what was published."""


class WeightFile(NamedTuple):
    """A file of weights: its name, the key of its address in the section `weights`, and the start of its SHA-256."""

    name: str
    endpoint: str
    digest: str = ""  # torchvision puts eight digits into its files' names; the other makers tell none


WEIGHTS = {
    "alexnet": WeightFile("alexnet-owt-7be5be79.pth", "torchvision", "7be5be79"),  # IMAGENET1K_V1
    "inception": WeightFile("inception_v3_google-0cc3c7bd.pth", "torchvision", "0cc3c7bd"),  # IMAGENET1K_V1
    "effnet": WeightFile("efficientnet_b1-c27df63c.pth", "torchvision", "c27df63c"),  # IMAGENET1K_V2
    "clip": WeightFile("open_clip_model.safetensors", "clip"),
    "swav": WeightFile("swav_800ep_pretrain.pth.tar", "swav"),  # facebookresearch/swav, hubconf.py
}


def fetch_weights(config: WeightsConfig, out: Folder) -> None:
    """Fetch all files that are not there yet; interrupted ones go on from where they were.

    Parameters
    ----------
    config : WeightsConfig
    out : Path
        Folder; `weights.json` in it is written last.

    Raises
    ------
    WeightsError
        If a file does not come (what came of it is kept), or is not what was published (it is not used).
    """
    out, client, notes = Path(out), Client(config.connections), _notes(Path(out))
    expected = {
        file.name: notes.get(file.name, {}).get("sha256") or _expected(network, config)
        for network, file in WEIGHTS.items()
    }
    missing = [file for file in WEIGHTS.values() if not (out / file.name).is_file()]
    try:
        client.download([client.find(getattr(config, file.endpoint), file.name) for file in missing], out, expected)
    except FetchError as error:
        raise WeightsError(
            f"Weights could not be fetched: {str(error).partition('. ')[0]}. What came is kept, unless it was wrong."
            " Allowed: addresses in the section weights that serve the files with size and ETag, e.g. swav:"
            f" {type(config)().swav}; or put the file into {out} yourself and give the same command again"
        ) from error
    for network, file in WEIGHTS.items():
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
    _checked(path, noted["sha256"])
    return path


def _expected(network: str, config: WeightsConfig) -> str:
    return WEIGHTS[network].digest or getattr(config, f"{network}_sha256")


def _notes(folder: Path) -> dict[str, dict]:
    path = folder / NOTES
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _checked(path: Path, expected: str) -> str:
    """Return a file's SHA-256 after comparing it with what is known of it."""
    digest = checksum(path).removeprefix("sha256:")
    if not digest.startswith(expected):
        raise WeightsError(
            f"{path}: SHA-256 {digest}, expected {expected}{'' if len(expected) == 64 else '...'}. It is not used."
            " Allowed: the file as published; remove it and fetch it again, e.g. neuropictor fetch-weights, and check"
            " the address in the section weights"
        )
    return digest
