"""Intervals and p values: bootstrap over images and permutation of pairs, all seeded. Loads no torch.

Test images are what a score generalises over, so they are the unit that is resampled. The shared test images are the
same for all subjects: the mean over subjects resamples images jointly, so a hard image is hard for everyone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from neuropictor.evaluation.tables import SCORE_COLUMNS

if TYPE_CHECKING:
    from neuropictor.config import EvaluateConfig

COVERAGE = 0.95
ABOVE_CHANCE, DIFFERENCE = "above chance", "difference"

Nulls = dict[tuple[str, str, str, str], np.ndarray]
"""By protocol, subject, model and metric: scores of random pairings, float64 [repetitions]."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval and the number of distinct images behind it."""

    value: float
    low: float
    high: float
    n_images: int


def bootstrap_mean(scores: np.ndarray, repetitions: int, seed: int, coverage: float = COVERAGE) -> Estimate:
    """Mean score with its percentile bootstrap interval over images.

    Parameters
    ----------
    scores
        [N] or [subjects, N]: scores per image; NaN where an image has none and is left out. With several subjects,
        column n must be the same image for all: columns are resampled jointly and the mean over subjects of each
        subject's mean is taken.
    repetitions
        Bootstrap samples.
    seed
        Seed of the resampling; the same seed resamples the same images for every model and metric (paired).
    coverage
        Share of the bootstrap distribution inside the interval.

    Returns
    -------
    Estimate
        NaN values with `n_images` 0 when no image has a score.
    """
    table = np.atleast_2d(np.asarray(scores, np.float64))
    defined = np.isfinite(table)
    n_images = int(defined.any(0).sum())
    if not defined.any(1).all():
        return Estimate(np.nan, np.nan, np.nan, n_images)
    values = np.where(defined, table, 0.0)
    mean = float((values.sum(1) / defined.sum(1)).mean())
    images = table.shape[1]
    draws = np.random.default_rng(seed).integers(0, images, (repetitions, images))
    # How often each image is drawn in each repetition: means over draws become products with these counts.
    draws += images * np.arange(repetitions)[:, None]
    counts = np.bincount(draws.reshape(-1), minlength=repetitions * images).reshape(repetitions, images)
    present = counts @ defined.T.astype(np.int64)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (counts @ values.T / present).mean(1)
    tail = 50.0 * (1.0 - coverage)
    low, high = np.nanpercentile(means, [tail, 100.0 - tail]) if np.isfinite(means).any() else (np.nan, np.nan)
    return Estimate(mean, float(low), float(high), n_images)


def derangements(images: int, repetitions: int, seed: int) -> np.ndarray:
    """Random orders in which no image keeps its place.

    Parameters
    ----------
    images
        At least 2.
    repetitions
        Number of orders.
    seed
        Of the random numbers.

    Returns
    -------
    int array [repetitions, images]
        Drawn uniformly from all derangements (by rejection; about one permutation in 2.7 qualifies).
    """
    if images < 2:
        raise ValueError(f"images = {images}: wrong pairs need at least 2 images, for example 150")
    generator = np.random.default_rng(seed)
    places = np.arange(images)
    orders = np.empty((repetitions, images), np.int64)
    for row in range(repetitions):
        order = generator.permutation(images)
        while (order == places).any():
            order = generator.permutation(images)
        orders[row] = order
    return orders


class Pairings:
    """Random pairings of test images: the same ones for all models, scores and subjects.

    Parameters
    ----------
    images
        Number of test images of all subjects together.
    repetitions, seed
        Number of draws, and their seed.
    """

    def __init__(self, images: int, repetitions: int, seed: int):
        self._keys = np.random.default_rng(seed).random((repetitions, images), np.float32)
        self._known: tuple[bytes, np.ndarray] = (b"", np.empty(0))

    def orders(self, rows: np.ndarray) -> np.ndarray:
        """Permutations of the images that a subject saw, int [repetitions, n]."""
        name = np.ascontiguousarray(rows).tobytes()
        if self._known[0] != name:
            self._known = (name, np.argsort(self._keys[:, rows], axis=1))
        return self._known[1]

    def null(self, tables: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Mean identification score of each random pairing.

        Parameters
        ----------
        tables
            float [K, n, n]: `similarity.identification` of each sample: entry (i, j) is the score of reconstruction i
            if j were right.
        rows
            int [n]: the subject's images among all test images.

        Returns
        -------
        float64 array [repetitions]
            NaN where no image has a score.
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
    """Two-sided p value of a mean paired difference, by random changes of sign, image by image.

    Parameters
    ----------
    differences
        [N] or [subjects, N]: NaN where an image has none. An image's sign changes for all subjects together, as images
        are what a score generalises over.
    repetitions, seed
        Number of draws, and their seed.
    """
    table = np.atleast_2d(np.asarray(differences, np.float64))
    defined = np.isfinite(table)
    # The mean over subjects of each one's mean, as a sum over images.
    shares = (np.where(defined, table, 0.0) / defined.sum(1, keepdims=True)).mean(0)
    signs = np.random.default_rng(seed).integers(0, 2, (repetitions, len(shares)), np.int8)
    flipped = (2.0 * signs - 1.0) @ shares
    return float((1 + (np.abs(flipped) >= abs(shares.sum()) - 1e-12).sum()) / (1 + repetitions))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Correct p values of one family of tests (Holm 1979), controlling the probability of any false alarm."""
    p_values = np.asarray(p_values, np.float64)
    order = np.argsort(p_values, kind="stable")
    steps = p_values[order] * (len(p_values) - np.arange(len(p_values)))
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def by_image(scores: pd.DataFrame) -> dict[tuple[str, str, str], pd.DataFrame]:
    """Split the table of scores: by protocol, model and metric, values of subjects (rows) and images (columns)."""
    subjects, images = scores["subject"].unique(), np.unique(scores["nsd_id"])
    metrics = [name for name in scores if name not in SCORE_COLUMNS]
    return {
        (protocol, model, metric): wide.reindex(index=subjects, columns=images)
        for (protocol, model), part in scores.groupby(["protocol", "model"], sort=False)
        for metric in metrics
        if (wide := part.pivot(index="subject", columns="nsd_id", values=metric)).notna().any(axis=None)
    }


def _parts(values: pd.DataFrame, least: float) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each subject's values, and those of at least `least` together ("mean"); without images that have none."""
    values = values.dropna(axis=0, how="all")
    parts = {subject: values.loc[[subject]] for subject in values.index}
    if len(parts) >= least:
        parts["mean"] = values
    for subject, part in parts.items():
        yield subject, part.dropna(axis=1, how="all")


def summarise(scores: pd.DataFrame, data: str, config: EvaluateConfig, mean: bool = True) -> list[dict]:
    """Mean scores with intervals, for each subject and for the mean over the subjects that have the model.

    Parameters
    ----------
    scores
        DataFrame: A row for each protocol, subject, model and image, a column for each score, as in `scores.csv`.
    data
        "simulated", "nsd", "own" or "folders".
    config
        `bootstrap`, `seed` and `networks` are used.
    mean
        Whether there are rows of the mean (subject "mean").

    Returns
    -------
    list of dict
        Rows of `metrics.csv`, in the order of protocols, subjects and models of `scores`.
    """
    rows: dict[tuple[str, str], list[dict]] = {}
    for (protocol, model, metric), values in by_image(scores).items():
        for subject, part in _parts(values, 1 if mean else np.inf):
            estimate = bootstrap_mean(part.to_numpy(), config.bootstrap, config.seed)
            row = {"subject": subject, "model": model, "metric": metric, "value": estimate.value}
            row |= {"ci_low": estimate.low, "ci_high": estimate.high, "n_images": estimate.n_images}
            row |= {"data": data, "protocol": protocol, "networks": config.networks}
            rows.setdefault((protocol, subject), []).append(row)
    order = [(p, s) for p in scores["protocol"].unique() for s in (*scores["subject"].unique(), "mean")]
    return [row for key in order for row in rows.get(key, [])]


def tests_of(scores: pd.DataFrame, nulls: Nulls, first: str, data: str, config: EvaluateConfig) -> list[dict]:
    """Test every identification score against chance and every model against the first one.

    Parameters
    ----------
    scores
        DataFrame: as for `summarise`; with several subjects, their mean is tested too (subject "mean").
    nulls
        Of each model and metric.
    first
        Model that the others but "null" are compared with.
    data
        Kind of data, e.g. simulated.
    config
        `bootstrap`, `permutations` and `seed` are used.

    Returns
    -------
    list of dict
        Rows of `statistics.csv`. "above chance": value is the score, low and high the 95 % interval of chance, p
        one-sided by random pairing. "difference": first minus other, paired by image, with its bootstrap interval, p
        two-sided by changes of sign. p_corrected: Holm's correction over all rows of the same test and protocol.
    """
    rows, tables = [], by_image(scores)
    for protocol in scores["protocol"].unique():
        families: dict[str, list[dict]] = {ABOVE_CHANCE: [], DIFFERENCE: []}
        for (_, model, metric), values in ((key, table) for key, table in tables.items() if key[0] == protocol):
            about = {"protocol": protocol, "metric": metric, "data": data}
            has_null = [name for name in values.index if (protocol, name, model, metric) in nulls]
            for subject, part in _parts(values.loc[has_null], 2):
                null = np.mean([nulls[protocol, name, model, metric] for name in part.index], axis=0)
                value, (low, high) = float(np.nanmean(part.to_numpy(), axis=1).mean()), chance_interval(null)
                test = {
                    "test": ABOVE_CHANCE,
                    "subject": subject,
                    "model": model,
                    "other": "",
                    "n_images": part.shape[1],
                }
                test |= {"value": value, "low": low, "high": high, "p": p_above(value, null)}
                families[ABOVE_CHANCE].append(about | test)
            if model in (first, "null") or (protocol, first, metric) not in tables:
                continue
            for subject, part in _parts(tables[protocol, first, metric] - values, 2):
                differences = part.to_numpy()
                estimate = bootstrap_mean(differences, config.bootstrap, config.seed)
                test = {"test": DIFFERENCE, "subject": subject, "model": first, "other": model}
                test |= {"value": estimate.value, "low": estimate.low, "high": estimate.high}
                p = p_difference(differences, config.permutations, config.seed)
                families[DIFFERENCE].append(about | test | {"p": p, "n_images": estimate.n_images})
        for family in families.values():
            corrected = holm(np.array([row["p"] for row in family]))
            rows += [row | {"p_corrected": float(p)} for row, p in zip(family, corrected, strict=True)]
    return rows
