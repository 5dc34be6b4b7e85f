"""Sample pictures during a training: some validation pictures as the backbone knows them, and as reconstructed now."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from neuropictor.models.decoding import decode
from neuropictor.models.pipeline import NeuroPictorPipeline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuropictor.models.backbone import Backbone
    from neuropictor.models.networks import Networks

#: Pictures, denoising steps and guidance: enough to see where a training goes, at the cost of a few of its steps.
PICTURES, STEPS, GUIDANCE = 4, 10, 3.0


class Preview:
    """Draws a picture of two rows: validation pictures decoded from their own latents, and reconstructed.

    Parameters
    ----------
    networks
        As they are trained; used in evaluation mode.
    backbone
        Its UNet is on the device of the training; its VAE goes there while it decodes.
    batch
        First batch of a validation, see `neuropictor.data.datasets.TrainingBatches.fixed`.
    """

    def __init__(self, networks: "Networks", backbone: "Backbone", batch: "Mapping[str, torch.Tensor]"):
        self.networks, self.backbone = networks, backbone
        self.batch = {name: values[:PICTURES] for name, values in batch.items()}
        self._seen: np.ndarray | None = None

    @torch.no_grad()
    def __call__(self) -> np.ndarray:
        """Return uint8 ``[2 S, n S, 3]``; the same noise every time, so that pictures can be compared."""
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
                generators=seeds,
                output_type="latent",
            ).images
        vae = self.backbone.vae
        before = vae.device
        vae.to(device)
        if self._seen is None:
            self._seen = self._row(self.batch["latents"])
        pictures = np.concatenate([self._seen, self._row(latents)])
        vae.to(before)
        return pictures

    def _row(self, latents: torch.Tensor) -> np.ndarray:
        """Decode scaled latents one at a time, which needs least memory, and lay the pictures side by side."""
        vae = self.backbone.vae
        pictures = [decode(vae, one.to(vae.device, torch.float32)).float().cpu() for one in latents.split(1)]
        row = torch.cat(pictures, dim=3)[0].permute(1, 2, 0).add(1).mul(127.5)
        return row.round().clamp(0, 255).to(torch.uint8).numpy()
