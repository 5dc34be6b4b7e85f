"""The stage that scores all reconstructions: tidy tables with intervals and tests, and a record with controls."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuropictor.data.reconstructions import StoredReconstructions
from neuropictor.data.stimuli import StimulusStore, resize_pictures
from neuropictor.evaluation.controls import Judge, backbone_controls
from neuropictor.evaluation.measures import FURTHER_METRICS, METRICS
from neuropictor.evaluation.protocols import OURS, PROTOCOLS
from neuropictor.evaluation.significance import Nulls, Scores, tests_of, write_tests
from neuropictor.evaluation.statistics import Pairings, bootstrap_mean, chance_interval, derangements
from neuropictor.evaluation.tables import order_models, write_metrics, write_scores
from neuropictor.models.backbone import Backbone
from neuropictor.models.device import prepare_device
from neuropictor.runlog import RunRecord, progress, record_path

if TYPE_CHECKING:
    import torch

    from neuropictor.config import EvaluateConfig, RuntimeConfig

log = logging.getLogger(__name__)

NULL_OF = "refined"
"""Model whose reconstructions are paired with wrong pictures to make the null."""
NULL_PAIRINGS = 4
"""Wrong pairings that the null averages over: fewer would leave its own chance in it, more take time."""
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
    weights: Path | None = None,
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
        published = config.networks == "published"
        judge = Judge(
            describer(weights, device) if published else frozen,
            store.pictures(nsd_ids),
            store.category(nsd_ids),
            store.background(nsd_ids),
            store.categories,
            config.seed,
        )
        pairings = Pairings(len(nsd_ids), config.permutations, config.seed)
        scores, nulls = _score_all(reconstructions, judge, nsd_ids, pairings, config.seed)
        if published:
            drawn = {
                (row, model): (found, np.searchsorted(nsd_ids, found.nsd_id))
                for row, models in enumerate(reconstructions.values())
                for model, found in models.items()
            }
            published_into(scores, nulls, drawn, judge.seen, pairings, config, weights, device)
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
            controls=backbone_controls(judge, frozen, store.captions(nsd_ids), nsd_ids, config.seed),
        )


def describer(weights: Path | None, device: torch.device):
    """Load CLIP ViT-L/14 as the judge of the protocol `ours`."""
    from neuropictor.evaluation.networks import ClipDescriber

    if weights is None:
        raise ValueError(
            "evaluate.networks is published, but no folder of weights was given; allowed: one that `neuropictor"
            " fetch-weights` filled, e.g. --weights data/weights"
        )
    return ClipDescriber(weights, device)


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


def _empty(
    models: list[str], metrics: tuple[str, ...], subjects: int, pictures: int
) -> dict[str, dict[str, np.ndarray]]:
    return {model: {metric: np.full((subjects, pictures), np.nan) for metric in metrics} for model in models}


def _score_all(
    reconstructions: dict[int, dict[str, StoredReconstructions]],
    judge: Judge,
    nsd_ids: np.ndarray,
    pairings: Pairings,
    seed: int,
) -> tuple[Scores, Nulls]:
    """Score every subject and model, and the null, by the protocol `ours`."""
    models = list(dict.fromkeys(model for found in reconstructions.values() for model in found))
    models = order_models([*models, "null"] if NULL_OF in models else models)
    metrics = tuple(metric for metric in (*METRICS, *FURTHER_METRICS) if metric != "lpips")
    scores = _empty(models, metrics, len(reconstructions), len(nsd_ids))
    nulls: dict[str, dict[str, dict[int, np.ndarray]]] = {model: {} for model in models if model != "null"}

    def keep(model: str, row: int, columns: np.ndarray, found: dict[str, np.ndarray]) -> None:
        for metric, values in found.items():
            scores[model][metric][row, columns] = values

    for row, subject in enumerate(progress(list(reconstructions), "Scoring", unit="subject")):
        for model, found in reconstructions[subject].items():
            columns = np.searchsorted(nsd_ids, found.nsd_id)
            pictures = found.pictures
            features = judge.look(pictures)
            keep(model, row, columns, judge.score(pictures, columns, features))
            for metric, tables in judge.tables(features, columns).items():
                nulls[model].setdefault(metric, {})[row] = pairings.null(tables, columns)
            if model == NULL_OF:
                wrong = derangements(len(columns), NULL_PAIRINGS, seed)
                first = pictures[:, 0][wrong].swapaxes(0, 1)
                keep("null", row, columns, judge.score(first, columns, features[:, 0][wrong].swapaxes(0, 1)))
    return {OURS: scores}, {OURS: nulls}


def published_into(
    scores: Scores,
    nulls: Nulls,
    drawn: dict[tuple[int, str], tuple[StoredReconstructions, np.ndarray]],
    seen: np.ndarray,
    pairings: Pairings,
    config: EvaluateConfig,
    weights: Path | None,
    device: torch.device,
) -> None:
    """Add the scores of published protocols, and LPIPS to `ours`.

    Parameters
    ----------
    scores, nulls : dict
        As of `significance`; added to.
    drawn : dict
        By row of the subject and model: what has `pictures` uint8 [n, K, s, s, 3], and which of the seen ones they are
        of.
    seen : uint8 array [N, S, S, 3]
    pairings : Pairings
    config : EvaluateConfig
        `protocols` is used.
    weights : Path or None
        Without it only PixCorr and SSIM, which need no network.
    device : torch.device
    """
    from neuropictor.evaluation.networks import PerceptualDistance
    from neuropictor.evaluation.published_scores import score_published

    shape = next(iter(next(iter(scores[OURS].values())).values())).shape
    if weights:
        perceptual = PerceptualDistance(weights, device)
        for (row, model), (stored, columns) in drawn.items():
            sized = resize_pictures(stored.pictures, seen.shape[1])
            found = np.mean([perceptual(sized[:, k], seen[columns]) for k in range(sized.shape[1])], axis=0)
            scores[OURS][model].setdefault("lpips", np.full(shape, np.nan))[row, columns] = found
    protocols = [PROTOCOLS[name] for name in config.protocols if name in PROTOCOLS]
    values, chance = score_published(seen, drawn, protocols, weights, device, pairings)
    for label in values:
        scores[label], nulls[label] = {}, {}
        for (row, model), found in values[label].items():
            for metric, by_picture in found.items():
                table = scores[label].setdefault(model, {}).setdefault(metric, np.full(shape, np.nan))
                table[row, drawn[row, model][1]] = by_picture
            nulls[label].setdefault(model, {})
            for metric, null in chance[label][row, model].items():
                nulls[label][model].setdefault(metric, {})[row] = null


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
