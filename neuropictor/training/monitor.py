"""Curves and sample images of a training for TensorBoard, in a folder beside its output.

It does not affect the training: it uses no random generator that a step uses, and a resumed training continues
writing after the last checkpoint.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from neuropictor.data.origin import title_mark
from neuropictor.models.decoding import decode
from neuropictor.models.pipeline import NeuroPictorPipeline
from neuropictor.records.log import is_first

if TYPE_CHECKING:
    from neuropictor.models.backbone import Backbone
    from neuropictor.models.networks import Networks

#: Below a stage's output.
MONITOR_FOLDER = "tensorboard"
#: Images, denoising steps and guidance: enough to see where a training goes, at the cost of a few of its steps.
PREVIEWED, STEPS, GUIDANCE = 4, 10, 3.0


class Monitor:
    """Writer of event files; only the first process writes.

    Parameters
    ----------
    folder
        Where the event files lie.
    data
        The images' title says ``simulated`` for such data.
    preview
        Makes sample images with the current networks, uint8 ``[H, W, 3]``; None for a stage without images.
    """

    def __init__(self, folder: Path, data: str, preview: Callable[[], np.ndarray] | None = None):
        self.folder, self.preview = folder, preview
        self.title = "reconstructions" + title_mark(data)
        self._writer = None

    def open(self, step: int) -> None:
        """Begin after `step` steps; entries of later ones, or of another training, are dropped."""
        if not is_first():
            return
        from torch.utils.tensorboard import SummaryWriter

        if step == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._writer = SummaryWriter(str(self.folder), purge_step=step + 1)

    def scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Add values, by name, under ``loss/train`` and the like."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{name}/{split}", value, step)

    def images(self, step: int) -> None:
        """Add sample images."""
        if self._writer is not None and self.preview is not None:
            self._writer.add_image(self.title, self.preview(), step, dataformats="HWC")

    def close(self) -> None:
        """Write what is still buffered."""
        if self._writer is not None:
            self._writer.close()


class Preview:
    """Makes an image with two rows: validation images decoded from their own latents, and reconstructed.

    Parameters
    ----------
    networks
        Those in training; used in evaluation mode.
    backbone
        Its UNet is on the device of the training; its VAE goes there while it decodes.
    batch
        First batch of a validation, see `neuropictor.data.datasets.TrainingBatches.fixed`.
    """

    def __init__(self, networks: "Networks", backbone: "Backbone", batch: Mapping[str, torch.Tensor]):
        self.networks, self.backbone = networks, backbone
        self.batch = {name: values[:PREVIEWED] for name, values in batch.items()}
        self._true: np.ndarray | None = None

    @torch.no_grad()
    def __call__(self) -> np.ndarray:
        """Return uint8 ``[2 S, n S, 3]``; the same noise every time, so that images can be compared."""
        device = next(self.networks.parameters()).device
        pipeline = NeuroPictorPipeline.from_parts(self.networks, self.backbone)
        pipeline.set_progress_bar_config(disable=True)
        seeds = [torch.Generator().manual_seed(number) for number in range(len(self.batch["latents"]))]
        low = self.backbone.unet.dtype == torch.bfloat16
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            latents = pipeline(
                responses=self.batch["responses"],
                components=self.batch.get("components"),
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                generator=seeds,
                output_type="latent",
            ).images
        assert isinstance(latents, torch.Tensor)
        vae = self.backbone.vae
        before = vae.device
        vae.to(device)  # pyright: ignore[reportArgumentType] (its decorator hides self)
        if self._true is None:
            self._true = self._row(self.batch["latents"])
        rows = np.concatenate([self._true, self._row(latents)])
        vae.to(before)  # pyright: ignore[reportArgumentType] (its decorator hides self)
        return rows

    def _row(self, latents: torch.Tensor) -> np.ndarray:
        """Decode scaled latents one at a time, which needs least memory, and lay the images side by side."""
        vae = self.backbone.vae
        images = [decode(vae, one.to(vae.device, torch.float32)).float().cpu() for one in latents.split(1)]
        row = torch.cat(images, dim=3)[0].permute(1, 2, 0).add(1).mul(127.5)
        return row.round().clamp(0, 255).to(torch.uint8).numpy()
