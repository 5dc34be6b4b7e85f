"""Stages are called with what Snakemake knows of their jobs."""

import ast
import importlib
import inspect
import json
import subprocess
import sys
import typing
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.iocontainers import InputFiles, OutputFiles, Params, Wildcards

from neuropictor.workflow.job import convert, fill
from neuropictor import config as sections
from neuropictor.config import RuntimeConfig, SampleConfig, Subject
from neuropictor.records.files import Folder
from neuropictor.records.record import job_name

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = sorted((ROOT / "workflow_scripts").glob("*.py"))


def stage(pipeline: Folder, config: SampleConfig, runtime: "RuntimeConfig", model: str, out: Path, threads: int = 0):
    """Stand for a stage."""


def job(**changes):
    parts = {
        "rule": "sample",
        "threads": 3,
        "params": Params(fromdict={"config": {"steps": 4}, "sample.steps": "told", "runtime": {"device": "cpu"}}),
        "output": OutputFiles(fromdict={"out": "results/sample/sub-01/refined.h5", "run": "refined.run.json"}),
        "input": InputFiles(fromdict={"pipeline": "results/refine/sub-01/model_index.json", "out": "not this"}),
        "wildcards": Wildcards(fromdict={"model": "refined"}),
    }
    return SimpleNamespace(**(parts | changes))


def test_arguments_are_filled_by_name_and_converted():
    arguments = fill(stage, job())
    assert arguments["config"] == SampleConfig(steps=4)
    assert arguments["runtime"] == RuntimeConfig(device="cpu")
    assert arguments["pipeline"] == Path("results/refine/sub-01")
    assert arguments["out"] == Path("results/sample/sub-01/refined.h5")
    assert (arguments["model"], arguments["threads"]) == ("refined", 3)


def test_a_rule_that_lacks_something_is_told_what():
    with pytest.raises(TypeError, match="rule sample gives nothing for the parameter model of stage; needed: a param"):
        fill(stage, job(wildcards=Wildcards()))


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("7", int, 7),
        ("a.h5", Path, Path("a.h5")),
        (Path("a.h5"), Path, Path("a.h5")),
        (Path("a.h5"), Path | None, Path("a.h5")),
        (7, int | None, 7),
        ("miniature", str | Path, "miniature"),
        ([], Path | None, None),
        ("", str | Path | None, None),
        (["a.h5"], str | Path | None, "a.h5"),
        (["a.h5"], list[Path], [Path("a.h5")]),
        ("a.h5", list[Path], [Path("a.h5")]),
        ("data/weights/weights.json", Folder | None, Path("data/weights")),
        (["a/sub-02/x.h5"], dict[Subject, Path], {"02": Path("a/sub-02/x.h5")}),
        (
            ["a/ridge.h5", "a/refined.h5"],
            dict[str, Path],
            {name: Path(f"a/{name}.h5") for name in ("ridge", "refined")},
        ),
        (
            ["sub-01/x.h5", "sub-01/y.h5", "sub-02/x.h5"],
            dict[Subject, dict[str, Path]],
            {"01": {"x": Path("sub-01/x.h5"), "y": Path("sub-01/y.h5")}, "02": {"x": Path("sub-02/x.h5")}},
        ),
    ],
)
def test_values_become_what_the_annotation_says(value, kind, expected):
    assert convert(value, kind) == expected


def test_a_job_has_the_name_of_its_log():
    assert job_name("refine", "logs/refine/sub-01.log") == "refine/sub-01"
    assert job_name("pretrain", "/pretrain/logs/experiments/short/pretrain.log") == "pretrain"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_import_a_stage_and_run_it(script):
    lines = [line for line in script.read_text().splitlines() if line]
    assert len(lines) <= 3
    tree = ast.parse(script.read_text())
    module, name = next(
        (node.module, node.names[0].name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.names[0].name != "run"
    )
    function = getattr(importlib.import_module(module), name)
    hints = typing.get_type_hints(function, localns=vars(sections))
    assert inspect.signature(function).parameters.keys() <= hints.keys()


def test_a_job_is_logged_and_recorded(tmp_path):
    """In a process of its own, as Snakemake's preamble leaves it to the script."""
    (tmp_path / "table.csv").write_text("1")
    program = """
from types import SimpleNamespace
from snakemake.iocontainers import InputFiles, Log, OutputFiles, Params, Wildcards
snakemake = SimpleNamespace(
    rule="copy", threads=1, wildcards=Wildcards(), params=Params(fromdict={"times": 2}), log=Log(["logs/copy/a.log"]),
    input=InputFiles(fromdict={"table": "table.csv"}), output=OutputFiles(fromdict={"out": "copy.csv"}),
)
from neuropictor.workflow.job import run
from pathlib import Path
def copy(table: Path, out: Path, times: int):
    out.write_text(times * table.read_text())
run(copy)
"""
    environment = {"NEUROPICTOR_SHOW_CALL": "yes", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "copy.csv").read_text() == "11"
    record = json.loads((tmp_path / "logs/copy/a.run.json").read_text())
    assert (record["stage"], record["job"], record["config"]) == ("copy", "copy/a", {"times": 2})
    assert list(record["inputs"]) == ["table.csv"]
    assert list(record["outputs"]) == ["../../copy.csv"]
    assert "times=2," in (tmp_path / "logs/copy/a.log").read_text()
