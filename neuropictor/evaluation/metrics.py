"""The stage that scores all reconstructions: `metrics.csv`, tidy, with intervals, and a record with controls."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuropictor.data.reconstructions import Reconstructions, read_reconstructions
from neuropictor.data.stimuli import StimulusStore
from neuropictor.evaluation.controls import Judge, backbone_controls
from neuropictor.evaluation.measures import METRICS
from neuropictor.evaluation.statistics import bootstrap_mean, derangements, permutation_null
from neuropictor.evaluation.tables import order_models, write_metrics
from neuropictor.models.backbone import Backbone
from neuropictor.models.device import prepare_device
from neuropictor.runlog import RunRecord, progress, record_path

if TYPE_CHECKING:
    from neuropictor.config import EvaluateConfig, RuntimeConfig

log = logging.getLogger(__name__)

NULL_OF = "refined"
"""Model whose reconstructions are paired with wrong pictures to make the null."""
NULL_PAIRINGS = 4
"""Wrong pairings that the null averages over: fewer would leave its own chance in it, more take time."""


def evaluate(
    samples: dict[int, dict[str, Path]],
    stimuli: Sequence[Path],
    backbone: str | Path,
    config: EvaluateConfig,
    runtime: RuntimeConfig,
    out: Path,
) -> None:
    """Score reconstructions of all subjects and models.

    Parameters
    ----------
    samples : dict of dict of Path
        `samples[subject][model]`; the model "null" is made here from "refined".
    stimuli : sequence of Path
        Prepared pictures of these subjects.
    backbone : str or Path
        Its image tower gives the space of `two_way`, `two_way_hard` and `distance`, its text tower the categories.
    config : EvaluateConfig
        `bootstrap` and `seed` are used.
    runtime : RuntimeConfig
    out : Path
        `metrics.csv`; its record holds controls, chance intervals and paired differences.
    """
    device = prepare_device(runtime)
    files = [path for models in samples.values() for path in models.values()]
    used = {"bootstrap": config.bootstrap, "seed": config.seed}
    with RunRecord(record_path(out), "evaluate", config=used, seed=config.seed, inputs=[*stimuli, *files]) as record:
        reconstructions = {
            subject: {model: read_reconstructions(path) for model, path in models.items()}
            for subject, models in samples.items()
        }
        _check(reconstructions, samples)
        store = StimulusStore(*stimuli)
        nsd_ids = np.unique(np.concatenate([next(iter(found.values())).nsd_id for found in reconstructions.values()]))
        judge = Judge(
            Backbone.load(backbone).to(device),
            store.pictures(nsd_ids),
            store.category(nsd_ids),
            store.background(nsd_ids),
            store.categories,
        )
        scores, chance = _score_all(reconstructions, judge, nsd_ids, config)
        table = _table(scores, list(samples), store.data, config)
        write_metrics(table, out)
        record.add(
            data=store.data,
            test_pictures=len(nsd_ids),
            left_out_of_two_way_hard=int(np.isnan(_first(scores)["two_way_hard"]).all(0).sum()),
            backbone=judge.backbone.name,
            categories=store.categories,
            null_pairings=NULL_PAIRINGS,
            chance=chance,
            controls=backbone_controls(judge, store.captions(nsd_ids), nsd_ids, config.seed),
            differences=_differences(scores, config),
        )


def _first(scores: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return next(iter(scores.values()))


def _check(reconstructions: dict[int, dict[str, Reconstructions]], samples: dict[int, dict[str, Path]]) -> None:
    """Make sure that all models of a subject reconstruct the same pictures and that files are what they are called."""
    for subject, models in reconstructions.items():
        expected = next(iter(models.values())).nsd_id
        for model, found in models.items():
            path = samples[subject][model]
            if found.subject != subject:
                raise ValueError(f"{path}: is of subject {found.subject}, but was given as subject {subject}'s")
            if not np.array_equal(found.nsd_id, expected):
                raise ValueError(
                    f"{path}: {len(found.nsd_id)} pictures that differ from the {len(expected)} of "
                    f"{next(iter(samples[subject].values()))}; all models of a subject need the same test pictures: "
                    "sample them again from the same responses"
                )


def _score_all(
    reconstructions: dict[int, dict[str, Reconstructions]], judge: Judge, nsd_ids: np.ndarray, config: EvaluateConfig
) -> tuple[dict[str, dict[str, np.ndarray]], dict]:
    """Score every subject and model, and the null.

    Returns
    -------
    scores : dict of dict of float64 arrays [subjects, N]
        `scores[model][metric]`; NaN where a subject did not see a picture or a picture has no score.
    chance : dict
        Interval of two-way scores under random pairing, for each subject.
    """
    subjects = list(reconstructions)
    models = list(dict.fromkeys(model for found in reconstructions.values() for model in found))
    models += ["null"] if NULL_OF in models else []
    models = order_models(models)
    scores = {model: {m: np.full((len(subjects), len(nsd_ids)), np.nan) for m in METRICS} for model in models}
    chance = {}

    def keep(model: str, row: int, columns: np.ndarray, found: dict[str, np.ndarray]) -> None:
        for metric, values in found.items():
            scores[model][metric][row, columns] = values

    for row, subject in enumerate(progress(subjects, "Scoring", unit="subject")):
        for model, found in reconstructions[subject].items():
            columns = np.searchsorted(nsd_ids, found.nsd_id)
            features = judge.look(found.pictures)
            keep(model, row, columns, judge.score(found.pictures, columns, features))
            if model == NULL_OF:
                wrong = derangements(len(columns), NULL_PAIRINGS, config.seed)
                first = found.pictures[:, 0][wrong].swapaxes(0, 1)
                keep("null", row, columns, judge.score(first, columns, features[:, 0][wrong].swapaxes(0, 1)))
                chance[str(subject)] = _chance(features[:, 0], judge, columns, config)
    return scores, chance


def _chance(features: np.ndarray, judge: Judge, columns: np.ndarray, config: EvaluateConfig) -> dict:
    """Interval in which two-way scores stay when reconstructions and pictures are paired at random."""
    backgrounds = {"two_way": None, "two_way_hard": judge.background[columns]}
    known = judge.features[columns]
    return {
        metric: [
            round(value, 6)
            for value in _bounds(permutation_null(features, known, config.bootstrap, config.seed, background))
        ]
        for metric, background in backgrounds.items()
    }


def _bounds(estimate) -> tuple[float, float]:
    return estimate.low, estimate.high


def _table(
    scores: dict[str, dict[str, np.ndarray]], subjects: list[int], data: str, config: EvaluateConfig
) -> list[dict]:
    """Turn scores into the rows of `metrics.csv`; the mean is over the subjects that have the model."""
    rows = []
    for place, name in [*enumerate(map(str, subjects)), (None, "mean")]:
        for model, metrics in scores.items():
            for metric in METRICS:
                values = metrics[metric]
                values = values[np.isfinite(values).any(1)] if place is None else values[place : place + 1]
                values = values[:, np.isfinite(values).any(0)]
                if not values.size:
                    continue
                estimate = bootstrap_mean(values, config.bootstrap, config.seed)
                rows.append(
                    {
                        "subject": name,
                        "model": model,
                        "metric": metric,
                        "value": estimate.value,
                        "ci_low": estimate.low,
                        "ci_high": estimate.high,
                        "n_images": estimate.n_images,
                        "data": data,
                    }
                )
    return rows


def _differences(scores: dict[str, dict[str, np.ndarray]], config: EvaluateConfig) -> dict:
    """Paired differences of the refined model to each other one, mean over subjects, with intervals."""
    found: dict[str, dict[str, list[float]]] = {}
    for model in scores if NULL_OF in scores else ():
        if model in (NULL_OF, "null"):
            continue
        for metric in METRICS:
            difference = scores[NULL_OF][metric] - scores[model][metric]
            difference = difference[np.isfinite(difference).any(1)]
            if difference.size:
                estimate = bootstrap_mean(difference, config.bootstrap, config.seed)
                values = (estimate.value, estimate.low, estimate.high)
                found.setdefault(model, {})[metric] = [round(value, 6) for value in values]
    return found
