"""Intervals and p values: bootstrap over pictures and permutation of pairs, all seeded.

Test pictures are what a score generalises over, so they are the unit that is resampled. The shared test pictures are
the same for all subjects: the mean over subjects resamples pictures jointly, so a hard picture is hard for everyone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COVERAGE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval and the number of distinct pictures behind it."""

    value: float
    low: float
    high: float
    n_images: int


def bootstrap_mean(scores: np.ndarray, repetitions: int, seed: int, coverage: float = COVERAGE) -> Estimate:
    """Mean score with its percentile bootstrap interval over pictures.

    Parameters
    ----------
    scores : array [N] or [subjects, N]
        Scores per picture; NaN where a picture has none and is left out. With several subjects, column n must be the
        same picture for all: columns are resampled jointly and the mean over subjects of each subject's mean is taken.
    repetitions : int
        Bootstrap samples.
    seed : int
        Seed of the resampling; the same seed resamples the same pictures for every model and metric (paired).
    coverage : float
        Share of the bootstrap distribution inside the interval.

    Returns
    -------
    Estimate
        NaN values with `n_images` 0 when no picture has a score.
    """
    table = np.atleast_2d(np.asarray(scores, np.float64))
    defined = np.isfinite(table)
    n_images = int(defined.any(0).sum())
    if not defined.any(1).all():
        return Estimate(np.nan, np.nan, np.nan, n_images)
    values = np.where(defined, table, 0.0)
    mean = float((values.sum(1) / defined.sum(1)).mean())
    pictures = table.shape[1]
    draws = np.random.default_rng(seed).integers(0, pictures, (repetitions, pictures))
    # How often each picture is drawn in each repetition: means over draws become products with these counts.
    draws += pictures * np.arange(repetitions)[:, None]
    counts = np.bincount(draws.reshape(-1), minlength=repetitions * pictures).reshape(repetitions, pictures)
    present = counts @ defined.T.astype(np.int64)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (counts @ values.T / present).mean(1)
    tail = 50.0 * (1.0 - coverage)
    low, high = np.nanpercentile(means, [tail, 100.0 - tail]) if np.isfinite(means).any() else (np.nan, np.nan)
    return Estimate(mean, float(low), float(high), n_images)


def derangements(pictures: int, repetitions: int, seed: int) -> np.ndarray:
    """Random orders in which no picture keeps its place.

    Parameters
    ----------
    pictures : int
        At least 2.
    repetitions : int
        Number of orders.
    seed : int

    Returns
    -------
    int array [repetitions, pictures]
        Drawn uniformly from all derangements (by rejection; about one permutation in 2.7 qualifies).
    """
    if pictures < 2:
        raise ValueError(f"pictures = {pictures}: wrong pairs need at least 2 pictures, for example 150")
    generator = np.random.default_rng(seed)
    places = np.arange(pictures)
    orders = np.empty((repetitions, pictures), np.int64)
    for row in range(repetitions):
        order = generator.permutation(pictures)
        while (order == places).any():
            order = generator.permutation(pictures)
        orders[row] = order
    return orders


class Pairings:
    """Random pairings of test pictures: the same ones for all models, scores and subjects.

    Parameters
    ----------
    pictures : int
        Number of test pictures of all subjects together.
    repetitions, seed : int
    """

    def __init__(self, pictures: int, repetitions: int, seed: int):
        self._keys = np.random.default_rng(seed).random((repetitions, pictures), np.float32)
        self._known: tuple[bytes, np.ndarray] = (b"", np.empty(0))

    def orders(self, rows: np.ndarray) -> np.ndarray:
        """Permutations of those pictures that a subject saw, int [repetitions, n]."""
        name = np.ascontiguousarray(rows).tobytes()
        if self._known[0] != name:
            self._known = (name, np.argsort(self._keys[:, rows], axis=1))
        return self._known[1]

    def null(self, tables: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Mean identification score of each random pairing.

        Parameters
        ----------
        tables : float array [K, n, n]
            `similarity.identification` of each sample: entry (i, j) is the score of reconstruction i if j were right.
        rows : int array [n]
            The subject's pictures among all test pictures.

        Returns
        -------
        float64 array [repetitions]
            NaN where no picture has a score.
        """
        table = tables.mean(0)
        usable = np.flatnonzero(np.isfinite(table).any(0))
        if not len(usable):
            return np.full(len(self._keys), np.nan)
        return table[self.orders(rows)[:, usable], usable].mean(1)


def chance_interval(null: np.ndarray, coverage: float = COVERAGE) -> tuple[float, float]:
    """Interval in which a score stays by chance."""
    tail = 50.0 * (1.0 - coverage)
    low, high = np.percentile(null, [tail, 100.0 - tail])
    return float(low), float(high)


def p_above(observed: float, null: np.ndarray) -> float:
    """One-sided p value: how often chance reaches the observed score, the observed pairing included."""
    return float((1 + (null >= observed - 1e-12).sum()) / (1 + len(null)))


def p_difference(differences: np.ndarray, repetitions: int, seed: int) -> float:
    """Two-sided p value of a mean paired difference, by random changes of sign, picture by picture.

    Parameters
    ----------
    differences : array [N] or [subjects, N]
        NaN where a picture has none. A picture's sign changes for all subjects together, as pictures are what a score
        generalises over.
    repetitions, seed : int
    """
    table = np.atleast_2d(np.asarray(differences, np.float64))
    defined = np.isfinite(table)
    # The mean over subjects of each one's mean, as a sum over pictures.
    shares = (np.where(defined, table, 0.0) / defined.sum(1, keepdims=True)).mean(0)
    signs = np.random.default_rng(seed).integers(0, 2, (repetitions, len(shares)), np.int8)
    flipped = (2.0 * signs - 1.0) @ shares
    return float((1 + (np.abs(flipped) >= abs(shares.sum()) - 1e-12).sum()) / (1 + repetitions))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Correct p values of one family of tests (Holm 1979): no false alarm at all with the probability told."""
    p_values = np.asarray(p_values, np.float64)
    order = np.argsort(p_values, kind="stable")
    steps = p_values[order] * (len(p_values) - np.arange(len(p_values)))
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected
