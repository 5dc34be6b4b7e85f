"""Betas without the signal: noise, partly smooth over cortex, outlier trials, and drift between sessions."""

from dataclasses import dataclass

import numpy as np

from neuropictor.simulation.brain.layout import wave_basis

#: Largest absolute beta, percent signal change; NSD's first session of subject 1 spans -70.4 to 69.8.
LARGEST_BETA = 70.4

# Gaussian correlation length of the smooth part in mm; independent functions a hemisphere.
_SMOOTH_LENGTH = 8.0
_SMOOTH_WAVES = 128
# Share of the smooth variance that a whole hemisphere has in common, and its correlation between the hemispheres.
_GLOBAL_SHARE = 0.15
_GLOBAL_BETWEEN = 0.7
# Trials differ in noise level as a t distribution's scale does; marginal tails are those of t with this many degrees
# of freedom.
_TAIL_DEGREES = 8.0
# Motion-like trials: how often, and their noise level (log-normal, relative to other trials).
_OUTLIER_RATE = 0.004
_OUTLIER_LEVEL, _OUTLIER_SPREAD = 4.0, 0.5
# Drift from session to session: gain of the whole session and over cortex; offset likewise, in percent signal change.
_GAIN_COMMON, _GAIN_LOCAL = 0.08, 0.05
_OFFSET_COMMON, _OFFSET_LOCAL = 0.15, 0.45
# Share of sessions in which some vertices were not scanned, and the largest share of vertices.
_MISSING_RATE, _MISSING_MOST = 0.5, 9

# Random streams of one subject.
_STREAM_BASIS, _STREAM_TRIAL, _STREAM_SESSION = 31, 32, 33


@dataclass(frozen=True)
class SessionEffect:
    """A session's deviation: gain [m] (ratio), offset [m] (percent signal change), vertices without data (int [k])."""

    gain: np.ndarray
    offset: np.ndarray
    missing: np.ndarray


class CorticalNoise:
    """Noise of one person.

    Parameters
    ----------
    xy
        float32 [m, 2], flat coordinates in mm; NaN off the map.
    right
        bool [m], right hemisphere.
    deviation
        float32 [m], standard deviation of the noise in percent signal change.
    smooth_share
        Share of the variance that is smooth over cortex, 0 to 1.
    seed, subject
        Noise depends on these, the session and the trial alone, not on how many trials are drawn at a time.
    """

    def __init__(
        self, xy: np.ndarray, right: np.ndarray, deviation: np.ndarray, smooth_share: float, seed: int, subject: int
    ):
        if not 0 <= smooth_share <= 1:
            raise ValueError(f"simulate.smooth_noise is {smooth_share}; allowed: 0 to 1 (e.g. 0.5)")
        self._seeds = (seed, subject)
        self._right = right.astype(np.int64)
        typical_square = 1 + _OUTLIER_RATE * (_OUTLIER_LEVEL**2 * np.exp(2 * _OUTLIER_SPREAD**2) - 1)
        scale = deviation / np.sqrt(typical_square)
        self._independent = (scale * np.sqrt(1 - smooth_share)).astype(np.float32)
        self._common = (scale * np.sqrt(smooth_share * _GLOBAL_SHARE)).astype(np.float32)
        local = (scale * np.sqrt(smooth_share * (1 - _GLOBAL_SHARE))).astype(np.float32)
        self._sides = [np.flatnonzero(right == side) for side in (False, True)]
        rng = np.random.default_rng([seed, subject, _STREAM_BASIS])
        self._bases = []
        for side in self._sides:
            basis = wave_basis(xy[side], _SMOOTH_LENGTH, rng, _SMOOTH_WAVES)
            self._bases.append(np.ascontiguousarray((basis * local[side, None]).T))
        self._local = local

    def trials(self, session: int, start: int, stop: int) -> np.ndarray:
        """Draw the noise of trials `start` to `stop` (0-based, exclusive) of a session; float32 [T, m]."""
        m = len(self._right)
        waves = np.empty((stop - start, 2, 2 * _SMOOTH_WAVES), np.float32)
        common = np.empty((stop - start, 2), np.float32)
        level = np.empty(stop - start, np.float32)
        noise = np.empty((stop - start, m), np.float32)
        for row, trial in enumerate(range(start, stop)):
            rng = np.random.default_rng([*self._seeds, _STREAM_TRIAL, session, trial])
            level[row] = np.sqrt((_TAIL_DEGREES - 2) / rng.chisquare(_TAIL_DEGREES))
            outlier, size = rng.random(), rng.lognormal(np.log(_OUTLIER_LEVEL), _OUTLIER_SPREAD)
            level[row] *= size if outlier < _OUTLIER_RATE else 1
            shared, separate = rng.standard_normal(), rng.standard_normal(2)
            common[row] = np.sqrt(_GLOBAL_BETWEEN) * shared + np.sqrt(1 - _GLOBAL_BETWEEN) * separate
            waves[row] = rng.standard_normal(waves.shape[1:], dtype=np.float32)
            rng.standard_normal(dtype=np.float32, out=noise[row])
        noise *= self._independent
        for number, (side, basis) in enumerate(zip(self._sides, self._bases, strict=True)):
            if len(side):
                # Vertices ascend, left before right, so a hemisphere is a slice.
                span = slice(side[0], side[-1] + 1)
                noise[:, span] += waves[:, number] @ basis
                noise[:, span] += common[:, number, None] * self._common[span]
        noise *= level[:, None]
        return noise

    def session(self, session: int) -> SessionEffect:
        """Draw the deviation of a session (1-based)."""
        rng = np.random.default_rng([*self._seeds, _STREAM_SESSION, session])
        gain = np.full(len(self._right), rng.normal(0, _GAIN_COMMON), np.float32)
        offset = np.full(len(self._right), rng.normal(0, _OFFSET_COMMON), np.float32)
        for side, basis in zip(self._sides, self._bases, strict=True):
            draws = rng.standard_normal((2, 2 * _SMOOTH_WAVES), dtype=np.float32)
            fields = (draws @ basis) / np.maximum(self._local[side], 1e-6)
            gain[side] += _GAIN_LOCAL * fields[0]
            offset[side] += _OFFSET_LOCAL * fields[1]
        count = int(rng.integers(2, _MISSING_MOST)) if rng.random() < _MISSING_RATE else 0
        missing = np.sort(rng.choice(len(self._right), min(count, len(self._right)), replace=False))
        return SessionEffect(np.exp(gain), offset, missing)
