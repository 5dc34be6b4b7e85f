"""Are the betas of NSD-Imagery in the order of the trials? Their seen targets tell, before anything rests on it.

One analysis of another version of these betas found the rows of a run grouped by condition. Under the right order the
responses to a target resemble each other more than those to other targets of its run; under a wrong one they do not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

#: By how many standard deviations over random orders the trials' order must be ahead of the grouped one.
LEAST_LEAD = 5.0
_RANDOM_ORDERS = 200


class OrderFigures(NamedTuple):
    """How well two orders explain the responses.

    Attributes
    ----------
    chronological, grouped
        Share of the targets that one half of their trials identifies among those of the other half, 0..1.
    lead
        Of the chronological order, in standard deviations over random orders.
    """

    chronological: float
    grouped: float
    lead: float


def check_order(betas: np.ndarray, targets: np.ndarray, where: str) -> OrderFigures:
    """Compare the order of the trials with an order by target, on the runs in which targets were seen.

    Two figures are computed of each order. Responses over all vertices are averaged over the odd and over the even
    repeats of a target, and correlated: how often does the same target correlate most? That is easy to understand, but
    all or nothing for each target. What decides has more power: how much more single trials of one target correlate
    than those of two, among pairs equally far apart in the file. Were pairs of any distance compared, slow drift,
    which makes neighbouring rows alike, would speak for an order by groups.

    Parameters
    ----------
    betas
        float32 [runs, T, V], rows as in the file; may hold NaN.
    targets
        [runs, T]: target of each trial, as in the table of trials; each equally often, an even number of times.
    where
        Named in the error.

    Raises
    ------
    ValueError
        If the order of the trials is not ahead of the grouped order by `LEAST_LEAD`; with both figures.
    """
    runs = [_standardised(run) for run in betas]
    given = [np.unique(run, return_inverse=True)[1] for run in targets]
    grouped = [np.sort(order) for order in given]
    alike = [np.corrcoef(run) for run in runs]
    random = np.random.default_rng(0)
    chance = [_contrast(alike, [random.permutation(order) for order in given]) for _ in range(_RANDOM_ORDERS)]
    lead = float((_contrast(alike, given) - _contrast(alike, grouped)) / np.std(chance))
    figures = OrderFigures(_identified(runs, given), _identified(runs, grouped), lead)
    if not lead >= LEAST_LEAD:
        count = len(np.unique(given[0]))
        raise ValueError(
            f"{where}: taken in the order of the trials, half of the responses to a seen target identify it among "
            f"{count} in {figures.chronological:.0%} of cases; taken as grouped by target, in {figures.grouped:.0%} "
            f"(chance: {1 / count:.0%}). By the likeness of single trials, the trials' order is ahead by {lead:.1f} "
            f"standard deviations over random orders; allowed: {LEAST_LEAD:.0f} or more. These betas are in another "
            "order, or hold no responses to what was seen: fetch nsdimagerybetas_fithrf_GLMdenoise_RR and the tables "
            "of trials again"
        )
    return figures


def _standardised(run: np.ndarray) -> np.ndarray:
    """Z-score each vertex over a run's trials; what is missing or does not vary is left out."""
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (run - run.mean(axis=0)) / run.std(axis=0)
    return values[:, np.isfinite(values).all(axis=0)]


def _identified(runs: list[np.ndarray], orders: list[np.ndarray]) -> float:
    """Return the share of targets whose odd repeats correlate most with their even ones, and the other way round."""
    right = []
    for values, order in zip(runs, orders, strict=True):
        rows = np.argsort(order, kind="stable").reshape(order.max() + 1, -1)
        halves = [values[rows[:, start::2]].mean(axis=1) for start in (0, 1)]
        between = np.corrcoef(*halves)[: len(rows), len(rows) :]
        right += [between.argmax(axis=axis) == np.arange(len(rows)) for axis in (0, 1)]
    return float(np.mean(right))


def _contrast(alike: list[np.ndarray], orders: list[np.ndarray]) -> float:
    """Return how much more pairs of one target correlate than pairs of two that are as many rows apart."""
    total, weight = 0.0, 0.0
    for correlation, order in zip(alike, orders, strict=True):
        first, second = np.triu_indices(len(order), 1)
        values, same = correlation[first, second], order[first] == order[second]
        apart = second - first
        pairs = [np.bincount(apart[part], minlength=len(order)) for part in (same, ~same)]
        sums = [np.bincount(apart[part], values[part], len(order)) for part in (same, ~same)]
        both = (pairs[0] > 0) & (pairs[1] > 0)
        (few, many), (own, other) = ([part[both] for part in parts] for parts in (pairs, sums))
        precision = few * many / (few + many)
        total += float((precision * (own / few - other / many)).sum())
        weight += float(precision.sum())
    return total / weight
