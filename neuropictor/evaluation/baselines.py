"""What the networks must beat: the mean training picture and two linear baselines, on the same test pictures.

`ridge`
    Mean response over repeats -> VAE latents by ridge regression, decoded by the frozen VAE.
`ridge_diffusion`
    Ridge regression to the latents and to the text context (mean of the captions' text features); the frozen backbone
    starts from the noised latents under that context: the idea of Brain-Diffuser (Ozcelik & VanRullen 2023), the strong
    one.
`mean_picture`
    The mean training picture for every test picture.

Everything is fitted on training pictures and chosen on validation pictures.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from neuropictor.checksums import verify
from neuropictor.data.alignment import latent_features, text_features
from neuropictor.data.latents import LatentStore
from neuropictor.data.reconstructions import Reconstructions, write_reconstructions
from neuropictor.data.responses import ResponseStore
from neuropictor.data.ridge import Decomposition, Ridge
from neuropictor.data.stimuli import StimulusStore, resize_pictures
from neuropictor.evaluation.diffusion import diffuse, picture_noise
from neuropictor.evaluation.measures import distance, pixcorr
from neuropictor.models.backbone import Backbone
from neuropictor.models.device import prepare_device
from neuropictor.runlog import RunRecord

if TYPE_CHECKING:
    from neuropictor.config import EvaluateConfig, RuntimeConfig, SampleConfig

log = logging.getLogger(__name__)

MODELS = ("mean_picture", "ridge", "ridge_diffusion")

RESCALES = (0.0, 0.5, 1.0)
"""Powers of the spread ratio among which validation chooses for `ridge_diffusion`; 1 is Brain-Diffuser's rule."""

RESCALE_PICTURES, RESCALE_STEPS = 32, 12
"""The choice looks at so many validation pictures, drawn with at most so many steps: a fifth of the test's cost."""

_PICTURES_AT_ONCE = 256


def fit_baselines(
    responses: Path,
    stimuli: Path,
    latents: Path,
    backbone: str | Path,
    config: EvaluateConfig,
    sample: SampleConfig,
    runtime: RuntimeConfig,
    out: dict[str, Path],
) -> None:
    """Reconstruct one subject's test pictures by all baselines.

    Parameters
    ----------
    responses, stimuli, latents : Path
        Prepared stores.
    backbone : str or Path
    config : EvaluateConfig
        `ridge_alphas` and `diffusion_strength` are used.
    sample : SampleConfig
        All of it is used, so that the diffusion baseline is drawn as the networks' pictures are.
    runtime : RuntimeConfig
    out : dict of Path
        Files to write for "mean_picture", "ridge" and "ridge_diffusion"; one record `baselines.run.json` beside them.
    """
    if set(out) != set(MODELS):
        raise ValueError(f"out has the keys {sorted(out)}; allowed are exactly {', '.join(MODELS)}")
    device = prepare_device(runtime)
    verify(responses, stimuli, latents)
    store, pictures = ResponseStore(responses), StimulusStore(stimuli)
    seeds = {"ridge_alphas": config.ridge_alphas, "diffusion_strength": config.diffusion_strength}
    with RunRecord(
        out["ridge"].parent / "baselines.run.json",
        "baselines",
        config={"evaluate": seeds, "sample": sample},
        seed=sample.seed,
        inputs=[responses, stimuli, latents],
        outputs=out.values(),
    ) as record:
        train, validation = store.fitting_pictures()
        ids = {"train": train, "validation": validation, "test": store.pictures("test")}
        for split, found in ids.items():
            if not len(found):
                raise ValueError(
                    f"{responses}: no {split} pictures; at least one is needed, for example 60 for validation"
                )
        empty = Reconstructions(np.empty(0), ids["test"], "", store.subject, store.data)

        def write(model: str, drawn: np.ndarray) -> None:
            write_reconstructions(out[model], replace(empty, model=model, pictures=drawn))

        mean = mean_picture(pictures, ids["train"])
        write("mean_picture", np.repeat(mean[None, None], len(ids["test"]), axis=0))
        model = Backbone.load(backbone).to(device)
        linear = _Linear(model, store, LatentStore(latents), ids, config.ridge_alphas, sample.most_repeats)
        log.info("Subject %d: ridge penalties %s", store.subject, linear.penalties)
        write("ridge", linear.decoded(ids["test"])[:, None])
        draw = _Draw(model, linear, store.subject, sample, config.diffusion_strength)
        rescale, scores = choose_rescale(draw, ids["validation"], pictures)
        log.info("Subject %d: ridge_diffusion rescales by %s, validation scores %s", store.subject, rescale, scores)
        drawn = [draw(ids["test"], rescale, number) for number in range(sample.samples)]
        write("ridge_diffusion", np.stack(drawn, axis=1))
        store.close()
        record.add(
            subject=store.subject,
            data=store.data,
            pictures={split: len(found) for split, found in ids.items()},
            penalties=linear.penalties,
            rescale=rescale,
            rescale_validation_scores=scores,
        )


def mean_picture(stimuli: StimulusStore, nsd_ids: np.ndarray) -> np.ndarray:
    """Return the rounded mean of pictures, uint8 [S, S, 3]."""
    total = np.zeros((stimuli.size, stimuli.size, 3), np.int64)
    for start in range(0, len(nsd_ids), _PICTURES_AT_ONCE):
        total += stimuli.pictures(nsd_ids[start : start + _PICTURES_AT_ONCE]).sum(0, dtype=np.int64)
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
        """How many targets got which penalty."""
        return {
            name: {
                f"{alpha:g}": int(count)
                for alpha, count in zip(*np.unique(fit.penalty, return_counts=True), strict=True)
            }
            for name, fit in (("latents", self.latents), ("context", self.context))
        }

    def predict(self, nsd_ids: np.ndarray, rescale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scaled latents [n, C, h, w] and contexts [n, L, D] of the pictures' responses, as in sampling."""
        responses = self.store.mean_response(nsd_ids, self.most_repeats)
        moments = torch.from_numpy(self.latents.predict(responses, rescale).astype(np.float32))
        context = torch.from_numpy(self.context.predict(responses, rescale).astype(np.float32))
        moments = moments.reshape(-1, *self.backbone.latent_shape)
        nothing = torch.zeros_like(moments)
        return self.backbone.latents(moments, nothing, nothing), context.reshape(-1, *self.backbone.context_shape)

    def decoded(self, nsd_ids: np.ndarray) -> np.ndarray:
        """Decode the predicted latents as they are, uint8 [n, S, S, 3]."""
        latents, _ = self.predict(nsd_ids, 0.0)
        parts = torch.split(latents.to(self.backbone.device), _PICTURES_AT_ONCE)
        return np.concatenate([self.backbone.decode(part) for part in parts])


class _Draw:
    """Draws `ridge_diffusion` pictures."""

    def __init__(self, backbone: Backbone, linear: _Linear, subject: int, sample: SampleConfig, strength: float):
        self.backbone, self.linear, self.subject, self.sample = backbone, linear, subject, sample
        self.strength = strength

    def __call__(self, nsd_ids: np.ndarray, rescale: float, number: int, most_steps: int | None = None) -> np.ndarray:
        """Return sample `number` of each picture, uint8 [n, S, S, 3]; with `most_steps`, in no more DDIM steps."""
        latents, context = self.linear.predict(nsd_ids, rescale)
        return diffuse(
            self.backbone,
            latents,
            context,
            picture_noise(self.backbone.latent_shape, self.sample.seed, self.subject, nsd_ids, number),
            steps=min(self.sample.steps, most_steps or self.sample.steps),
            strength=self.strength,
            guidance_scale=self.sample.guidance_scale,
            batch_size=self.sample.batch_size,
        )


def choose_rescale(draw: _Draw, nsd_ids: np.ndarray, stimuli: StimulusStore) -> tuple[float, dict[str, float]]:
    """Choose how far predictions are rescaled by how much validation reconstructions resemble the seen pictures.

    The score is the mean of pixel correlation and of the correlation in the backbone's image space (where it has one).

    Returns
    -------
    rescale : float
    scores : dict
        Score of every candidate.
    """
    nsd_ids = nsd_ids[np.unique(np.linspace(0, len(nsd_ids) - 1, min(RESCALE_PICTURES, len(nsd_ids))).astype(int))]
    seen = stimuli.pictures(nsd_ids)
    scores = {}
    for rescale in RESCALES:
        drawn = resize_pictures(draw(nsd_ids, rescale, 0, RESCALE_STEPS), stimuli.size)
        score = pixcorr(drawn[:, None], seen).mean()
        if draw.backbone.image_encoder is not None:
            features = [draw.backbone.image_features(pictures).cpu().numpy() for pictures in (drawn, seen)]
            score = 0.5 * (score + 1.0 - distance(features[0][:, None], features[1]).mean())
        scores[f"{rescale:g}"] = round(float(score), 4)
    return float(max(scores, key=scores.__getitem__)), scores
