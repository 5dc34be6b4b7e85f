"""The stage that scores all reconstructions: tidy tables with intervals and tests, and a record with controls."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuropictor.data.reconstructions import StoredReconstructions
from neuropictor.data.stimuli import StimulusStore
from neuropictor.evaluation.controls import backbone_controls
from neuropictor.evaluation.judges import Images, Judge, Seen, load_describer
from neuropictor.evaluation.protocols import OURS, PROTOCOLS
from neuropictor.evaluation.scoring import NULL_PAIRINGS, Scorer
from neuropictor.evaluation.significance import Nulls, Scores, tests_of, write_tests
from neuropictor.evaluation.statistics import Pairings, bootstrap_mean, chance_interval
from neuropictor.evaluation.tables import order_models, write_metrics, write_scores
from neuropictor.models.backbone import Backbone
from neuropictor.models.device import prepare_device
from neuropictor.records.files import Folder
from neuropictor.records.progress import progress
from neuropictor.records.record import RunRecord, record_path

if TYPE_CHECKING:
    from neuropictor.config import EvaluateConfig, RuntimeConfig

log = logging.getLogger(__name__)

NULL_OF = "refined"
"""Model whose reconstructions are paired with wrong pictures to make the null."""
SCORES, STATISTICS = "scores.csv", "statistics.csv"
"""Names of the tables beside `metrics.csv`: scores of every picture, and tests."""

USED = ("bootstrap", "permutations", "seed", "networks", "protocols")
"""Settings of `evaluate` that the scores depend on."""


def evaluate(
    samples: dict[int, dict[str, Path]],
    stimuli: Sequence[Path],
    backbone: str | Path,
    config: EvaluateConfig,
    runtime: RuntimeConfig,
    out: Path,
    weights: Folder | None = None,
) -> None:
    """Score reconstructions of all subjects and models.

    Parameters
    ----------
    samples : dict of dict of Path
        `samples[subject][model]`; the model "null" is made here from "refined".
    stimuli : sequence of Path
        Prepared pictures of these subjects.
    backbone : str or Path
        Judges the pictures, unless published networks do; its VAE and text tower give the ceilings.
    config : EvaluateConfig
        The settings of `USED`.
    runtime : RuntimeConfig
    out : Path
        `metrics.csv`; `scores.csv` and `statistics.csv` are written beside it. Its record holds controls and
        chance intervals.
    weights : Path, optional
        Folder of `fetch_weights`; needed with `networks: published`.
    """
    device = prepare_device(runtime)
    files = [path for models in samples.values() for path in models.values()]
    used = {name: getattr(config, name) for name in USED}
    made = [out, out.with_name(SCORES), out.with_name(STATISTICS)]
    with RunRecord(
        record_path(out), "evaluate", config=used, seed=config.seed, inputs=[*stimuli, *files], outputs=made
    ) as record:
        reconstructions = {
            subject: {model: StoredReconstructions(path) for model, path in models.items()}
            for subject, models in samples.items()
        }
        _check(reconstructions, samples)
        store = StimulusStore(*stimuli)
        nsd_ids = np.unique(np.concatenate([next(iter(found.values())).nsd_id for found in reconstructions.values()]))
        frozen = Backbone.load(backbone).to(device)
        judge = Judge(
            load_describer(config.networks, frozen, weights, device),
            Seen(store, nsd_ids),
            store.category(nsd_ids),
            store.background(nsd_ids),
            store.categories,
            config.seed,
        )
        drawn = {
            (row, model): (images, np.searchsorted(nsd_ids, images.nsd_id))
            for row, models in enumerate(reconstructions.values())
            for model, images in models.items()
        }
        published = weights if config.networks == "published" else None
        scorer = Scorer(judge, [PROTOCOLS[name] for name in config.protocols if name in PROTOCOLS], published, device)
        pairings = Pairings(len(nsd_ids), config.permutations, config.seed)
        scores, nulls = score_all(scorer, drawn, (len(samples), len(nsd_ids)), pairings, NULL_OF, config.seed)
        subjects = [str(subject) for subject in samples]
        rows = table_rows(scores, subjects, store.data, config)
        write_metrics(rows, out)
        write_scores(scores, subjects, nsd_ids, out.with_name(SCORES))
        tests = tests_of(scores, nulls, subjects, NULL_OF, store.data, config)
        write_tests(tests, out.with_name(STATISTICS))
        hard = scores[OURS][next(iter(scores[OURS]))]["two_way_hard"]
        record.add(
            data=store.data,
            test_pictures=len(nsd_ids),
            left_out_of_two_way_hard=int(np.isnan(hard).all(0).sum()),
            backbone=frozen.name,
            networks=config.networks,
            judge=judge.describer.name,
            categories=store.categories,
            null_pairings=NULL_PAIRINGS,
            chance=_chance(nulls[OURS].get(NULL_OF, {}), subjects),
            controls=backbone_controls(judge, frozen, store, nsd_ids, config.seed, runtime),
        )


def _check(reconstructions: dict[int, dict[str, StoredReconstructions]], samples: dict[int, dict[str, Path]]) -> None:
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


def score_all(
    scorer: Scorer,
    drawn: Mapping[tuple[int, str], tuple[Images, np.ndarray]],
    shape: tuple[int, int],
    pairings: Pairings,
    null_of: str | None,
    seed: int,
) -> tuple[Scores, Nulls]:
    """Score all models.

    Parameters
    ----------
    scorer : Scorer
    drawn : mapping
        By row of the subject and model: images, and their rows among the seen ones.
    shape : (int, int)
        Numbers of subjects and of seen images.
    pairings : Pairings
    null_of : str or None
        Model whose images are paired with wrong ones, which makes the model "null"; None for no such model.
    seed : int
        Of the wrong pairs.

    Returns
    -------
    scores, nulls : dict
        As of `significance`.
    """
    models = list(dict.fromkeys(model for _, model in drawn))
    models = order_models([*models, "null"] if null_of in models else models)
    scores: Scores = {OURS: {model: {} for model in models}}
    nulls: Nulls = {OURS: {model: {} for model in models if model != "null"}}

    def keep(label: str, model: str, row: int, columns: np.ndarray, by_metric: dict[str, np.ndarray]) -> None:
        for metric, values in by_metric.items():
            table = scores.setdefault(label, {}).setdefault(model, {}).setdefault(metric, np.full(shape, np.nan))
            table[row, columns] = values

    for row, model in progress(list(drawn), "Scoring", unit="model"):
        images, columns = drawn[row, model]
        scored, null, features = scorer.score(images, columns, pairings)
        for label, by_metric in scored.items():
            keep(label, model, row, columns, by_metric)
            of_model = nulls.setdefault(label, {}).setdefault(model, {})
            for metric, values in null[label].items():
                of_model.setdefault(metric, {})[row] = values
        if model == null_of:
            keep(OURS, "null", row, columns, scorer.wrong_pairs(images, columns, features, seed))
    return scores, nulls


def _chance(nulls: dict[str, dict[int, np.ndarray]], subjects: list[str]) -> dict[str, dict[str, list[float]]]:
    """Interval in which each subject's identification scores stay when pairs are random."""
    found: dict[str, dict[str, list[float]]] = {}
    for metric, by_subject in nulls.items():
        for row, null in by_subject.items():
            if np.isfinite(null).all():
                found.setdefault(subjects[row], {})[metric] = [round(value, 6) for value in chance_interval(null)]
    return found


def table_rows(scores: Scores, subjects: list[str], data: str, config: EvaluateConfig) -> list[dict]:
    """Turn scores into the rows of `metrics.csv`; the mean is over the subjects that have the model."""
    rows = []
    places = [*enumerate(subjects), (None, "mean")]
    for protocol, models in scores.items():
        for place, name in places:
            for model, metrics in models.items():
                for metric, found in metrics.items():
                    values = found[np.isfinite(found).any(1)] if place is None else found[place : place + 1]
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
                            "protocol": protocol,
                            "networks": config.networks,
                        }
                    )
    return rows
