"""Measure a miniature backbone on held-out scenes, and write its model card."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from neuropictor.miniature.backbone import HELD_OUT, categories, category_accuracy, reconstruct
from neuropictor.miniature.judge import judge_images, load_judge
from neuropictor.miniature.measures import frechet_distance, high_frequencies, psnr
from neuropictor.miniature.networks import render_scenes
from neuropictor.models.backbone import Backbone, ImageTower
from neuropictor.models.device import prepare_device
from neuropictor.nsd.constants import CAPTIONS_PER_IMAGE
from neuropictor.records.files import atomic_path
from neuropictor.simulation.scenes.scene import Scene, captions

if TYPE_CHECKING:
    from neuropictor.miniature.settings import MiniatureSettings

_AT_ONCE = 100  # images drawn at a time
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

Measured on {count:,} scenes each of two seeds, of which no part has seen any ({sampled:,} for images drawn from
captions: 25 DDIM steps, guidance 3). The judge has learnt to tell the main object's category, and nothing else.

{bars}
"""
#: Measures by their keys: title, and what a backbone should reach.
_BARS = {
    "zero_shot": ("category of the main object, by the towers, zero-shot: true images", ""),
    "zero_shot_decoded": ("the same: through the VAE", ""),
    "psnr": ("VAE: PSNR, dB", "at least 26.5"),
    "high_frequencies": ("VAE: power kept above a quarter of the sampling frequency", "at least 0.60"),
    "true": ("category of the main object, by the judge: true images", ""),
    "decoded": ("the same: through the VAE", ""),
    "drawn": ("the same: drawn from captions", "at least 0.95"),
    "distance_true": ("Fréchet distance from true images of other scenes, in the judge's features: true images", ""),
    "distance_decoded": ("the same: through the VAE", ""),
    "distance_drawn": ("the same: drawn from captions", "at most 3 times the VAE's"),
}


@torch.no_grad()
def measure(
    backbone: Backbone, judge: ImageTower, images: np.ndarray, scenes: list[Scene], others: np.ndarray, sampled: int
) -> dict[str, float]:
    """Return the measures of a backbone on scenes that it has not seen, by the keys of the card.

    Parameters
    ----------
    backbone
        The backbone.
    judge
        See `neuropictor.miniature.judge`.
    images, scenes
        uint8 ``[N, 64, 64, 3]``, and their content.
    others
        True images of other scenes, from which Fréchet distances are measured: from the same ones, the VAE's images
        would be near by their content alone.
    sampled
        Number of scenes, the first ones, that are drawn from their captions.
    """
    decoded = reconstruct(backbone, images)
    main = categories(scenes).numpy()
    _, reference = judge_images(judge, backbone, others)
    measured = {
        "zero_shot": float(category_accuracy(backbone, images, scenes)),
        "zero_shot_decoded": float(category_accuracy(backbone, decoded, scenes)),
        "psnr": psnr(decoded, images),
        "high_frequencies": high_frequencies(decoded, images),
    }
    for name, shown in {"true": images, "decoded": decoded, "drawn": draw(backbone, scenes[:sampled])}.items():
        seen, features = judge_images(judge, backbone, shown)
        measured[name] = float((seen == main[: len(shown)]).mean())
        measured[f"distance_{name}"] = frechet_distance(features, reference)
    return measured


@torch.no_grad()
def draw(backbone: Backbone, scenes: list[Scene]) -> np.ndarray:
    """Draw scenes from the mean context of their captions: uint8 ``[N, 64, 64, 3]``."""
    parts = []
    for number, some in enumerate(scenes[start : start + _AT_ONCE] for start in range(0, len(scenes), _AT_ONCE)):
        context = backbone.encode_text([line for item in some for line in captions(item)])
        context = context.reshape(len(some), CAPTIONS_PER_IMAGE, *backbone.context_shape).mean(1)
        both = torch.cat([backbone.null_context().expand_as(context), context])
        generator = torch.Generator().manual_seed(number)
        latents = torch.randn(len(some), *backbone.latent_shape, generator=generator).to(backbone.device)
        backbone.scheduler.set_timesteps(25)
        for step in backbone.scheduler.timesteps.tolist():
            empty, full = backbone.unet(torch.cat([latents, latents]), step, both).sample.chunk(2)
            latents = backbone.scheduler.step(empty + 3 * (full - empty), step, latents, return_dict=False)[0]
        parts.append(backbone.decode(latents))
    return np.concatenate(parts)


def write_card(folder: Path, settings: "MiniatureSettings", count: int = HELD_OUT, sampled: int = HELD_OUT) -> str:
    """Write ``README.md`` into a backbone's folder, and return its table of measures.

    The judge is kept in ``judge/`` of the folder.

    Parameters
    ----------
    folder
        Of the backbone.
    settings
        Those it was made with; its last scenes are held out.
    count, sampled
        Number of scenes measured of each seed, and of images drawn from their captions.
    """
    device = prepare_device(settings.runtime)
    training = settings.backbone
    backbone = Backbone.load(folder).to(device)
    judge = load_judge(backbone, settings, Path(folder) / "judge")
    # The scenes held out of training, and scenes of a seed that nothing was trained on.
    numbers = {training.seed: range(training.scenes - count, training.scenes), training.seed + 1: range(count)}
    seen = [render_scenes(rows, seed, max(1, settings.runtime.threads)) for seed, rows in numbers.items()]
    measured = [
        measure(backbone, judge, *mine, others, sampled) for mine, (others, _) in zip(seen, reversed(seen), strict=True)
    ]
    bars = ["| | " + " | ".join(f"seed {seed}" for seed in numbers) + " | to reach |", "|---|---|---|---|"]
    for name, (title, bar) in _BARS.items():
        values = " | ".join(f"{values[name]:.{1 if name == 'psnr' else 3}f}" for values in measured)
        bars.append(f"| {title} | {values} | {bar} |")
    sizes = {
        name: sum(p.numel() for p in part.parameters()) / 1e6
        for name, part in zip(("unet", "vae", "text", "image"), backbone.modules, strict=True)
    }
    card = _CARD.format(
        **sizes,
        training=training,
        population=settings.population,
        scenes=training.scenes - HELD_OUT,
        count=count,
        sampled=sampled,
        bars="\n".join(bars),
    )
    with atomic_path(Path(folder) / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")
    return "\n".join(bars)
