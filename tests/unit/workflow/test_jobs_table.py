"""The table of all jobs."""

import csv
import json
from pathlib import Path

from neuropictor.records import record
from neuropictor.records.record import RunRecord, job_record
from neuropictor.workflow.jobs_table import COLUMNS, write_runs


def read(path: Path) -> dict[str, dict[str, str]]:
    with open(path, newline="") as file:
        return {row["job"]: row for row in csv.DictReader(file)}


def benchmark(path: Path, **values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"s": 12.345, "cpu_time": 20.0, "max_rss": 10_000.4, **values}) + "\n")


def test_records_and_benchmarks_of_a_job_share_a_row(tmp_path, monkeypatch):
    results, prepared, logs = tmp_path / "results", tmp_path / "prepared", tmp_path / "logs"
    with RunRecord(results / "refine/sub-01/run.json", "refine", seed=13, outputs=[]) as entry:
        entry.add(data="simulated", steps_per_second=2.5)
    monkeypatch.setattr(record, "JOB", "sample/sub-01_refined")
    with RunRecord(results / "sample/sub-01/refined.run.json", "sample", seed=14, outputs=[]):
        pass
    monkeypatch.setattr(record, "JOB", "evaluate")
    with RunRecord(results / "metrics.run.json", "evaluate", seed=15, outputs=[]):
        pass
    monkeypatch.setattr(record, "JOB", "preprocess_subject/sub-01")
    with RunRecord(prepared / "sub-01/responses.run.json", "preprocess", outputs=[]):
        pass
    monkeypatch.setattr(record, "JOB", None)
    with RunRecord(results / "experiments/other/metrics.run.json", "evaluate", outputs=[]):
        pass
    with job_record("data_card", logs / "data_card.log", [("config", {"seed": 16})], [], []):
        pass
    jobs = ["refine/sub-01", "sample/sub-01_refined", "evaluate", "preprocess_subject/sub-01"]
    for job in [*jobs, "contact_sheet/sub-01"]:
        benchmark(results / f"benchmarks/{job}.jsonl")
    assert write_runs(results, results / "runs.csv", prepared, logs) == 6
    rows = read(results / "runs.csv")
    assert rows.keys() == {*jobs, "contact_sheet/sub-01", "data_card"}
    refine = rows["refine/sub-01"]
    assert tuple(refine) == COLUMNS
    assert (refine["stage"], refine["seed"], refine["data"], refine["steps_per_second"]) == (
        "refine",
        "13",
        "simulated",
        "2.5",
    )
    assert (refine["job_seconds"], refine["cpu_seconds"], refine["peak_memory_mib"]) == ("12.35", "20.0", "10000")
    assert refine["revision"]
    assert refine["record"].endswith("refine/sub-01/run.json")
    assert rows["contact_sheet/sub-01"]["job_seconds"] == "12.35"
    assert rows["contact_sheet/sub-01"]["record"] == ""
    assert (rows["data_card"]["stage"], rows["data_card"]["seed"]) == ("data_card", "16")


def test_what_cannot_be_read_is_named_and_left_out(tmp_path, caplog):
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain/run.json").touch()
    benchmark(tmp_path / "benchmarks/calibrate.jsonl", cpu_time="NA", max_rss="NA")
    assert write_runs(tmp_path, tmp_path / "runs.csv", None, None) == 1
    assert "pretrain/run.json cannot be read" in caplog.text
    assert read(tmp_path / "runs.csv")["calibrate"]["cpu_seconds"] == ""
