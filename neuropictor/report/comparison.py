"""Several experiments side by side: their scores in a table, and the settings in which they differ. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from neuropictor.evaluation.measures import LOWER_IS_BETTER, METRICS
from neuropictor.evaluation.protocols import OURS
from neuropictor.evaluation.tables import MODEL_NAMES, metrics_of, order_models, read_metrics, title_mark
from neuropictor.records.files import atomic_path
from neuropictor.report.pages import page, table
from neuropictor.report.scores import NOTHING, with_arrow

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
    tables = {name_experiment(path): read_metrics(path) for path in metrics}
    frames = {name: frame[frame["protocol"] == OURS] for name, frame in tables.items()}
    whole = pd.concat([frame.assign(experiment=name) for name, frame in frames.items()], ignore_index=True)
    body = ["<h2>Mean over subjects</h2>", _scores(frames), _reading(frames)]
    body += ["<h2>Settings that differ</h2>", _differences({name_experiment(path): path.parent for path in metrics})]
    kinds = set(whole["data"])
    mark = title_mark("simulated") if kinds == {"simulated"} else " (some of SIMULATED data)" * ("simulated" in kinds)
    with atomic_path(out) as temporary:
        temporary.write_text(page("Experiments compared" + mark, "\n".join(body)), encoding="utf-8")
    with atomic_path(Path(out).with_suffix(".csv")) as temporary:
        whole.to_csv(temporary, index=False, lineterminator="\n")


def _scores(frames: Mapping[str, pd.DataFrame]) -> str:
    """Experiments and models down, metrics across; of the experiments, each model's best in bold."""
    means = {name: frame[frame["subject"] == "mean"].set_index(["model", "metric"]) for name, frame in frames.items()}
    found = metrics_of(pd.concat(frames.values()), METRICS)
    models = order_models({model for frame in frames.values() for model in frame["model"]})
    rows = []
    for model in models:
        having = [name for name in frames if model in means[name].index]
        for name in having:
            cells = [_cell(means, having, name, model, metric) for metric in found]
            data = title_mark(str(frames[name]["data"].iloc[0]))
            rows.append([f"{escape(MODEL_NAMES.get(model, model))}", escape(name + data), *cells])
    return table(["model", "experiment", *map(with_arrow, found)], rows)


def _cell(means: Mapping[str, pd.DataFrame], having: list[str], name: str, model: str, metric: str) -> str:
    if (model, metric) not in means[name].index:
        return NOTHING
    row = means[name].loc[(model, metric)]
    others = [means[other].loc[(model, metric)]["value"] for other in having if (model, metric) in means[other].index]
    best = min(others) if metric in LOWER_IS_BETTER else max(others)
    text = f"{row['value']:.3f}"
    if len(others) > 1 and row["value"] == best:
        text = f"<b>{text}</b>"
    return f"{text}<small>{row['ci_low']:.3f} to {row['ci_high']:.3f}</small>"


def _reading(frames: Mapping[str, pd.DataFrame]) -> str:
    """Say how to read the table, and on what each experiment was tested."""
    tested = []
    for name, frame in frames.items():
        subjects = sorted(set(frame["subject"]) - {"mean"})
        pictures = frame[frame["subject"] != "mean"].groupby("subject")["n_images"].max().sum()
        tested.append(f"{escape(name)}: subjects {escape(', '.join(subjects))}, {int(pictures)} test pictures together")
    return (
        "<p>Below each value its 95 % interval; bold: best of the experiments. Compare only experiments tested"
        f" on the same subjects and pictures. {'; '.join(tested)}.</p>"
    )


def _flat(tree: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {key: leaf for name, part in tree.items() for key, leaf in _flat(part, f"{prefix}.{name}").items()}


def _settings(folder: Path) -> dict[str, str]:
    """Read the settings of an experiment's stages from their records."""
    found: dict[str, str] = {}
    for pattern in RECORDS:
        for path in sorted(folder.glob(pattern))[:1]:
            record = json.loads(path.read_text(encoding="utf-8"))
            config = record.get("config") or {}
            nested = record["stage"] in config
            found |= {key: json.dumps(value) for key, value in _flat(config, "" if nested else record["stage"]).items()}
    return {key.strip("."): value for key, value in found.items()}


def _differences(folders: Mapping[str, Path]) -> str:
    """Tabulate the settings that are not the same in all experiments."""
    settings = {name: _settings(folder) for name, folder in folders.items()}
    keys = sorted({key for found in settings.values() for key in found})
    rows = []
    for key in keys:
        values = [found.get(key) for found in settings.values()]
        if len(set(values)) > 1:
            rows.append(
                [f"<code>{escape(key)}</code>", *(NOTHING if value is None else escape(value) for value in values)]
            )
    if not rows:
        return "<p>None that the records of calibrate, align, pretrain, refine and sample know of.</p>"
    return table(["setting", *settings], rows)
