"""Folders that hold a pipeline: trained parts in full, frozen parts by name.

The stages write for every subject a folder in diffusers' layout, without the frozen UNet and VAE (3.8 GB in Stable
Diffusion 2.1), which are the same for all subjects:

    model_index.json    names the classes of the parts and, as ``_backbone``, where the frozen parts lie
    encoder/ guiding/ manipulation/ null_context/, and alignment/ if there is one
                        config.json and diffusion_pytorch_model.safetensors each
    scheduler/          scheduler_config.json

A backbone's folder is named relative to the pipeline's, so that both can be moved together.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from neuropictor.models.backbone import MINIATURE, backbone_folder
from neuropictor.models.guiding import Variant
from neuropictor.models.layout import INDEX
from neuropictor.models.networks import TRAINED, Networks
from neuropictor.models.null_context import NullContext
from neuropictor.models.parts import load_part, weight_file
from neuropictor.records.checksums import checksum
from neuropictor.records.files import atomic_path

if TYPE_CHECKING:
    from neuropictor.models.pipeline import NeuroPictorPipeline

BACKBONE = "_backbone"
FROZEN = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
NETWORKS = {**TRAINED, "null_context": NullContext, **FROZEN}


def read_index(folder: str | Path) -> dict[str, Any]:
    """Return the content of a pipeline folder's index.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is damaged, or does not say how the frozen parts are checked.
    """
    path = Path(folder) / INDEX
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no {INDEX}; allowed: the folder of a pipeline, as the stages pretrain and refine or "
            "NeuroPictorPipeline.save_pretrained write it, for example results/refine/sub-01"
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        parts = {name: value for name, value in index.items() if not name.startswith("_")}
        whole = all(isinstance(value, list) and len(value) == 2 for value in parts.values())  # library and class
        if BACKBONE in index:
            whole = (
                whole and {*index[BACKBONE]["checksums"]} == {*FROZEN} and isinstance(index[BACKBONE]["source"], str)
            )
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        whole, index = False, {}
    if not whole:
        raise ValueError(
            f"{path}: not the index of a pipeline; allowed: what the stages pretrain and refine or "
            f"NeuroPictorPipeline.save_pretrained write, with checksums of {' and '.join(FROZEN)} where those are named"
        )
    return index


def pipeline_paths(folder: str | Path) -> list[Path]:
    """Return index and folders of a pipeline's parts: everything sampling depends on apart from the backbone."""
    folder = Path(folder)
    parts = sorted(name for name, value in read_index(folder).items() if not name.startswith("_") and value[0])
    return [folder / INDEX, *(folder / name for name in parts)]


def read_networks(folder: str | Path, variant: Variant | None = None) -> Networks:
    """Read the trained networks of a pipeline folder, in float32 and evaluation mode.

    Parameters
    ----------
    folder
        Complete, or with the trained parts alone.
    variant
        Replaces the guiding network's variant: ``refine`` switches the extra branch of pretrained weights on.
    """
    folder, index = Path(folder), read_index(folder)
    parts = {}
    for name, kind in TRAINED.items():
        if index.get(name, (None,))[0] is None:
            continue
        parts[name] = load_part(kind, folder / name, dtype=torch.float32)
    if variant is not None:
        parts["guiding"].register_to_config(variant=variant)
    return Networks(**parts).eval()


def read_schedule(folder: str | Path) -> dict[str, Any]:
    """Return the configuration of the scheduler that a pipeline's networks were trained with."""
    return DDIMScheduler.load_config(Path(folder) / "scheduler")  # pyright: ignore[reportReturnType] (it returns one dict)


def part_checksum(name: str, part: Path) -> str:
    """Return the checksum of the files that a frozen part is read from; other formats and variants are ignored."""
    weights = weight_file(FROZEN[name], part)
    shards = sorted(part.glob("diffusion_pytorch_model-*-of-*.safetensors"))
    files = [part / "config.json", *(shards or [weights])]
    lines = "".join(f"{file.name} {checksum(file)}\n" for file in files)
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def _describe(backbone: str | Path, folder: Path) -> dict[str, Any]:
    """Name a backbone as the index of a pipeline in `folder` does."""
    source = str(backbone)
    if source != MINIATURE:
        source = source if os.path.isabs(source) else os.path.relpath(Path(source).resolve(), folder.resolve())
    parts = backbone_folder(backbone)
    return {"source": source, "checksums": {name: part_checksum(name, parts / name) for name in FROZEN}}


def read_parts(folder: str | Path, backbone: str | Path | None, dtype: torch.dtype) -> dict[str, torch.nn.Module]:
    """Read all networks of a pipeline folder; a backbone that it only names is compared with its checksums.

    Parameters
    ----------
    folder
        A pipeline's.
    backbone
        Source that replaces the named one; None: the named one.
    dtype
        Of the weights.

    Returns
    -------
    dict
        By the names of the pipeline's parts.
    """
    folder, index = Path(folder), read_index(folder)
    places = dict.fromkeys([name for name in NETWORKS if index.get(name, (None,))[0] is not None], folder)
    named = index.get(BACKBONE)
    if named is None and backbone is not None:
        raise ValueError(
            f"backbone: {backbone} given, but {folder} is complete and names none; allowed: no backbone, for "
            f"example NeuroPictorPipeline.from_pretrained('{folder}')"
        )
    if named is not None:
        source = backbone
        if source is None:
            source = named["source"] if named["source"] == MINIATURE else folder / named["source"]
        places |= dict.fromkeys(FROZEN, backbone_folder(source))
        for name, noted in named["checksums"].items():
            if not (places[name] / name).is_dir():
                raise FileNotFoundError(
                    f"{folder}: the frozen part {name}/ is looked for in {places[name]} and not there; allowed: the "
                    f"backbone's folder, for example NeuroPictorPipeline.from_pretrained('{folder}', "
                    "backbone='/data/backbone')"
                )
            if part_checksum(name, places[name] / name) != noted:
                raise ValueError(
                    f"backbone: {name} in {places[name]} is not the one that {folder} was trained with (checksum "
                    f"{str(noted)[:19]}); allowed: the same backbone, for example backbone='miniature' for networks of "
                    "the shipped one"
                )
    return {name: load_part(NETWORKS[name], place / name, dtype=dtype).eval() for name, place in places.items()}


def write_trained(pipeline: "NeuroPictorPipeline", folder: str | Path, backbone: str | Path) -> None:
    """Write all parts of a pipeline but the frozen ones, each file whole or not at all and the index last."""
    folder = Path(folder)
    index = {
        "_class_name": type(pipeline).__name__,
        "_diffusers_version": diffusers.__version__,
        BACKBONE: _describe(backbone, folder),
    }
    (folder / INDEX).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / ".parts.partial"
    shutil.rmtree(work, ignore_errors=True)
    for name, part in pipeline.components.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        if name in FROZEN or part is None:
            continue
        part.save_pretrained(work / name)
        index[name] = list(pipeline.config[name])
    for file in sorted(item for item in work.rglob("*") if item.is_file()):
        with atomic_path(folder / file.relative_to(work)) as temporary:
            os.replace(file, temporary)
    shutil.rmtree(work)
    with atomic_path(folder / INDEX) as temporary:
        temporary.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
