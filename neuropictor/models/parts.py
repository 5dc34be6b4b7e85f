"""Reading one network of a folder in diffusers' or transformers' layout: complete, local and from safetensors only."""

from pathlib import Path
from typing import Any, TypeVar, cast

from diffusers import ModelMixin
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

Part = TypeVar("Part", bound="ModelMixin | PreTrainedModel")
#: No network, no pickles, no code of a folder's own.
LOCAL: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
#: A complete CLIP's tensors beside its text tower's, and position numbers, which older versions stored.
_BESIDE_TEXT = ("vision_model.", "visual_projection.", "text_projection.", "logit_scale")
_NAMED = 3


def weight_file(kind: type[ModelMixin | PreTrainedModel], folder: Path) -> Path:
    """Return the file that a network's weights are read from, or the index of its shards.

    Raises
    ------
    FileNotFoundError
        If there is neither; says what to do with weights in another form.
    """
    stem = "model" if issubclass(kind, PreTrainedModel) else "diffusion_pytorch_model"
    for name in (f"{stem}.safetensors", f"{stem}.safetensors.index.json"):
        if (folder / name).is_file():
            return folder / name
    file = folder / f"{stem}.safetensors"
    others = sorted(
        path.name for path in folder.glob("*") if path.suffix in {".safetensors", ".bin", ".ckpt", ".msgpack"}
    )
    way = "weights as safetensors, as save_pretrained writes them and the hub has them"
    if f"{stem}.fp16.safetensors" in others:
        way = f"weights without a variant, for example after mv {folder}/{stem}.fp16.safetensors {file}"
    elif any(name.endswith(".bin") for name in others):
        way = (
            "weights as safetensors, for example after (only if you trust the file's source) python -c \"from "
            f"{kind.__module__.split('.')[0]} import {kind.__name__} as M; M.from_pretrained('{folder}', "
            f"use_safetensors=False).save_pretrained('{folder}')\""
        )
    raise FileNotFoundError(f"{file} is missing (found: {', '.join(others) or 'no weights'}); allowed: {way}")


def load_part(kind: type[Part], folder: Path, **options: Any) -> Part:
    """Read a network whose file holds exactly its tensors.

    Parameters
    ----------
    kind
        Class of the network.
    folder
        With ``config.json`` and the weights.
    options
        Of its ``from_pretrained``, such as ``dtype``.

    Raises
    ------
    FileNotFoundError
        If its weights are missing.
    ValueError
        If the file is damaged, or tensors are missing, unknown or of another shape: the libraries would go on with
        random numbers in their place.
    """
    file = weight_file(kind, folder)
    if issubclass(kind, PreTrainedModel):  # named below; diffusers names them itself
        options["ignore_mismatched_sizes"] = True
    levels = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    try:
        part, info = cast("Any", kind).from_pretrained(folder, output_loading_info=True, **LOCAL, **options)
    except (SafetensorError, RuntimeError, ValueError, TypeError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise ValueError(
            f"{file}: not read as {kind.__name__} ({reason}); allowed: the config.json and the weights of one, as "
            "save_pretrained writes them"
        ) from error
    finally:
        diffusers_logging.set_verbosity(levels[0])
        transformers_logging.set_verbosity(levels[1])
    whole = kind.__name__.startswith("CLIPText")
    unknown = [
        name
        for name in info["unexpected_keys"]
        if not (whole and (name.startswith(_BESIDE_TEXT) or name.endswith("position_ids")))
    ]
    wrong = {"missing": info["missing_keys"], "unknown": unknown, "of another shape": info["mismatched_keys"]}
    found = [
        f"{len(names)} {word}, such as {', '.join(sorted(map(str, names))[:_NAMED])}"
        for word, names in wrong.items()
        if names
    ]
    if found:
        raise ValueError(
            f"{file}: its tensors are not those of {kind.__name__}: {'; '.join(found)}; allowed: every tensor of one "
            "and no other, as save_pretrained writes them"
        )
    return part
