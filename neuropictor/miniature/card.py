"""Measure a miniature backbone on held-out scenes, and write its model card."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from neuropictor.miniature.backbone import HELD_OUT, category_accuracy, psnr, reconstruct
from neuropictor.miniature.networks import render_scenes
from neuropictor.models.backbone import Backbone
from neuropictor.models.device import prepare_device
from neuropictor.records.files import atomic_path
from neuropictor.simulation.scenes.scene import captions

if TYPE_CHECKING:
    from neuropictor.miniature.settings import MiniatureSettings

_CARD = """# Miniature Stable Diffusion of rendered scenes

A latent diffusion model of the same diffusers and transformers classes as Stable Diffusion 2.1, small enough for a
laptop's CPU: {unet:.1f} M parameters in the UNet, {vae:.1f} M in the VAE, {text:.1f} M in the text tower, {image:.1f} M
in the image tower. It makes what `neuropictor.simulation.scenes.scene` renders, at 64 x 64 pixels, and nothing else.

- **Made by** the functions behind `python -m neuropictor.miniature train` on {scenes:,} rendered scenes that no
  simulated subject sees: towers {training.towers_steps:,} steps, VAE {training.vae_steps:,}, UNet
  {training.unet_steps:,}, decoder {training.decoder_steps:,}, batches as in `neuropictor/miniature/settings.yaml`. The
  functions were called one by one, with other seeds for weights (0) and batches (1): the command gives weights of the
  same kind, not the same bytes.
- **Population start** (`population/`): calibrated encoder, shared space and networks, as
  `python -m neuropictor.miniature population` makes them: {population.people} simulated people, none of them subjects 1
  to 8, who saw {population.images:,} of these scenes each; stored as float16. They share with the subjects what
  people of one simulation seed share: part of the tuning. Calibration had another seed (11). `init: scratch` does
  without it.
- **Licence** Apache-2.0, as the code. No photograph and no brain data went into it.

Measured on {count:,} scenes that were held out:

| | |
|---|---|
| category of the main object read off true images (zero-shot, 12 categories) | {true:.3f} |
| the same after encoding and decoding by the VAE | {decoded:.3f} |
| PSNR of the VAE | {psnr:.1f} dB |
| the same read off {sampled} images sampled from the captions (25 DDIM steps, guidance 3) | {from_captions:.3f} |
"""


@torch.no_grad()
def write_card(folder: Path, settings: "MiniatureSettings", count: int = HELD_OUT, sampled: int = 192) -> None:
    """Write ``README.md`` into a backbone's folder.

    Parameters
    ----------
    folder
        Of the backbone.
    settings
        Those it was made with; its last scenes are held out.
    count, sampled
        Number of scenes measured, and of images sampled from their captions.
    """
    prepare_device(settings.runtime)
    training = settings.backbone
    numbers = range(training.scenes - count, training.scenes)
    images, scenes = render_scenes(numbers, training.seed, max(1, settings.runtime.threads))
    backbone = Backbone.load(folder)
    decoded = reconstruct(backbone, images)
    some = scenes[:sampled]
    context = backbone.encode_text([line for item in some for line in captions(item)])
    context = context.reshape(len(some), 5, *backbone.context_shape).mean(1)
    both = torch.cat([backbone.null_context().expand_as(context), context])
    latents = torch.randn(len(some), *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    backbone.scheduler.set_timesteps(25)
    for step in backbone.scheduler.timesteps.tolist():
        empty, full = backbone.unet(torch.cat([latents, latents]), step, both).sample.chunk(2)
        latents = backbone.scheduler.step(empty + 3 * (full - empty), step, latents, return_dict=False)[0]
    sizes = {
        name: sum(p.numel() for p in part.parameters()) / 1e6
        for name, part in zip(("unet", "vae", "text", "image"), backbone.modules, strict=True)
    }
    card = _CARD.format(
        **sizes,
        training=training,
        population=settings.population,
        scenes=training.scenes - HELD_OUT,
        count=len(scenes),
        true=category_accuracy(backbone, images, scenes),
        decoded=category_accuracy(backbone, decoded, scenes),
        psnr=psnr(decoded, images),
        from_captions=category_accuracy(backbone, backbone.decode(latents), some),
        sampled=len(some),
    )
    with atomic_path(Path(folder) / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")
