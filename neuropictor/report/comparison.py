"""Several experiments side by side: their scores in a table, and the settings in which they differ. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from neuropictor.data.origin import joined_label, title_mark
from neuropictor.evaluation.metrics import METRICS, shown_in
from neuropictor.evaluation.protocols import OURS
from neuropictor.evaluation.tables import (
    model_title,
    order_models,
    read_metrics,
    without_ceilings,
)
from neuropictor.records.files import atomic_path
from neuropictor.report.pages import NOTHING, Cell, Table, write_page
from neuropictor.report.scores import value_cell, with_arrow

#: Records whose settings are compared, relative to an experiment's results.
RECORDS = (
    "calibrate/run.json",
    "align/space.run.json",
    "pretrain/run.json",
    "refine/*/run.json",
    "sample/*/*.run.json",
)
#: An experiment without a name, whose results lie in paths.results itself.
UNNAMED = "(unnamed)"


def name_experiment(metrics: Path) -> str:
    """Return the experiment of a ``metrics.csv``: the folder's name below ``experiments``, else `UNNAMED`."""
    return metrics.parent.name if metrics.parent.parent.name == "experiments" else UNNAMED


def compare(metrics: list[Path], out: Path) -> None:
    """Write a page that compares experiments by the project's own protocol, and the same numbers as CSV beside it.

    Parameters
    ----------
    metrics
        ``metrics.csv`` of each experiment; records of its stages are read from the folders beside it.
    out
        HTML page; the CSV has the columns of ``metrics.csv`` and ``experiment``.

    Raises
    ------
    ValueError
        If no experiment is given.
    """
    if not metrics:
        raise ValueError("nothing to compare: no metrics.csv given; e.g. results/experiments/short/metrics.csv")
    frames = {name_experiment(path): without_ceilings(read_metrics(path)) for path in metrics}
    frames = {name: frame[frame["protocol"] == OURS] for name, frame in frames.items()}
    table = pd.concat([frame.assign(experiment=name) for name, frame in frames.items()], ignore_index=True)
    labels = {joined_label(frame["data"]) for frame in frames.values()}
    mark = title_mark(joined_label(labels))
    if len(labels) > 1:
        mark = mark and " (the rows tell which of simulated data, or drawn by a miniature)"
    tested = {}
    for name, frame in frames.items():
        counts = frame[frame["subject"] != "mean"].groupby("subject")["n_images"].max()
        tested[name] = (", ".join(counts.index), counts.sum())
    write_page(
        "comparison.html",
        out,
        "Experiments compared" + mark,
        scores=_scores(table, list(frames)),
        tested=tested,
        settings=_differences({name_experiment(path): path.parent for path in metrics}),
    )
    with atomic_path(Path(out).with_suffix(".csv")) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def _scores(table: pd.DataFrame, names: list[str]) -> Table:
    """Experiments and models down, metrics across; with several experiments, each model's best in bold."""
    mean = table[table["subject"] == "mean"]
    cells = {(row.experiment, row.model, row.metric): row for row in mean.itertuples()}
    metrics = shown_in("main", table["metric"])
    rows = []
    for model in order_models(table["model"]):
        having = [name for name in names if any((name, model, metric) in cells for metric in metrics)]
        for name in having:
            data = title_mark(joined_label(table[table["experiment"] == name]["data"]))
            row: list[str | Cell] = [model_title(model), name + data]
            for metric in metrics:
                cell = cells.get((name, model, metric))
                rivals = [cells[key].value for other in having if (key := (other, model, metric)) in cells]
                best = max(rivals, default=None) if METRICS[metric].higher_is_better else min(rivals, default=None)
                is_best = cell and len(rivals) > 1 and cell.value == best
                row.append(value_cell(cell, "b" if is_best else "") if cell else NOTHING)
            rows.append(row)
    return Table(["model", "experiment", *map(with_arrow, metrics)], rows)


def _flat(tree: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {key: leaf for name, part in tree.items() for key, leaf in _flat(part, f"{prefix}.{name}").items()}


def _settings(folder: Path) -> dict[str, str]:
    """Read the settings of an experiment's stages from their records."""
    flat: dict[str, str] = {}
    for pattern in RECORDS:
        for path in sorted(folder.glob(pattern))[:1]:
            record = json.loads(path.read_text(encoding="utf-8"))
            config = record.get("config") or {}
            nested = record["stage"] in config
            flat |= {key: json.dumps(value) for key, value in _flat(config, "" if nested else record["stage"]).items()}
    return {key.strip("."): value for key, value in flat.items()}


def _differences(folders: Mapping[str, Path]) -> Table:
    """Tabulate the settings that differ between experiments."""
    settings = {name: _settings(folder) for name, folder in folders.items()}
    rows = []
    for key in sorted(set().union(*settings.values())):
        values = [of_experiment.get(key) for of_experiment in settings.values()]
        if len(set(values)) > 1:
            rows.append([Cell(key, mark="code"), *(NOTHING if value is None else value for value in values)])
    return Table(["setting", *settings], rows)
