"""What the networks must beat, on the same test images: training images, and two linear baselines; and a ceiling.

`ridge`
    Mean response over repeats -> VAE latents by ridge regression, decoded by the frozen VAE.
`ridge_diffusion`
    Ridge regression to the latents and to the text context (mean of the captions' text features); the frozen backbone
    starts from the noised latents under that context: the idea of Brain-Diffuser (Ozcelik & VanRullen 2023), and the
    stronger baseline. The networks' sampler draws it: the same noise, solver, guidance, precision, rounding and choice.
`nearest`
    The training image whose mean response correlates most with the test image's: what retrieval gives.
`mean_image`
    The mean training image for every test image.
`true_features`
    `ridge_diffusion` with the test image's own latents and texts in the place of predicted ones: what it would be were
    the prediction perfect. A ceiling.

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
from neuropictor.evaluation.similarity import correlation_matrix
from neuropictor.evaluation.tables import FITTED
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
    tested: Path | None = None,
) -> None:
    """Reconstruct one subject's test images by all baselines, and draw them from their true features.

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
        Files to write for each model of `tables.FITTED`, but for the ceiling where images are `tested` that have no
        latents; one record `baselines.run.json` beside them.
    weights
        Folder of `fetch_weights`; needed with `networks: published`.
    tested
        Responses of the subject to other test images, in place of those in `responses`; these images are not read.
    """
    expected = sorted(set(FITTED) - ({"true_features"} if tested else set()))
    if sorted(out) != expected:
        raise ValueError(f"out has the keys {sorted(out)}; allowed are exactly {', '.join(expected)}")
    device = prepare_device(runtime)
    read = [responses, stimuli, latents, *([tested] if tested else [])]
    verify(*read)
    store, images = ResponseStore(responses), StimulusStore(stimuli)
    shown = ResponseStore(tested) if tested else store
    used = {name: getattr(config, name) for name in ("ridge_alphas", "diffusion_strength", "networks")}
    with RunRecord(
        out["ridge"].parent / "baselines.run.json",
        "baselines",
        config={"evaluate": used, "sample": sample},
        seed=sample.seed,
        inputs=read,
        outputs=out.values(),
    ) as record:
        train, validation = store.fitting_images()
        ids = {"train": train, "validation": validation, "test": shown.images("test")}
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
        tests = shown.mean_response(ids["test"], sample.most_repeats)
        with writing(out["nearest"], replace(about, model="nearest"), samples=1) as writer:
            for row, nsd_id in enumerate(nearest_images(tests, store, ids["train"])):
                writer.write(row, 0, images.images([nsd_id])[None])
        features = LatentStore(latents)
        linear = _Linear(model, store, features, ids, config.ridge_alphas)
        describer = load_describer(config.networks, model, weights, device)
        log.info("Subject %s: ridge penalties %s", store.subject, linear.penalties)
        with writing(out["ridge"], replace(about, model="ridge"), samples=1) as writer:
            predicted, _ = linear.predict(tests, 0.0)
            for start in range(0, len(predicted), sample.batch_size):
                part = model.decode(predicted[start : start + sample.batch_size], runtime.decode_memory)
                writer.write(start, 0, part[:, None])
        draw = _Draw(sampler, config.diffusion_strength)
        validated = store.mean_response(ids["validation"], sample.most_repeats)
        rescale, scores = choose_rescale(draw, linear, ids["validation"], validated, images, describer)
        log.info("Subject %s: ridge_diffusion rescales by %s, validation scores %s", store.subject, rescale, scores)
        batches, test = batched(ids["test"], sample), ids["test"]
        drawn_from = {
            "ridge_diffusion": lambda: linear.predict(tests, rescale),
            "true_features": lambda: as_drawn(model, latent_features(features, test), text_features(features, test)),
        }
        for name, inputs in drawn_from.items():
            if name in out:
                drawn = draw(progress(batches, f"Drawing {name}", unit="batch"), test, *inputs())
                write_drawn(out[name], replace(about, model=name), drawn, sample)
        store.close()
        shown.close()
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


def nearest_images(responses: np.ndarray, store: ResponseStore, nsd_ids: np.ndarray) -> np.ndarray:
    """Return the image whose mean response correlates most with each of some responses.

    Parameters
    ----------
    responses
        float32 [n, V].
    store
        Responses to the images among which is chosen.
    nsd_ids
        int [N]: these images.

    Returns
    -------
    int array [n]
    """
    correlations = correlation_matrix(responses, store.mean_response(nsd_ids), np.float32)
    return nsd_ids[np.nan_to_num(correlations).argmax(1)]


class _Linear:
    """Ridge regressions of one subject's responses to latents and context."""

    def __init__(
        self,
        backbone: Backbone,
        store: ResponseStore,
        latents: LatentStore,
        ids: dict[str, np.ndarray],
        alphas: list[float],
    ):
        self.backbone = backbone
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

    def predict(self, responses: np.ndarray, rescale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scaled latents [n, C, h, w] and contexts [n, L, D] of responses [n, V], as in sampling."""
        return as_drawn(
            self.backbone, self.latents.predict(responses, rescale), self.context.predict(responses, rescale)
        )


def as_drawn(backbone: Backbone, latents: np.ndarray, texts: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Shape unscaled latents [n, C * h * w] and text features [n, L * D] as sampling takes them, latents scaled."""
    moments = torch.from_numpy(latents.astype(np.float32)).reshape(-1, *backbone.latent_shape)
    context = torch.from_numpy(texts.astype(np.float32)).reshape(-1, *backbone.context_shape)
    nothing = torch.zeros_like(moments)
    return backbone.latents(moments, nothing, nothing), context


class _Draw:
    """Draws images from latents, noised, under a context."""

    def __init__(self, sampler: Sampler, strength: float):
        self.sampler, self.strength = sampler, strength

    def __call__(
        self,
        batches: Iterable[list[Job]],
        nsd_ids: np.ndarray,
        latents: torch.Tensor,
        context: torch.Tensor,
        most_steps: int | None = None,
    ) -> Iterator[np.ndarray]:
        """Yield each batch's images, uint8 [n, S, S, 3], of those of `nsd_ids`; with `most_steps`, in no more steps."""
        steps = self.sampler.config.steps
        for jobs in batches:
            rows = np.searchsorted(nsd_ids, [nsd_id for nsd_id, _ in jobs])
            inputs = {"context": context[rows], "initial_latents": latents[rows]}
            options = {"strength": self.strength, "num_inference_steps": min(steps, most_steps or steps)}
            yield self.sampler.draw(jobs, inputs, **options)


def choose_rescale(
    draw: _Draw,
    linear: _Linear,
    nsd_ids: np.ndarray,
    responses: np.ndarray,
    stimuli: StimulusStore,
    describer: Describer,
) -> tuple[float, dict[str, float]]:
    """Choose how far predictions are rescaled by how much validation reconstructions resemble the seen images.

    The score is the mean of pixel correlation and of the correlation in the judge's image space.

    Parameters
    ----------
    draw, linear
        Draws images from what the regressions predict.
    nsd_ids, responses
        int [n] and float32 [n, V]: validation images, and the responses to them.
    stimuli
        Has these images.
    describer
        The judge.

    Returns
    -------
    rescale : float
    scores : dict
        Score of every candidate.
    """
    rows = evenly_spaced(len(nsd_ids), RESCALE_IMAGES)
    nsd_ids, responses = nsd_ids[rows], responses[rows]
    seen = stimuli.images(nsd_ids)
    first = batched(nsd_ids, draw.sampler.config.model_copy(update={"samples": 1}))
    scores = {}
    for rescale in RESCALES:
        predicted = linear.predict(responses, rescale)
        drawn = resize_images(np.concatenate(list(draw(first, nsd_ids, *predicted, RESCALE_STEPS))), stimuli.size)
        features = [look(describer, images) for images in (drawn, seen)]
        resemblance = 1.0 - distance(features[0][:, None], features[1]).mean()
        scores[f"{rescale:g}"] = round(float(0.5 * (pixcorr(drawn[:, None], seen).mean() + resemblance)), 4)
    return float(max(scores, key=scores.__getitem__)), scores
