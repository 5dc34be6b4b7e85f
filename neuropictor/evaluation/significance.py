"""The table of tests: which scores are above chance, and which differences between models are there. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from neuropictor.evaluation.statistics import bootstrap_mean, chance_interval, holm, p_above, p_difference
from neuropictor.records.files import atomic_path

if TYPE_CHECKING:
    from neuropictor.config import EvaluateConfig

COLUMNS = (
    "test",
    "protocol",
    "subject",
    "model",
    "other",
    "metric",
    "value",
    "low",
    "high",
    "p",
    "p_corrected",
    "n_images",
    "data",
)
ABOVE_CHANCE, DIFFERENCE = "above chance", "difference"

Scores = dict[str, dict[str, dict[str, np.ndarray]]]
"""`scores[protocol][model][metric]`: float64 [subjects, N], NaN where a subject did not see a picture."""
Nulls = dict[str, dict[str, dict[str, dict[int, np.ndarray]]]]
"""`nulls[protocol][model][metric][row of the subject]`: float64 [repetitions]."""


def tests_of(
    scores: Scores, nulls: Nulls, subjects: list[str], first: str, data: str, config: EvaluateConfig
) -> list[dict]:
    """Test every identification score against chance and every model against the first one.

    Parameters
    ----------
    scores, nulls : dict
    subjects : list of str
        Names of the rows of `scores`; with several, their mean is tested too (subject "mean").
    first : str
        Model that the others are compared with.
    data : str
        "simulated", "nsd" or "own".
    config : EvaluateConfig
        `bootstrap`, `permutations` and `seed` are used.

    Returns
    -------
    list of dict
        Rows of `COLUMNS`. "above chance": value is the score, low and high the 95 % interval of chance, p one-sided
        by random pairing. "difference": first minus other, paired by picture, with its bootstrap interval, p two-sided
        by changes of sign. p_corrected: Holm's correction over all rows of the same test and protocol.
    """
    rows = []
    for protocol, models in scores.items():
        above = [
            {"test": ABOVE_CHANCE, "protocol": protocol, "subject": subject, "model": model, "other": "", "data": data}
            | {"metric": metric}
            | found
            for model, metrics in nulls[protocol].items()
            for metric, by_subject in metrics.items()
            for subject, found in _above(models[model][metric], by_subject, subjects)
        ]
        different = [
            {"test": DIFFERENCE, "protocol": protocol, "subject": subject, "model": first, "other": other, "data": data}
            | {"metric": metric}
            | found
            for other in models
            if first in models and other not in (first, "null")
            for metric in models[first]
            if metric in models[other]
            for subject, found in _different(models[first][metric] - models[other][metric], subjects, config)
        ]
        for family in (above, different):
            corrected = holm(np.array([row["p"] for row in family]))
            rows += [row | {"p_corrected": float(p)} for row, p in zip(family, corrected, strict=True)]
    return rows


def _above(values: np.ndarray, nulls: dict[int, np.ndarray], subjects: list[str]) -> Iterable[tuple[str, dict]]:
    """Give one test a subject, and one of their mean."""
    usable = [row for row, null in nulls.items() if np.isfinite(null).all()]
    parts = {subjects[row]: [row] for row in usable}
    if len(usable) > 1:
        parts["mean"] = usable
    for subject, rows in parts.items():
        null = np.mean([nulls[row] for row in rows], axis=0)
        value = float(np.mean([np.nanmean(values[row]) for row in rows]))
        low, high = chance_interval(null)
        count = int(np.isfinite(values[rows]).any(0).sum())
        yield subject, {"value": value, "low": low, "high": high, "p": p_above(value, null), "n_images": count}


def _different(differences: np.ndarray, subjects: list[str], config: EvaluateConfig) -> Iterable[tuple[str, dict]]:
    """Give one test a subject, and one of their mean."""
    usable = np.flatnonzero(np.isfinite(differences).any(1))
    parts = {subjects[row]: [row] for row in usable}
    if len(usable) > 1:
        parts["mean"] = list(usable)
    for subject, rows in parts.items():
        table = differences[rows]
        table = table[:, np.isfinite(table).any(0)]
        estimate = bootstrap_mean(table, config.bootstrap, config.seed)
        p = p_difference(table, config.permutations, config.seed)
        yield (
            subject,
            {
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "p": p,
                "n_images": estimate.n_images,
            },
        )


def write_tests(rows: list[dict], out: Path) -> None:
    """Write the table with six decimals, so that equal runs give equal bytes."""
    with atomic_path(out) as temporary:
        pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(
            temporary, index=False, float_format="%.6f", lineterminator="\n"
        )


def read_tests(path: Path) -> pd.DataFrame:
    """Read the table; ValueError names columns that are missing."""
    frame = pd.read_csv(path, dtype={"subject": str}, keep_default_na=False, na_values={"value": [""], "p": [""]})
    missing = [name for name in COLUMNS if name not in frame]
    if missing:
        raise ValueError(f"{path}: columns {', '.join(missing)} missing, found {list(frame)}; needed: {list(COLUMNS)}")
    return frame
