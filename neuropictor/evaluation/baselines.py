"""What the networks must beat: the mean training image and two linear baselines, on the same test images.

`ridge`
    Mean response over repeats -> VAE latents by ridge regression, decoded by the frozen VAE.
`ridge_diffusion`
    Ridge regression to the latents and to the text context (mean of the captions' text features); the frozen backbone
    starts from the noised latents under that context: the idea of Brain-Diffuser (Ozcelik & VanRullen 2023), and the
    stronger baseline. The networks' sampler draws it: the same noise, solver, guidance, precision, rounding and choice.
`mean_image`
    The mean training image for every test image.

Everything is fitted on training images and chosen on validation images.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from neuropictor.data.alignment import latent_features, text_features
from neuropictor.data.latents import LatentStore
from neuropictor.data.reconstructions import Reconstructions, writing
from neuropictor.data.responses import ResponseStore
from neuropictor.data.ridge import Decomposition, Ridge
from neuropictor.data.rows import evenly_spaced
from neuropictor.data.stimuli import StimulusStore, resize_images
from neuropictor.evaluation.judges import Describer, load_describer, look
from neuropictor.evaluation.metrics import distance, pixcorr
from neuropictor.evaluation.tables import of_kind
from neuropictor.models.backbone import Backbone
from neuropictor.models.device import prepare_device
from neuropictor.models.pipeline import NeuroPictorPipeline
from neuropictor.records.checksums import verify
from neuropictor.records.files import Folder
from neuropictor.records.progress import progress
from neuropictor.records.record import RunRecord
from neuropictor.sampling import Job, Sampler, batched, write_drawn

if TYPE_CHECKING:
    from neuropictor.config import EvaluateConfig, RuntimeConfig, SampleConfig

log = logging.getLogger(__name__)

RESCALES = (0.0, 0.5, 1.0)
"""Powers of the spread ratio among which validation chooses for `ridge_diffusion`; 1 is Brain-Diffuser's rule."""

RESCALE_IMAGES, RESCALE_STEPS = 32, 12
"""Validation images and most steps for this choice: a fifth of the test's cost."""

_IMAGES_AT_ONCE = 64


def fit_baselines(
    responses: Path,
    stimuli: Path,
    latents: Path,
    backbone: str | Path,
    config: EvaluateConfig,
    sample: SampleConfig,
    runtime: RuntimeConfig,
    out: dict[str, Path],
    weights: Folder | None = None,
) -> None:
    """Reconstruct one subject's test images by all baselines.

    Parameters
    ----------
    responses, stimuli, latents
        Prepared stores.
    backbone
        Source of the backbone.
    config
        `ridge_alphas`, `diffusion_strength` and `networks` are used.
    sample
        All settings are used, so that the diffusion baseline is drawn as the networks' images are.
    runtime
        Section of the configuration.
    out
        Files to write for "mean_image", "ridge" and "ridge_diffusion"; one record `baselines.run.json` beside them.
    weights
        Folder of `fetch_weights`; needed with `networks: published`.
    """
    if sorted(out) != sorted(of_kind("baseline")):
        raise ValueError(
            f"out has the keys {sorted(out)}; allowed are exactly {', '.join(sorted(of_kind('baseline')))}"
        )
    device = prepare_device(runtime)
    verify(responses, stimuli, latents)
    store, images = ResponseStore(responses), StimulusStore(stimuli)
    used = {name: getattr(config, name) for name in ("ridge_alphas", "diffusion_strength", "networks")}
    with RunRecord(
        out["ridge"].parent / "baselines.run.json",
        "baselines",
        config={"evaluate": used, "sample": sample},
        seed=sample.seed,
        inputs=[responses, stimuli, latents],
        outputs=out.values(),
    ) as record:
        train, validation = store.fitting_images()
        ids = {"train": train, "validation": validation, "test": store.images("test")}
        for split, nsd_ids in ids.items():
            if not len(nsd_ids):
                raise ValueError(
                    f"{responses}: no {split} images; at least one is needed, for example 60 for validation"
                )
        model = Backbone.load(backbone).to(device)
        sampler = Sampler(NeuroPictorPipeline.from_backbone(model), store.subject, sample, runtime)
        about = Reconstructions(np.empty(0), ids["test"], "", store.subject, sampler.label(store.data))
        mean = mean_image(images, ids["train"])
        with writing(out["mean_image"], replace(about, model="mean_image"), samples=1) as writer:
            for row in range(len(ids["test"])):
                writer.write(row, 0, mean[None, None])
        linear = _Linear(model, store, LatentStore(latents), ids, config.ridge_alphas, sample.most_repeats)
        describer = load_describer(config.networks, model, weights, device)
        log.info("Subject %s: ridge penalties %s", store.subject, linear.penalties)
        with writing(out["ridge"], replace(about, model="ridge"), samples=1) as writer:
            predicted, _ = linear.predict(ids["test"], 0.0)
            for start in range(0, len(predicted), sample.batch_size):
                part = model.decode(predicted[start : start + sample.batch_size], runtime.decode_memory)
                writer.write(start, 0, part[:, None])
        draw = _Draw(sampler, linear, config.diffusion_strength)
        rescale, scores = choose_rescale(draw, ids["validation"], images, describer)
        log.info("Subject %s: ridge_diffusion rescales by %s, validation scores %s", store.subject, rescale, scores)
        batches = batched(ids["test"], sample)
        drawn = draw(progress(batches, "Drawing ridge_diffusion", unit="batch"), ids["test"], rescale)
        write_drawn(out["ridge_diffusion"], replace(about, model="ridge_diffusion"), drawn, sample)
        store.close()
        record.add(
            subject=store.subject,
            data=store.data,
            images={split: len(nsd_ids) for split, nsd_ids in ids.items()},
            penalties=linear.penalties,
            rescale=rescale,
            rescale_validation_scores=scores,
        )


def mean_image(stimuli: StimulusStore, nsd_ids: np.ndarray) -> np.ndarray:
    """Return the rounded mean of images, uint8 [S, S, 3]."""
    total = np.zeros((stimuli.size, stimuli.size, 3), np.int64)
    for start in range(0, len(nsd_ids), _IMAGES_AT_ONCE):
        total += stimuli.images(nsd_ids[start : start + _IMAGES_AT_ONCE]).sum(0, dtype=np.int64)
    return np.rint(total / len(nsd_ids)).astype(np.uint8)


class _Linear:
    """Ridge regressions of one subject's responses to latents and context."""

    def __init__(
        self,
        backbone: Backbone,
        store: ResponseStore,
        latents: LatentStore,
        ids: dict[str, np.ndarray],
        alphas: list[float],
        most_repeats: int | None,
    ):
        self.backbone, self.store, self.most_repeats = backbone, store, most_repeats
        decomposition = Decomposition.of(store.mean_response(ids["train"]))
        validation = store.mean_response(ids["validation"])
        channels, length = backbone.latent_shape[0], backbone.context_shape[0]
        self.latents, self.context = (
            Ridge.fit(
                decomposition,
                read(latents, ids["train"]),
                validation,
                read(latents, ids["validation"]),
                np.repeat(np.arange(groups), size // groups),
                alphas,
            )
            for read, groups, size in (
                (latent_features, channels, int(np.prod(backbone.latent_shape))),
                (text_features, length, int(np.prod(backbone.context_shape))),
            )
        )

    @property
    def penalties(self) -> dict[str, dict[str, int]]:
        """Number of targets by chosen penalty."""
        return {
            name: {
                f"{alpha:g}": int(count)
                for alpha, count in zip(*np.unique(fit.penalty, return_counts=True), strict=True)
            }
            for name, fit in (("latents", self.latents), ("context", self.context))
        }

    def predict(self, nsd_ids: np.ndarray, rescale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scaled latents [n, C, h, w] and contexts [n, L, D] of the images' responses, as in sampling."""
        responses = self.store.mean_response(nsd_ids, self.most_repeats)
        moments = torch.from_numpy(self.latents.predict(responses, rescale).astype(np.float32))
        context = torch.from_numpy(self.context.predict(responses, rescale).astype(np.float32))
        moments = moments.reshape(-1, *self.backbone.latent_shape)
        nothing = torch.zeros_like(moments)
        return self.backbone.latents(moments, nothing, nothing), context.reshape(-1, *self.backbone.context_shape)


class _Draw:
    """Draws `ridge_diffusion` images."""

    def __init__(self, sampler: Sampler, linear: _Linear, strength: float):
        self.sampler, self.linear, self.strength = sampler, linear, strength

    def __call__(
        self, batches: Iterable[list[Job]], nsd_ids: np.ndarray, rescale: float, most_steps: int | None = None
    ) -> Iterator[np.ndarray]:
        """Yield each batch's images, uint8 [n, S, S, 3], of those of `nsd_ids`; with `most_steps`, in no more steps."""
        latents, context = self.linear.predict(nsd_ids, rescale)
        steps = self.sampler.config.steps
        for jobs in batches:
            rows = np.searchsorted(nsd_ids, [nsd_id for nsd_id, _ in jobs])
            inputs = {"context": context[rows], "initial_latents": latents[rows]}
            options = {"strength": self.strength, "num_inference_steps": min(steps, most_steps or steps)}
            yield self.sampler.draw(jobs, inputs, **options)


def choose_rescale(
    draw: _Draw, nsd_ids: np.ndarray, stimuli: StimulusStore, describer: Describer
) -> tuple[float, dict[str, float]]:
    """Choose how far predictions are rescaled by how much validation reconstructions resemble the seen images.

    The score is the mean of pixel correlation and of the correlation in the judge's image space.

    Returns
    -------
    rescale : float
    scores : dict
        Score of every candidate.
    """
    nsd_ids = nsd_ids[evenly_spaced(len(nsd_ids), RESCALE_IMAGES)]
    seen = stimuli.images(nsd_ids)
    first = batched(nsd_ids, draw.sampler.config.model_copy(update={"samples": 1}))
    scores = {}
    for rescale in RESCALES:
        drawn = resize_images(np.concatenate(list(draw(first, nsd_ids, rescale, RESCALE_STEPS))), stimuli.size)
        features = [look(describer, images) for images in (drawn, seen)]
        resemblance = 1.0 - distance(features[0][:, None], features[1]).mean()
        scores[f"{rescale:g}"] = round(float(0.5 * (pixcorr(drawn[:, None], seen).mean() + resemblance)), 4)
    return float(max(scores, key=scores.__getitem__)), scores
