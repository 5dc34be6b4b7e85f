"""Names of parts and files in the folders of backbones and pipelines; loads nothing, for use in rules."""

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
