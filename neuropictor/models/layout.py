"""Names of parts and files in the folders of backbones and pipelines; loads nothing, for use in rules."""

from pathlib import Path

#: Of a backbone in diffusers' layout; ``image_encoder`` is optional.
BACKBONE_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
#: Of a pipeline, what pretraining and refining train; the last only with an alignment.
TRAINED_PARTS = ("encoder", "guiding", "manipulation", "null_context", "alignment")
INDEX = "model_index.json"


def trained_files(aligned: bool) -> list[str]:
    """Return the files of a pipeline's trained parts and of its scheduler, relative to its folder."""
    parts = TRAINED_PARTS if aligned else TRAINED_PARTS[:-1]
    files = ("config.json", "diffusion_pytorch_model.safetensors")
    return [*(f"{part}/{file}" for part in parts for file in files), "scheduler/scheduler_config.json"]


def check_backbone(folder: str | Path) -> None:
    """Raise ``FileNotFoundError`` where a backbone's folder lacks a part, saying where to get it."""
    missing = [part for part in BACKBONE_PARTS if not (Path(folder) / part).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"backbone.source: {folder} has no {', '.join(missing)}. Allowed: 'miniature', a folder in the layout of "
            "diffusers' Stable Diffusion, for example backbone: {source: /data/stable-diffusion-2-1-base}, or a "
            "repository of the Hugging Face hub with its revision, which is fetched; docs/backbones.md tells how"
        )
