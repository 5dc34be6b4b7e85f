"""Scores by groups: of kinds of images of a further test set, or of numbers of image-response pairs.

The tables are those of `neuropictor.evaluation.evaluate`, with the column `group` before all others. Within a group,
images are identified among those of the group alone, and p values are corrected for the tests of the group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from neuropictor.config.types import Subject
from neuropictor.data.origin import joined_label
from neuropictor.data.reconstructions import StoredReconstructions, by_subject
from neuropictor.data.stimuli import StimulusStore
from neuropictor.evaluation.evaluate import USED, Scorer, open_samples, score_all
from neuropictor.evaluation.judges import Judge, Seen, load_describer
from neuropictor.evaluation.metrics import METRICS
from neuropictor.evaluation.statistics import Pairings, summarise, tests_of
from neuropictor.evaluation.tables import (
    ALL,
    GROUP,
    METRIC_COLUMNS,
    NOT_SCORED,
    SCORE_COLUMNS,
    SCORES,
    STATISTICS,
    TEST_COLUMNS,
    write_table,
)
from neuropictor.models.backbone import Backbone
from neuropictor.models.device import prepare_device
from neuropictor.records.files import Folder
from neuropictor.records.record import RunRecord, record_path

if TYPE_CHECKING:
    from neuropictor.config import EvaluateConfig, RuntimeConfig

Opened = dict[tuple[str, str], StoredReconstructions]
BETWEEN = "two_way_between"


@dataclass
class _Some:
    """Some images of a file of reconstructions."""

    images: StoredReconstructions
    rows: np.ndarray

    @property
    def samples(self) -> int:
        return self.images.samples

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: np.ndarray, sample: int = 0) -> np.ndarray:
        return self.images.read(self.rows[rows], sample)


def evaluate_test_set(
    samples: dict[Subject, dict[str, Path]],
    stimuli: Sequence[Path],
    backbone: str | Path,
    config: EvaluateConfig,
    runtime: RuntimeConfig,
    out: Path,
    weights: Folder | None = None,
) -> None:
    """Score reconstructions of a further test set: of all its images together, and of each kind alone.

    Kinds are the categories of the stimulus store, which are not objects: nothing is read off images by name. Those of
    `NOT_SCORED` are left out.

    Parameters
    ----------
    samples
        dict of dict of Path: `samples[subject][model]`; every model is compared with "refined".
    stimuli
        Prepared images of the test set, one file a subject.
    backbone
        Judges the images, unless published networks do.
    config
        The settings of `neuropictor.evaluation.evaluate.USED`.
    runtime
        Section of the configuration.
    out
        `metrics.csv`; `scores.csv` and `statistics.csv` are written beside it.
    weights
        Folder of `fetch_weights`; needed with `networks: published`.
    """
    opened, store = open_samples(samples), StimulusStore(*stimuli)
    kind_of = dict(zip(store.nsd_id.tolist(), store.category(store.nsd_id).tolist(), strict=True))
    scored = np.array([nsd_id for nsd_id, kind in kind_of.items() if kind not in NOT_SCORED])
    kinds = np.array([kind_of[nsd_id] for nsd_id in scored.tolist()])
    groups = {ALL: scored} | {str(kind): scored[kinds == kind] for kind in dict.fromkeys(kinds.tolist())}
    files = [path for models in samples.values() for path in models.values()]

    def parts() -> Iterable[tuple[str, Opened, np.ndarray]]:
        yield from ((name, opened, nsd_ids) for name, nsd_ids in groups.items())

    def judge_of(describe: Callable[..., Judge], nsd_ids: np.ndarray) -> Judge:
        unknown = np.full(len(nsd_ids), "")
        return describe(Seen(store, nsd_ids), unknown, unknown, [])

    _write(
        parts(), judge_of, "refined", [*stimuli, *files], "evaluate_test_set", backbone, config, runtime, out, weights
    )


def evaluate_pairs(
    samples: Sequence[Path],
    stimuli: Sequence[Path],
    backbone: str | Path,
    config: EvaluateConfig,
    runtime: RuntimeConfig,
    out: Path,
    weights: Folder | None = None,
) -> None:
    """Score reconstructions from different numbers of image-response pairs.

    Parameters are those of `evaluate_test_set`, but for `samples`: files in folders named after group and subject, such
    as ``pairs-50/sub-01/adapted.h5``; the group is ``50``. Every model is compared with "adapted".
    """
    files: dict[str, list[Path]] = {}
    for path in samples:
        files.setdefault(path.parents[1].name.removeprefix("pairs-"), []).append(path)
    opened = {group: open_samples(by_subject(paths)) for group, paths in files.items()}
    store = StimulusStore(*stimuli)

    def parts() -> Iterable[tuple[str, Opened, np.ndarray]]:
        for group, images in opened.items():
            yield group, images, np.unique(np.concatenate([one.nsd_id for one in images.values()]))

    def judge_of(describe: Callable[..., Judge], nsd_ids: np.ndarray) -> Judge:
        return describe(Seen(store, nsd_ids), store.category(nsd_ids), store.background(nsd_ids), store.categories)

    _write(
        parts(), judge_of, "adapted", [*stimuli, *samples], "evaluate_pairs", backbone, config, runtime, out, weights
    )


def _write(
    parts: Iterable[tuple[str, Opened, np.ndarray]],
    judge_of: Callable[[Callable[..., Judge], np.ndarray], Judge],
    compared: str,
    inputs: Sequence[Path],
    stage: str,
    backbone: str | Path,
    config: EvaluateConfig,
    runtime: RuntimeConfig,
    out: Path,
    weights: Path | None,
) -> None:
    """Score each group, and write the three tables and the record."""
    device = prepare_device(runtime)
    used = {name: getattr(config, name) for name in USED}
    outputs = [out, out.with_name(SCORES), out.with_name(STATISTICS)]
    with RunRecord(record_path(out), stage, config=used, seed=config.seed, inputs=inputs, outputs=outputs) as record:
        describer = load_describer(config.networks, Backbone.load(backbone).to(device), weights, device)
        published = weights if config.networks == "published" else None
        known: tuple[bytes, Scorer] | None = None
        scored: dict[str, pd.DataFrame] = {}
        rows, tests, data = [], [], ""
        for group, opened, nsd_ids in parts:
            # The seen images of all numbers of pairs are the same.
            if known is None or known[0] != nsd_ids.tobytes():
                judge = judge_of(partial(Judge, describer, seed=config.seed), nsd_ids)
                known = (nsd_ids.tobytes(), Scorer(judge, config.protocols, published, device))
            kept = {name: np.flatnonzero(np.isin(images.nsd_id, nsd_ids)) for name, images in opened.items()}
            places = {
                name: (_Some(images, kept[name]), np.searchsorted(nsd_ids, images.nsd_id[kept[name]]))
                for name, images in opened.items()
            }
            data = joined_label([data, *(images.data for images in opened.values())])
            pairings = Pairings(len(nsd_ids), config.permutations, config.seed)
            scores, nulls = score_all(known[1], places, nsd_ids, pairings, None, config.seed)
            if ALL in scored:
                scores[BETWEEN] = _among_others(scores, scored[ALL])
            scored[group] = scores
            rows += [{GROUP: group} | row for row in summarise(scores, data, config)]
            tests += [{GROUP: group} | row for row in tests_of(scores, nulls, compared, data, config)]
        write_table(rows, [GROUP, *METRIC_COLUMNS], outputs[0])
        table = pd.concat([scores.assign(**{GROUP: group}) for group, scores in scored.items()])
        names = [name for name in METRICS if name in table and table[name].notna().any()]
        write_table(table, [GROUP, *SCORE_COLUMNS, *names], outputs[1])
        write_table(tests, [GROUP, *TEST_COLUMNS], outputs[2])
        record.add(data=data, groups=list(scored), judge=describer.name)


def _among_others(scores: pd.DataFrame, everything: pd.DataFrame) -> np.ndarray:
    """Two-way identification of a group's images among those of all other groups, float64 [rows]; NaN without others.

    Shares among all images, and among those of the group, tell those among the others.
    """
    keys = list(SCORE_COLUMNS)
    joined = scores[[*keys, "two_way"]].merge(everything[[*keys, "two_way"]], on=keys, suffixes=("", "_all"))
    of_model = keys[:-1]
    within = scores.groupby(of_model)["nsd_id"].transform("count").to_numpy() - 1
    among = joined.merge(everything.groupby(of_model).size().rename("count").reset_index(), on=of_model)["count"] - 1
    others = among.to_numpy() - within
    share = joined["two_way_all"].to_numpy() * among.to_numpy() - np.nan_to_num(joined["two_way"].to_numpy()) * within
    return np.divide(share, others, out=np.full(len(share), np.nan), where=others > 0)
