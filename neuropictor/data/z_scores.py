"""Z-scores of responses and their noise ceiling."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import h5py
import numpy as np

from neuropictor.data.rows import read_rows
from neuropictor.nsd.constants import REPEATS

log = logging.getLogger(__name__)

_IMAGES_AT_ONCE = 64
_ROWS_AT_ONCE = 32  # trials: small enough to stay in cache, as fresh memory costs more than arithmetic
_FEW = 0.2  # share of the trials
_LEAST_SPREAD = 0.1  # of responses that are said to be z-scores
_HELD_LIMIT = 2**30  # bytes of responses held in memory at once; 40 sessions are 535 MB


class Statistics:
    """Mean and spread of responses over trials, at each vertex.

    Attributes
    ----------
    trials
        Trials that they are taken over.
    number
        int [V]: trials with a valid response.
    mean, squares
        float64 [V]: mean, and sum of squared deviations from it.
    """

    def __init__(self, trials: int, number: np.ndarray, mean: np.ndarray, squares: np.ndarray):
        self.trials, self.number, self.mean, self.squares = trials, number, mean, squares

    @classmethod
    def of(cls, responses: np.ndarray, counted: np.ndarray) -> Statistics:
        """Compute them over the `counted` [T] trials of `responses` [T, V], which may hold NaN."""
        trials = np.flatnonzero(counted)
        blocks = [trials[start : start + _ROWS_AT_ONCE] for start in range(0, len(trials), _ROWS_AT_ONCE)]
        number = np.zeros(responses.shape[1], np.int64)
        total, squares = np.zeros(responses.shape[1]), np.zeros(responses.shape[1])
        every = (responses[start : start + _ROWS_AT_ONCE] for start in range(0, len(responses), _ROWS_AT_ONCE))
        largest = max((np.abs(part).max(initial=0, where=np.isfinite(part)) for part in every), default=0)
        kind = np.float32 if 1e-15 < largest < 1e15 else np.float64  # float32 cannot hold the squares of others
        with np.errstate(invalid="ignore", divide="ignore"):
            for rows in blocks:
                values = responses[rows]
                valid = np.isfinite(values)
                number += valid.sum(0)
                if not valid.all():
                    values[~valid] = 0
                total += values.sum(0, dtype=np.float64)
            mean = total / number
            near = mean.astype(kind)
            for rows in blocks:
                values = responses[rows].astype(kind, copy=False)
                values -= near
                values[~np.isfinite(values)] = 0
                squares += np.square(values, out=values).sum(0, dtype=np.float64)
        return cls(len(trials), number, mean, squares)

    @classmethod
    def joined(cls, parts: Iterable[Statistics]) -> Statistics:
        """Combine those of several sessions (Chan, Golub & LeVeque 1979)."""
        parts = list(parts)
        number = np.sum([part.number for part in parts], axis=0)
        means = np.nan_to_num([part.mean for part in parts])
        weights = np.array([part.number for part in parts])
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (means * weights).sum(0) / number
        squares = np.sum([part.squares for part in parts], axis=0) + (weights * np.square(means - mean)).sum(0)
        return cls(sum(part.trials for part in parts), number, mean, squares)

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation (with N - 1, as in NSD's own code); NaN where responses do not vary, in any unit."""
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.sqrt(self.squares / (self.number - 1))
            usual = np.median(spread[spread > 0]) if (spread > 0).any() else 0
            spread[~(spread > 1e-6 * (usual + np.abs(self.mean)))] = np.nan
        return spread


def z_score(responses: np.ndarray, statistics: Statistics, where: str) -> np.ndarray:
    """Z-score every vertex, in place.

    Parameters
    ----------
    responses
        float32 [T, V]: percent signal change, NaN where missing; modified.
    statistics
        Of this session, or of all of a subject's.
    where
        Named in the error.

    Returns
    -------
    float32 array [T, V]
        Unitless; NaN where missing, and at vertices that do not vary.
    """
    if statistics.trials < 2:
        raise ValueError(
            f"{where}: {statistics.trials} of {len(responses)} trials show no test image, at least 2 are needed for "
            "mean and standard deviation; allowed is preprocess.statistics: all, or more trials a session, e.g. 750"
        )
    with np.errstate(invalid="ignore"):
        responses -= statistics.mean.astype(np.float32)
        responses /= statistics.spread.astype(np.float32)
    return responses


def checked_z_scores(responses: np.ndarray, statistics: Statistics, where: str) -> np.ndarray:
    """Check that responses [T, V] are z-scores; vertices that do not vary become NaN, in place.

    Means over repeats vary less than single trials, and small sessions by chance: a spread from 0.1 to 10 passes.
    """
    spread = statistics.spread
    usual = np.median(spread[np.isfinite(spread)]) if np.isfinite(spread).any() else 1.0
    if not _LEAST_SPREAD < usual < 1 / _LEAST_SPREAD:
        raise ValueError(
            f"{where}: the usual standard deviation of a vertex is {usual:.3g}, so the responses are not z-scored; "
            f"allowed with --standardised: {_LEAST_SPREAD} to {1 / _LEAST_SPREAD:g}. Example: --no-standardised"
        )
    responses[:, np.isnan(spread)] = np.nan
    return responses


def noise_ceiling(
    dataset: h5py.Dataset, nsd_id: np.ndarray, counted: np.ndarray, absent: np.ndarray, session_row: np.ndarray
) -> np.ndarray:
    """Noise ceiling signal-to-noise ratio (ncsnr) of z-scored responses.

    NSD's rule (nsddatapaper, `main/export_noiseceiling.m` and `main/translatevmetric.m`): over the images with three
    trials, the noise variance is the mean unbiased variance within an image, and ncsnr = sqrt(max(0, 1 - noise)) /
    sqrt(noise). Test images are left out, so that vertices may be chosen by it.

    Parameters
    ----------
    dataset
        float16 data set [T, V]: responses.
    nsd_id
        int [T].
    counted
        bool [T]: trials of images that take part.
    absent
        bool [sessions, V]: vertices without data in a session (zero in the data set).
    session_row
        int [T]: row of `absent` for each trial.

    Returns
    -------
    float32 array [V]
        NaN where no image has three valid trials.
    """
    order = np.argsort(nsd_id, kind="stable")
    order = order[counted[order]]
    _, first, number = np.unique(nsd_id[order], return_index=True, return_counts=True)
    complete = np.flatnonzero(number == REPEATS)
    if not len(complete):
        log.warning("No image besides the test images was shown %d times: the noise ceiling is unknown.", REPEATS)
    # Scattered rows are slow to read one by one, unless they are few, as in a single session.
    few = REPEATS * len(complete) < _FEW * len(dataset)
    held = dataset if few or dataset.nbytes > _HELD_LIMIT else dataset[:]
    variance = np.zeros(dataset.shape[1])
    count = np.zeros(dataset.shape[1])
    for start in range(0, len(complete), _IMAGES_AT_ONCE):
        rows = order[first[complete[start : start + _IMAGES_AT_ONCE], None] + np.arange(REPEATS)]
        values = held[rows] if isinstance(held, np.ndarray) else read_rows(held, rows.ravel()).reshape(*rows.shape, -1)
        values = values.astype(np.float32)
        valid = ~absent[session_row[rows]].any(1)
        variance += np.where(valid, values.var(1, ddof=1), 0).sum(0)
        count += valid.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        noise = variance / count
        return (np.sqrt(np.maximum(0, 1 - noise)) / np.sqrt(noise)).astype(np.float32)
