"""The frozen backbone used without the project's networks: from latents and a text context to pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from neuropictor.models.backbone import Backbone


def picture_noise(
    shape: tuple[int, ...], seed: int, subject: int, nsd_ids: np.ndarray, sample: int = 0
) -> torch.Tensor:
    """Draw standard normal noise from one seed per picture.

    Parameters
    ----------
    shape : tuple
        (C, h, w) of one picture's latents.
    seed, subject, sample : int
    nsd_ids : int array [n]

    Returns
    -------
    Tensor [n, C, h, w], float32 on the CPU
        A function of (seed, subject, nsd_id, sample) alone, whatever the batch.
    """
    rows = [
        np.random.default_rng([seed, subject, int(nsd_id), sample]).standard_normal(shape, np.float32)
        for nsd_id in nsd_ids
    ]
    return torch.from_numpy(np.stack(rows))


@torch.no_grad()
def diffuse(
    backbone: Backbone,
    latents: torch.Tensor,
    context: torch.Tensor,
    noise: torch.Tensor,
    *,
    steps: int,
    strength: float,
    guidance_scale: float,
    batch_size: int,
) -> np.ndarray:
    """Denoise noised latents under a text context (image-to-image), then decode.

    Parameters
    ----------
    backbone : Backbone
    latents : Tensor [n, C, h, w]
        Scaled latents to start from.
    context : Tensor [n, L, D]
    noise : Tensor [n, C, h, w]
    steps : int
        DDIM steps of the whole schedule.
    strength : float
        Share of the schedule that is run; at 1 hardly anything of `latents` is left.
    guidance_scale : float
        Classifier-free guidance; 1 for none.
    batch_size : int

    Returns
    -------
    uint8 array [n, S, S, 3]
    """
    scheduler = backbone.scheduler.from_config(backbone.scheduler.config)
    scheduler.set_timesteps(steps, device=backbone.device)
    timesteps = scheduler.timesteps[steps - max(1, min(steps, round(steps * strength))) :]
    guided = guidance_scale != 1.0
    pictures = []
    for start in range(0, len(latents), batch_size):
        rows = slice(start, start + batch_size)
        own = context[rows].to(backbone.device)
        both = torch.cat([backbone.null_context().expand_as(own), own]) if guided else own
        state = scheduler.add_noise(
            latents[rows].to(backbone.device), noise[rows].to(backbone.device), timesteps[:1].expand(len(own))
        )
        for timestep in timesteps:
            output = backbone.unet(torch.cat([state, state]) if guided else state, timestep, both).sample
            if guided:
                unconditional, conditional = output.chunk(2)
                output = unconditional + guidance_scale * (conditional - unconditional)
            state = scheduler.step(output, timestep, state).prev_sample
        pictures.append(backbone.decode(state))
    return np.concatenate(pictures)
