"""Captions made by a published captioning model, for images that have none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, AutoProcessor

from neuropictor.models.device import prepare_device
from neuropictor.models.parts import LOCAL, load_part
from neuropictor.records.progress import progress

if TYPE_CHECKING:
    from neuropictor.config import RuntimeConfig

_IMAGES_AT_ONCE = 16
_MOST_TOKENS = 40  # COCO's captions have about ten words


@torch.no_grad()
def caption_images(
    model: str, images: Iterable[np.ndarray], count: int, runtime: RuntimeConfig | None = None
) -> Iterator[str]:
    """Describe images in a sentence each: the most probable word at every step, so always the same one.

    Parameters
    ----------
    model
        Folder of a captioning model of transformers that needs no prompt, such as BLIP, or its name on the Hugging Face
        hub, from which it was fetched before; nothing is fetched here.
    images
        uint8 [height, width, 3] each.
    count
        Their number.
    runtime
        Device and threads; None: the defaults.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such model here, or it is of another kind.
    """
    from neuropictor.config import RuntimeConfig

    folder, allowed = _folder(model), "a captioning model such as Salesforce/blip-image-captioning-base"
    options: dict[str, Any] = {key: value for key, value in LOCAL.items() if key != "use_safetensors"}
    config: Any
    processor: Any
    try:
        config, processor = (kind.from_pretrained(folder, **options) for kind in (AutoConfig, AutoProcessor))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder}: not read as a model ({str(error).splitlines()[0][:300]}); allowed: {allowed}"
        ) from error
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ValueError(f"{folder}/config.json: model_type is {config.model_type!r}; allowed: {allowed}")
    device = prepare_device(runtime or RuntimeConfig())
    kind: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    network: Any = load_part(kind, folder, dtype=torch.float32)
    network.eval().to(device)
    every = iter(images)
    with progress(count, f"Writing captions with {model}", unit="image") as bar:
        while batch := list(islice(every, _IMAGES_AT_ONCE)):
            pixels = processor(images=batch, return_tensors="pt")["pixel_values"].to(device)
            tokens = network.generate(pixel_values=pixels, do_sample=False, num_beams=1, max_new_tokens=_MOST_TOKENS)
            for place, text in enumerate(processor.batch_decode(tokens, skip_special_tokens=True)):
                if not text.strip():
                    raise ValueError(
                        f"{model} wrote nothing for image {bar.done + place} of {count}; allowed: {allowed}, or "
                        "--captions none"
                    )
                yield " ".join(text.split())
            bar.advance(len(batch))


def _folder(model: str) -> Path:
    """Return the folder of a model, or of its copy in Hugging Face's cache."""
    if Path(model).is_dir():
        return Path(model)
    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise FileNotFoundError(
            f"--captions {model}: no folder, and no repository of the Hugging Face hub fetched before; allowed:"
            " none, a folder, or one fetched by: hf download Salesforce/blip-image-captioning-base"
        ) from error
