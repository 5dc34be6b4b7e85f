"""A pretraining of two people on the tiny backbone, as tests and the programs that they start call it."""

from pathlib import Path

from small_backbone import TINY_ENCODER

from neuropictor.config import EncoderConfig, ReconstructConfig, RuntimeConfig
from neuropictor.models.encoder import FMRIAutoencoder
from neuropictor.models.networks import save_autoencoder

SETTINGS = {"init": "scratch", "warmup": 2, "ema": 0.9, "guidance_dropout": 0.2, "learning_rate": 1e-3}


def inputs(prepared: Path, backbone: Path, folder: Path, dropout: float) -> dict[str, str]:
    """Name the inputs, as JSON can hold them; the autoencoder is written into a folder."""
    autoencoder = folder / "autoencoder.safetensors"
    encoder = EncoderConfig(**TINY_ENCODER, dropout=dropout)
    save_autoencoder(FMRIAutoencoder(**encoder.model_dump()), autoencoder)
    return {"prepared": str(prepared), "backbone": str(backbone), "autoencoder": str(autoencoder)}


def arguments(given: dict) -> dict:
    """Return the arguments of `pretrain`, of inputs and further settings."""
    prepared = Path(given["prepared"])
    return {
        "responses": [prepared / f"sub-0{subject}" / "responses.h5" for subject in (1, 2)],
        "latents": [prepared / "latents.h5"],
        "backbone": given["backbone"],
        "autoencoder": given["autoencoder"],
        "config": ReconstructConfig(**SETTINGS | given["config"]),
        "runtime": RuntimeConfig(device="cpu", **given["runtime"]),
        "out": Path(given["out"]),
    }
