"""Intervals: bootstrap over pictures and permutation of pairs, all seeded.

Test pictures are what a score generalises over, so they are the unit that is resampled. The shared test pictures are
the same for all subjects: the mean over subjects resamples pictures jointly, so a hard picture is hard for everyone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neuropictor.evaluation.similarity import correlation_matrix, identification

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


def permutation_null(
    reconstructed: np.ndarray,
    seen: np.ndarray,
    repetitions: int,
    seed: int,
    background: np.ndarray | None = None,
    coverage: float = COVERAGE,
) -> Estimate:
    """Mean two-way score that chance gives: reconstructions paired with randomly permuted pictures.

    Parameters
    ----------
    reconstructed : array [N, E]
        Features of one reconstruction per picture.
    seen : array [N, E]
        Features of the seen pictures.
    repetitions, seed : int
        Number of random pairings and their seed.
    background : array of str [N], optional
        With it, distractors share the background kind (`two_way_hard`).
    coverage : float

    Returns
    -------
    Estimate
        Mean of the null distribution and the interval in which chance stays; a score above `high` is above chance.
    """
    allowed = None
    if background is not None:
        background = np.asarray(background)
        allowed = background[:, None] == background[None, :]
    table = identification(correlation_matrix(reconstructed, seen), allowed)
    generator = np.random.default_rng(seed)
    places = np.arange(len(seen))
    usable = np.isfinite(table).any(0)
    if not usable.any():
        return Estimate(np.nan, np.nan, np.nan, 0)
    means = np.array([table[generator.permutation(places), places][usable].mean() for _ in range(repetitions)])
    tail = 50.0 * (1.0 - coverage)
    low, high = np.percentile(means, [tail, 100.0 - tail])
    return Estimate(float(means.mean()), float(low), float(high), int(usable.sum()))
