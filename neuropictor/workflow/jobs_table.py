"""One table of all jobs: output, revision, seed, time and memory.

Rows come from the run records of the stages and from Snakemake's benchmark of every job. Standard library only, since
the workflow calls it at every end.
"""

import csv
import json
import logging
import re
from pathlib import Path
from typing import Any

from neuropictor.records.files import atomic_path

log = logging.getLogger(__name__)

COLUMNS = (
    "job",
    "stage",
    "started",
    "wall_seconds",
    "job_seconds",
    "cpu_seconds",
    "peak_memory_mib",
    "gpu",
    "gpu_peak_mib",
    "seed",
    "revision",
    "data",
    "steps_per_second",
    "torch",
    "record",
)


def write_runs(results: str | Path, out: str | Path, prepared: str | Path | None, logs: str | Path | None) -> int:
    """Write the table of all jobs so far, in the order in which they began; return their number.

    Parameters
    ----------
    results
        Folder of the results of one experiment, with ``benchmarks`` in it.
    out
        CSV file with the columns of `COLUMNS`. ``wall_seconds`` is the stage's own time, ``job_seconds`` that of the
        whole job with its start, where Snakemake measured it; memory is the larger of both measurements.
    prepared, logs
        Folders of prepared data and of logs, whose records are listed too; None to leave them out.
    """
    rows = {}
    for folder in map(Path, filter(None, (results, prepared, logs))):
        for path in sorted(folder.rglob("*run.json")):
            if "experiments" not in path.relative_to(folder).parts:
                record = _read(path)
                if record is not None:
                    name = re.sub(r"[/.]run\.json$", "", path.relative_to(folder).as_posix())
                    rows[record.get("job") or name] = _from_record(record, path)
    benchmarks = Path(results) / "benchmarks"
    for path in sorted(benchmarks.rglob("*.jsonl")):
        job = path.relative_to(benchmarks).with_suffix("").as_posix()
        measured = _read(path)
        if measured is not None:
            _add_benchmark(rows.setdefault(job, {"stage": job.split("/")[0]}), measured)
    ordered = sorted(rows.items(), key=lambda item: (item[1].get("started", ""), item[0]))
    with atomic_path(out) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({"job": job, **row} for job, row in ordered)
    return len(rows)


def _read(path: Path) -> dict[str, Any] | None:
    """Read a record, or the last line of a benchmark; None, with a warning, if it is neither."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text.splitlines()[-1] if path.suffix == ".jsonl" else text)
    except (ValueError, IndexError):
        log.warning("%s cannot be read and is left out of the table of jobs", path)
        return None
    return content if isinstance(content, dict) else None


def _from_record(record: dict[str, Any], path: Path) -> dict[str, Any]:
    device, results = record.get("device") or {}, record.get("results") or {}
    return {
        "stage": record.get("stage"),
        "started": record.get("started", ""),
        "wall_seconds": record.get("wall_seconds"),
        "peak_memory_mib": record.get("peak_memory_mib"),
        "gpu": device.get("gpu"),
        "gpu_peak_mib": device.get("peak_memory_mib"),
        "seed": record.get("seed"),
        "revision": record.get("revision"),
        "data": results.get("data"),
        "steps_per_second": results.get("steps_per_second"),
        "torch": (record.get("versions") or {}).get("torch"),
        "record": path.as_posix(),
    }


def _add_benchmark(row: dict[str, Any], measured: dict[str, Any]) -> None:
    """Add Snakemake's measurements of the job and all its processes."""
    row["job_seconds"] = _number(measured.get("s"), 2)
    row["cpu_seconds"] = _number(measured.get("cpu_time"), 2)
    measured_rss = _number(measured.get("max_rss"), 0)
    row["peak_memory_mib"] = max(filter(None, (row.get("peak_memory_mib"), measured_rss)), default=None)


def _number(value: Any, digits: int) -> float | int | None:
    """Round a number; None if a job was too short to measure it."""
    if not isinstance(value, int | float):
        return None
    return round(value, digits) if digits else round(value)
