"""The simulated brain: an encoding model on the real HCP-MMP areas of the fsaverage mesh, and its noise.

Early areas see luminance, colour, contrast and contours through receptive fields laid out over each area; higher areas
add a nonlinear tuning to the scene's meaning. Neighbouring vertices resemble each other. People share tunings in part,
and each misplaces them on the cortex.

The model and its numbers were chosen from the literature before any decoding score was seen.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from neuropictor.nsd.constants import NCSNR_MEDIAN
from neuropictor.simulation.brain.areas import VISUAL_AREA_MODELS
from neuropictor.simulation.brain.features import ImageFeatures, image_features, reference_features
from neuropictor.simulation.brain.layout import Layout, make_layout, smooth_fields
from neuropictor.simulation.brain.noise import LARGEST_BETA, CorticalNoise
from neuropictor.simulation.brain.tuning import Tuning, make_tuning

if TYPE_CHECKING:
    from neuropictor.simulation.scenes.scene import Scene
    from neuropictor.surface import Geometry

# Subjects whose mean ncsnr is the configured one: the default subjects.
_LEVEL_SUBJECTS = (1, 2, 5)
# Other people's level around the configured one: log-normal spread, and limits as ratios.
_LEVEL_SPREAD, _LEVEL_LIMITS = 0.15, (0.65, 1.25)
# Spread (log) of reliability within an area, smooth over this many mm and independent; limits of a vertex' ncsnr.
_RELIABILITY_SMOOTH, _RELIABILITY_OWN, _RELIABILITY_LENGTH = 0.25, 0.2, 12.0
_NCSNR_LIMITS = (0.05, 2.25)
# A vertex whose responses differ less than this over the reference scenes does not respond to them.
_LEAST_SPREAD = 1e-3
# Noise (percent signal change) in and outside visual cortex, and its log-normal spread.
_NOISE_VISUAL, _NOISE_OTHER, _NOISE_SPREAD = 2.4, 1.05, 0.3
# Mean beta in and outside visual cortex.
_MEAN_VISUAL, _MEAN_OTHER, _MEAN_SPREAD = 1.9, -0.05, 0.5
# Share of a receptive field within the image from which the vertex counts as seeing all of it.
_WHOLE_COVERAGE = 0.5
_STREAM = 41
# Values made at a time: 4 Mi float32 are 16 MiB an array.
_VALUES_AT_ONCE = 4 * 2**20


class SimulatedBrain:
    """One simulated person.

    Parameters
    ----------
    geometry
        From `neuropictor.surface.load_geometry`.
    mesh
        ``fsaverage5``, ``fsaverage6`` or ``fsaverage``.
    subject
        Any whole number from 1. 1 to 8 stand for NSD's subjects; others are other people, e.g. for a population start.
    seed
        Of the simulation. People of one seed share the common part of their tunings.
    ncsnr
        Median single-trial noise ceiling signal-to-noise ratio over visual cortex, mean of subjects 1, 2 and 5;
        subjects keep NSD's ranking.
    smooth_noise
        Share of the noise variance that is smooth over cortex.
    columns
        Vertices of the mesh (left, then right) to make betas for, e.g. ``geometry.columns(mesh)``; default: all.

    Attributes
    ----------
    columns
        int [m], the mesh's vertices that betas have.
    visual
        int [v], which of them carry signal, as positions within `columns`.
    ncsnr
        float32 [v], the ratio of each of them.
    low_level
        float32 [v], share of each one's drive from low-level channels: 1 in V1, less in higher areas.
    """

    def __init__(
        self,
        geometry: Geometry,
        mesh: str,
        subject: int,
        seed: int,
        *,
        ncsnr: float = 0.42,
        smooth_noise: float = 0.5,
        columns: np.ndarray | None = None,
    ):
        if subject < 1:
            raise ValueError(
                f"subject is {subject!r}; allowed: whole numbers from 1 (e.g. 1 for NSD's first, 101 for somebody else)"
            )
        if not 0 < ncsnr <= 2:
            raise ValueError(f"simulate.ncsnr is {ncsnr}; allowed: above 0, up to 2 (e.g. 0.42)")
        self.mesh, self.subject, self.seed = mesh, subject, seed
        layout = _layout(geometry, mesh)
        xy = geometry.source_xy(mesh)
        self.columns = np.arange(len(xy)) if columns is None else np.asarray(columns, dtype=np.int64)
        seen = np.isin(layout.vertices, self.columns)
        self.visual = np.searchsorted(self.columns, layout.vertices[seen])

        rng = np.random.default_rng([seed, subject, _STREAM])
        tuning, coverage = make_tuning(layout, subject, seed)
        target = _target_ncsnr(layout, coverage, _level(subject, ncsnr, rng), rng)
        deviation, mean = _scale(xy, layout, rng)
        right = np.arange(len(xy)) >= len(xy) // 2
        self._noise = CorticalNoise(
            xy[self.columns], right[self.columns], deviation[self.columns], smooth_noise, seed, subject
        )
        self._mean = mean[self.columns]
        self._tuning: Tuning = tuning.subset(seen)
        self.ncsnr, self.low_level = target[seen], self._tuning.low_share
        response = self._tuning.response(reference_features(seed))
        self._centre = response.mean(axis=0)
        amplitude = (self.ncsnr * deviation[self.columns][self.visual]).astype(np.float32)
        spread = response.std(axis=0)
        self._gain = np.where(spread > _LEAST_SPREAD, amplitude / np.maximum(spread, _LEAST_SPREAD), 0)

    def signal(self, images: np.ndarray, scenes: Sequence[Scene | None]) -> np.ndarray:
        """Compute the responses to images, without noise.

        Parameters
        ----------
        images
            uint8 [n, 64, 64, 3].
        scenes
            The n scenes shown; None for images without objects.

        Returns
        -------
        numpy.ndarray
            float32 [n, v], percent signal change around the mean, at `visual`; there is no signal elsewhere.
        """
        return self.signal_of(image_features(images, scenes, self.seed))

    def signal_of(self, features: ImageFeatures) -> np.ndarray:
        """Compute the signal from features, which all people of a seed share."""
        return (self._tuning.response(features) - self._centre) * self._gain

    def responses(self, signal: np.ndarray, session: int) -> np.ndarray:
        """Simulate the betas of a session's trials.

        Parameters
        ----------
        signal
            float32 [T, v], one row a trial (repeat an image's row for its repeats).
        session
            Session, from 1; with seed and subject it sets noise and drift.

        Returns
        -------
        numpy.ndarray
            float32 [T, m], percent signal change; NaN at vertices missing in the session.
        """
        return np.concatenate(list(self.response_blocks(signal, session)))

    def response_blocks(self, signal: np.ndarray, session: int) -> Iterator[np.ndarray]:
        """Yield the same as `responses`, some trials at a time, so that memory does not grow with the mesh."""
        effect = self._noise.session(session)
        step = max(1, _VALUES_AT_ONCE // len(self.columns))
        for start in range(0, len(signal), step):
            block = self._noise.trials(session, start, min(start + step, len(signal)))
            block[:, self.visual] += signal[start : start + step]
            block *= effect.gain
            block += self._mean + effect.offset
            np.clip(block, -LARGEST_BETA, LARGEST_BETA, out=block)
            block[:, effect.missing] = np.nan
            yield block


@functools.lru_cache(maxsize=2)
def _layout(geometry: Geometry, mesh: str) -> Layout:
    return make_layout(geometry, mesh)


def _level(subject: int, ncsnr: float, rng: np.random.Generator) -> float:
    """Return a person's median ncsnr over visual cortex."""
    if subject in NCSNR_MEDIAN:
        return ncsnr * NCSNR_MEDIAN[subject] / float(np.mean([NCSNR_MEDIAN[s] for s in _LEVEL_SUBJECTS]))
    return ncsnr * float(np.clip(np.exp(rng.normal(0, _LEVEL_SPREAD)), *_LEVEL_LIMITS))


def _target_ncsnr(layout: Layout, coverage: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Return each visual vertex' ncsnr, float32 [v]: less where receptive fields leave the image."""
    models = [VISUAL_AREA_MODELS[name] for name in layout.area]
    reliability = np.array([model.reliability for model in models])
    low_level = np.array([model.low_level for model in models])
    reliability *= 1 - low_level * (1 - np.minimum(1, coverage / _WHOLE_COVERAGE))
    reliability *= np.exp(
        _RELIABILITY_SMOOTH * smooth_fields(layout.xy, 1, _RELIABILITY_LENGTH, rng)[:, 0]
        + _RELIABILITY_OWN * rng.standard_normal(len(models))
    )
    low, high = _NCSNR_LIMITS
    return np.clip(reliability * level / np.median(reliability), low * level, high * level).astype(np.float32)


def _scale(xy: np.ndarray, layout: Layout, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return noise level and mean beta of every vertex of the mesh, float32 [2 * n] each."""
    smooth = smooth_fields(xy, 2, _RELIABILITY_LENGTH, rng)
    independent = rng.standard_normal((len(xy), 2), dtype=np.float32)
    mixed = np.sqrt(np.float32(0.5)) * (smooth + independent)
    visual = np.zeros(len(xy), bool)
    visual[layout.vertices] = True
    deviation = np.where(visual, _NOISE_VISUAL, _NOISE_OTHER) * np.exp(_NOISE_SPREAD * mixed[:, 0])
    mean = np.where(visual, _MEAN_VISUAL * np.exp(_MEAN_SPREAD * mixed[:, 1]), _MEAN_OTHER + _MEAN_SPREAD * mixed[:, 1])
    return deviation.astype(np.float32), mean.astype(np.float32)
