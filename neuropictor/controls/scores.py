"""Scores of controls: for every condition, with intervals and the scores of wrong pairs.

Every score is first a table: entry (i, j) is the score of reconstruction i if image j were the right one. Its entries
of right pairs give the score, those of random pairs the interval in which chance stays.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.stats import binom, spearmanr

from neuropictor.data.stimuli import resize_images
from neuropictor.evaluation.judges import Judge, blocks, look
from neuropictor.evaluation.metrics import METRICS, Space
from neuropictor.evaluation.similarity import correlation_matrix
from neuropictor.evaluation.statistics import bootstrap_mean, chance_interval

COLUMNS = (
    *("subject", "control", "condition", "row", "column", "metric"),
    *("value", "ci_low", "ci_high", "null_low", "null_high", "n_images", "data"),
)
TABLE_METRICS = [name for name, metric in METRICS.items() if metric.table and metric.shown[0] != "published"]
"""Scores of the protocol `ours` against the seen image that all pairs can have."""
OF_TWO = {
    "category_follows_other": "category of the other",
    "similarity_follows_other": "similarity: like the other",
    "layout_follows_own": "layout of the own (pixels)",
    "light_follows_own": "layout of the own (brightness)",
    "pixcorr": "PixCorr with the own",
    "pixcorr_other": "PixCorr with the other",
}
"""Scores shown for images made from two scans; own is the scan that gives structure."""
LAYOUT_CELLS = 8
"""`light_follows_own` compares mean brightness in a grid of this many parts a side: layout without colour."""


@dataclass
class Scored:
    """Scores of one condition, image by image.

    Attributes
    ----------
    nsd_id
        int [n].
    values
        dict of float [n]: by metric; NaN where an image has none.
    nulls
        dict of float [repetitions]: mean scores of random pairs; shares of two have none: their chance is a fair coin.
    """

    nsd_id: np.ndarray
    values: dict[str, np.ndarray] = field(default_factory=dict)
    nulls: dict[str, np.ndarray] = field(default_factory=dict)


class PairScores:
    """Scores images against all test images of a subject.

    Parameters
    ----------
    judge
        Of the subject's N test images.
    nsd_id
        int [N]: their numbers.
    repetitions, seed
        Random pairings.
    """

    def __init__(self, judge: Judge, nsd_id: np.ndarray, repetitions: int, seed: int):
        self.judge, self.nsd_id = judge, nsd_id
        # Every image is compared with every other one: the seen ones stay in memory as they are stored.
        seen = judge.seen.read(np.arange(len(judge.seen)))
        self._pixels = seen.reshape(len(seen), -1)
        self._light = _light(seen)
        self._orders = np.argsort(np.random.default_rng(seed).random((repetitions, len(judge.seen))), axis=1)

    def tables(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return the tables [n, N] of the `TABLE_METRICS` whose labels are known, and those `follows` needs.

        Parameters
        ----------
        images
            uint8 [n, S, S, 3].
        """
        judge = self.judge
        images = resize_images(images, judge.size)
        features = np.concatenate([look(judge.describer, images[rows]) for rows in blocks(len(images))])[:, None]
        space = judge.space(features, np.arange(len(judge.main)))
        pixels = Space(images.reshape(len(images), 1, -1), self._pixels)
        known = [*judge.metrics, *(metric for metric in METRICS.values() if metric.needs == "images")]
        tables = {
            name: METRICS[name].table(pixels if METRICS[name].needs == "images" else space)[0]
            for name in TABLE_METRICS
            if METRICS[name] in known
        }
        tables["light"] = np.nan_to_num(correlation_matrix(_light(images), self._light))
        # A lab's own images may lack categories; they get no score that needs one.
        prompts = judge.prompts if judge.prompts is not None else np.zeros((1, features.shape[-1]))
        return tables | {"prompts": features[:, 0].astype(np.float64) @ prompts.T.astype(np.float64)}

    def against_seen(self, tables: list[dict[str, np.ndarray]], rows: np.ndarray) -> Scored:
        """Score against the seen images; several tables (partners) are averaged.

        Parameters
        ----------
        tables
            Of `tables`.
        rows
            int [n]: the seen images' rows in the judge.
        """
        scored, places = Scored(self.nsd_id[rows]), np.arange(len(rows))
        for metric in (name for name in TABLE_METRICS if name in tables[0]):
            table = np.mean([of_partner[metric] for of_partner in tables], axis=0)
            scored.values[metric] = table[places, rows]
            wrong = table[places, self._orders[:, : len(rows)]]
            defined = np.isfinite(wrong)
            scored.nulls[metric] = np.where(defined, wrong, 0.0).sum(1) / np.maximum(defined.sum(1), 1)
        return scored

    def follows(self, tables: list[dict[str, np.ndarray]], rows: np.ndarray, others: list[np.ndarray]) -> Scored:
        """Score images made from two scans: whose category and whose layout they have.

        Parameters
        ----------
        tables, rows
            As for `against_seen`; one table a partner.
        others
            list of int [n]: rows of what the other scan saw, one array a partner.

        Returns
        -------
        Scored
            `pixcorr_other`, `similarity_other`, `category_other`: as against the seen image. Shares of pairs:
            `category_follows_other` (zero-shot, the other's category is nearer than its own; pairs of different
            categories), `similarity_follows_other`, `layout_follows_own` (pixels correlate more with the own image
            than with the other) and `light_follows_own` (the same of mean brightness in 8 x 8 parts).
        """
        by_metric: dict[str, list[np.ndarray]] = {}
        places, main = np.arange(len(rows)), self.judge.main
        for table, other in zip(tables, others, strict=True):
            for metric in (name for name in ("pixcorr", "similarity", "category") if name in table):
                by_metric.setdefault(f"{metric}_other", []).append(table[metric][places, other])
            own_category, other_category = main[rows], main[other]
            usable = (own_category != other_category) & (own_category >= 0) & (other_category >= 0)
            nearer = table["prompts"][places, other_category] > table["prompts"][places, own_category]
            by_metric.setdefault("category_follows_other", []).append(np.where(usable, nearer, np.nan))
            for metric, name, sign in (
                ("similarity", "similarity_follows_other", 1),
                ("pixcorr", "layout_follows_own", -1),
                ("light", "light_follows_own", -1),
            ):
                difference = sign * (table[metric][places, other] - table[metric][places, rows])
                by_metric.setdefault(name, []).append((difference > 0).astype(np.float64))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # for images without a score with any partner
            means = {metric: np.nanmean(values, axis=0) for metric, values in by_metric.items()}
        return Scored(self.nsd_id[rows], means)


def _light(images: np.ndarray) -> np.ndarray:
    """Mean brightness of the parts of images uint8 [n, S, S, 3], float32 [n, cells * cells]."""
    side = min(LAYOUT_CELLS, images.shape[1])
    small = resize_images(images, side).astype(np.float32)
    return (small @ np.array([0.2125, 0.7154, 0.0721], np.float32)).reshape(len(images), -1)


def table_rows(scored: dict[str, Scored], names: dict[str, str], repetitions: int, seed: int) -> list[dict]:
    """Make the rows of the table for one condition: one a subject and metric, and the mean over subjects.

    Parameters
    ----------
    scored
        dict of Scored: by subject.
    names
        control, condition, row, column and data.
    repetitions, seed
        Of the bootstrap over images.
    """
    rows = []
    for metric in next(iter(scored.values())).values:
        table = pd.DataFrame({str(s): pd.Series(part.values[metric], part.nsd_id) for s, part in scored.items()}).T
        nulls = {str(s): part.nulls[metric] for s, part in scored.items() if metric in part.nulls}
        parts = {subject: table.loc[[subject]] for subject in table.index}
        if len(parts) > 1:
            parts["mean"] = table
        for subject, part in parts.items():
            values = part.dropna(axis=1, how="all").to_numpy()
            if not values.size:
                continue
            estimate = bootstrap_mean(values, repetitions, seed)
            low = high = np.nan
            if nulls:
                low, high = chance_interval(np.mean([nulls[name] for name in part.index], axis=0))
            elif "_follows_" in metric:  # compared with as many fair coins
                count = np.isfinite(values).sum()
                low, high = binom.ppf([0.025, 0.975], count, 0.5) / count
            rows.append(
                names
                | {"subject": subject, "metric": metric, "value": estimate.value, "n_images": estimate.n_images}
                | {"ci_low": estimate.low, "ci_high": estimate.high, "null_low": low, "null_high": high}
            )
    return rows


def rank_correlations(scored: Scored, distance: np.ndarray, repetitions: int, seed: int) -> list[dict]:
    """Spearman's correlation of each score with a distance, with bootstrap interval and permutation null.

    Returns
    -------
    list of dict
        Parts of rows: metric ("spearman_pixcorr"), value, ci_low, ci_high, null_low, null_high, n_images.
    """
    rows = []
    for metric, of_metric in scored.values.items():
        usable = np.isfinite(of_metric)
        if not usable.any():
            continue
        values, far = of_metric[usable], distance[usable]
        generator = np.random.default_rng(seed)
        draws = generator.integers(0, len(values), (repetitions, len(values)))
        with np.errstate(invalid="ignore"):
            boot = [_spearman(values[draw], far[draw]) for draw in draws]
            null = [_spearman(generator.permutation(values), far) for _ in range(repetitions)]
        low, high = np.nanpercentile(boot, [2.5, 97.5]) if np.isfinite(boot).any() else (np.nan, np.nan)
        chance = np.nanpercentile(null, [2.5, 97.5]) if np.isfinite(null).any() else (np.nan, np.nan)
        rows.append(
            {"metric": f"spearman_{metric}", "value": _spearman(values, far), "ci_low": low, "ci_high": high}
            | {"null_low": chance[0], "null_high": chance[1], "n_images": len(values)}
        )
    return rows


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation; NaN where either is constant."""
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return np.nan
    return float(spearmanr(one, other).statistic)
