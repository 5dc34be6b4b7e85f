"""What the backbone and the images allow: ceilings and trivial solutions, measured on the seen test images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from neuropictor.config.drawing import SampleConfig
from neuropictor.data.stimuli import StimulusStore, resize_pictures
from neuropictor.evaluation.judges import Held, Images, Judge, Seen
from neuropictor.evaluation.protocols import OURS
from neuropictor.evaluation.scoring import Scorer
from neuropictor.models.pipeline import NeuroPictorPipeline
from neuropictor.sampling import Sampler, batched

if TYPE_CHECKING:
    from neuropictor.config import RuntimeConfig
    from neuropictor.models.backbone import Backbone

TEXT_PICTURES = 48
"""The text ceiling draws so many images: its standard error is 7 points at most."""
TEXT_SAMPLING = {"steps": 15, "guidance_scale": 3.0, "batch_size": 8}


def backbone_controls(
    judge: Judge, backbone: Backbone, store: StimulusStore, nsd_ids: np.ndarray, seed: int, runtime: RuntimeConfig
) -> dict:
    """Measure ceilings and the mean-colour control.

    Parameters
    ----------
    judge : Judge
    backbone : Backbone
        Whose VAE and text tower are measured.
    store : StimulusStore
    nsd_ids : int array [N]
        Of the seen images.
    seed : int
    runtime : RuntimeConfig

    Returns
    -------
    dict of dict of float
        `seen`: the true images themselves (category accuracy is what the zero-shot judge can reach at all);
        `vae`: the true images encoded and decoded by the VAE;
        `text`: images drawn from the first true caption alone (a part of the images);
        `mean_colour`: each image replaced by its mean colour.
    """
    rows = np.arange(len(nsd_ids))
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(TEXT_PICTURES, len(rows))).astype(int))
    drawn: dict[str, tuple[Images, np.ndarray]] = {
        "seen": (judge.seen, rows),
        "vae": (Seen(store, nsd_ids, lambda images: vae_round_trip(backbone, images, runtime.decode_memory)), rows),
        "mean_colour": (Seen(store, nsd_ids, _mean_colour), rows),
    }
    scorer = Scorer(judge, [], None, backbone.device)
    scores = {name: scorer.score(images, of)[0][OURS] for name, (images, of) in drawn.items()}
    # Last, since drawing may bring UNet and VAE to another precision.
    captions = [texts[0] if texts else "" for texts in store.captions(nsd_ids[chosen])]
    scores["text"] = scorer.score(_from_captions(backbone, captions, nsd_ids[chosen], seed, runtime), chosen)[0][OURS]
    return {
        name: {metric: _mean(values) for metric, values in by_metric.items()} | {"n_images": len(by_metric["pixcorr"])}
        for name, by_metric in scores.items()
    }


def _mean_colour(images: np.ndarray) -> np.ndarray:
    means = np.rint(images.mean((1, 2), keepdims=True)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(means, images.shape))


def _from_captions(
    backbone: Backbone, captions: list[str], nsd_ids: np.ndarray, seed: int, runtime: RuntimeConfig
) -> Held:
    """Draw an image of each caption."""
    config = SampleConfig(**TEXT_SAMPLING, seed=seed)
    context = backbone.encode_text(captions)
    sampler = Sampler(NeuroPictorPipeline.from_backbone(backbone), 0, config, runtime)
    parts = zip(batched(nsd_ids, config), context.split(config.batch_size), strict=True)
    return Held(np.concatenate([sampler.draw(jobs, {"context": part}) for jobs, part in parts])[:, None])


def vae_round_trip(backbone: Backbone, images: np.ndarray, memory: float) -> np.ndarray:
    """Encode and decode images uint8 [n, S, S, 3] by the posterior mean, within `memory` (GiB)."""
    mean, logvar = backbone.encode_pictures(resize_pictures(images, backbone.image_size), memory)
    return backbone.decode(backbone.latents(mean, logvar, torch.zeros_like(mean)), memory)


def _mean(values: np.ndarray) -> float | None:
    return round(float(np.nanmean(values)), 6) if np.isfinite(values).any() else None
