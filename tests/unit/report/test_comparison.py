"""Experiments side by side."""

import json
from pathlib import Path

import pandas as pd
import pytest

from neuropictor.evaluation.protocols import OURS
from neuropictor.evaluation.tables import METRIC_COLUMNS, write_table
from neuropictor.report.comparison import UNNAMED, compare, name_experiment


def make(folder: Path, value: float, steps: int, data: str = "simulated") -> Path:
    rows = []
    for subject in ("1", "mean"):
        for metric in ("pixcorr", "distance"):
            row = {
                "subject": subject,
                "model": "refined",
                "metric": metric,
                "value": value,
                "n_images": 12,
                "data": data,
                "protocol": OURS,
                "networks": "miniature",
            }
            rows.append({**row, "ci_low": value - 0.1, "ci_high": value + 0.1})
    folder.mkdir(parents=True)
    write_table(rows, METRIC_COLUMNS, folder / "metrics.csv")
    record = {"stage": "refine", "config": {"steps": steps, "seed": 13}}
    (folder / "refine/sub-01").mkdir(parents=True)
    (folder / "refine/sub-01/run.json").write_text(json.dumps(record))
    return folder / "metrics.csv"


def test_scores_and_differing_settings_stand_side_by_side(tmp_path):
    first = make(tmp_path / "results", 0.4, 250)
    second = make(tmp_path / "results/experiments/long", 0.6, 900)
    compare([first, second], tmp_path / "results/comparison.html")
    text = (tmp_path / "results/comparison.html").read_text()
    assert "<title>Experiments compared (SIMULATED data)</title>" in text
    assert "<td>refined</td><td>long (SIMULATED data)</td><td><b>0.600</b>" in text
    assert "<td>refined</td><td>(unnamed) (SIMULATED data)</td><td>0.400" in text
    assert "<b>0.400</b>" in text  # a distance
    assert "<code>refine.steps</code></td><td>250</td><td>900</td>" in text
    assert "refine.seed" not in text
    table = pd.read_csv(tmp_path / "results/comparison.csv")
    assert set(table["experiment"]) == {UNNAMED, "long"}
    assert len(table) == 8


def test_real_and_simulated_data_are_told_apart(tmp_path):
    pages = [make(tmp_path / "experiments/a", 0.4, 1), make(tmp_path / "experiments/b", 0.4, 1, data="nsd")]
    compare(pages, tmp_path / "comparison.html")
    text = (tmp_path / "comparison.html").read_text()
    assert (
        "<title>Experiments compared (the rows tell which of simulated data, or drawn by a miniature)</title>" in text
    )
    assert "<td>a (SIMULATED data)</td>" in text
    assert "<td>b</td>" in text
    assert "None that the records" in text


def test_nothing_to_compare_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nothing to compare: no metrics.csv given; e.g. results/experiments"):
        compare([], tmp_path / "comparison.html")
    assert name_experiment(Path("results/metrics.csv")) == UNNAMED
    assert name_experiment(Path("results/experiments/wide/metrics.csv")) == "wide"
