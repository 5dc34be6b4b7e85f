"""The whole chain at its smallest, from nothing to the scores: twice, with the same images to the byte."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from tiny_chain import WARM, snakemake

pytestmark = pytest.mark.workflow
SUBJECTS = {"01", "02", "mean"}
MODELS = {"refined", "pretrained", "ridge", "ridge_diffusion", "nearest", "mean_image", "null"}
METRICS = {"pixcorr", "ssim", "two_way", "two_way_hard", "distance", "category"}
COLUMNS = ["subject", "model", "metric", "value", "ci_low", "ci_high", "n_images", "data", "protocol", "networks"]


def read_metrics(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results/metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_are_tidy_and_complete(chain):
    rows = read_metrics(chain)
    assert list(rows[0]) == COLUMNS
    keys = {(row["subject"], row["model"], row["metric"]) for row in rows}
    assert len(keys) == len(rows)
    assert keys >= {(subject, model, metric) for subject in SUBJECTS for model in MODELS for metric in METRICS}
    for row in rows:
        assert float(row["ci_low"]) <= float(row["value"]) <= float(row["ci_high"]), row
        assert int(row["n_images"]) > 0
        assert row["data"] == "simulated+miniature"


def test_second_run_does_nothing(chain):
    assert "Nothing to be done" in snakemake(chain)


def test_stages_leave_records_logs_and_benchmarks(chain):
    results = chain / "results"
    names = {path.relative_to(results).as_posix() for path in results.rglob("*run.json")}
    assert {"calibrate/run.json", "pretrain/run.json", "refine/sub-01/run.json", "metrics.run.json"} <= names
    for name in names:
        record = json.loads((results / name).read_text())
        assert record["stage"]
        assert record["inputs"]
    logs = {path.relative_to(chain / "logs").with_suffix("").as_posix() for path in (chain / "logs").rglob("*.log")}
    benchmarks = {
        path.relative_to(results / "benchmarks").with_suffix("").as_posix() for path in results.rglob("*.jsonl")
    }
    assert benchmarks == logs
    assert {"pretrain", "refine/sub-01", "sample/sub-02_refined", "evaluate"} <= benchmarks


def test_all_jobs_are_listed_with_what_they_took(chain):
    with open(chain / "results/runs.csv", newline="") as file:
        rows = {row["job"]: row for row in csv.DictReader(file)}
    logs = chain / "logs"
    assert rows.keys() == {path.relative_to(logs).with_suffix("").as_posix() for path in logs.rglob("*.log")}
    for row in rows.values():
        assert row["record"]
        assert row["revision"]
        assert float(row["wall_seconds"]) > 0
        assert float(row["peak_memory_mib"]) > 0
    records = [path for path in chain.rglob("*run.json") if ".snakemake" not in path.parts]
    assert len(records) == len(rows)
    for path in records:
        assert json.loads(path.read_text())["outputs"], path  # all are compared with checksums when they are read
    sheet = json.loads((logs / "contact_sheet/sub-01.run.json").read_text())
    assert sheet["config"]["config"] == {"contact_sheet_rows": sheet["config"]["config"]["contact_sheet_rows"]}
    assert "../../results/report/contact_sheet_sub-01.png" in sheet["outputs"]
    assert rows["pretrain"]["data"] == "simulated+miniature"
    assert float(rows["pretrain"]["steps_per_second"]) > 0


def test_experiments_are_compared(chain, tmp_path):
    for part in ("results", "logs", ".snakemake"):
        shutil.copytree(chain / part, tmp_path / part)
    (tmp_path / "data").symlink_to(chain / "data")
    other = tmp_path / "results/experiments/other"
    other.mkdir(parents=True)
    shutil.copy(chain / "results/metrics.csv", other)
    snakemake(tmp_path, "compare")
    text = (tmp_path / "results/comparison.html").read_text()
    assert "Experiments compared (SIMULATED data, drawn by a miniature that knows 12 cartoon objects)" in text
    assert "<td>other (SIMULATED data, drawn by a miniature that knows 12 cartoon objects)</td>" in text
    assert "<code>refine.steps</code></td><td>4</td>" in text


def test_nothing_half_written_is_left(chain):
    left = [path for path in chain.rglob("*") if ".partial" in path.name or path.name == "checkpoints"]
    assert not left


def test_a_second_chain_has_the_same_results_to_the_byte(chain, tmp_path):
    """On the same data, of which `test_writer.py` and `test_preprocess.py` say it."""
    (tmp_path / "data").symlink_to(chain / "data")
    names = ("sample/sub-01/refined.h5", "sample/sub-02/pretrained.h5")
    said = snakemake(tmp_path, *(f"results/{name}" for name in names), program=WARM)
    assert "preprocess_subject" not in said and "pretrain" in said
    for name in names:
        assert (tmp_path / "results" / name).read_bytes() == (chain / "results" / name).read_bytes()
