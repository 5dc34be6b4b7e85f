"""benchmarks/gpu.py: every path of it that needs no GPU, and, where there is one, that networks are right on it."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def run(out: Path, device: str) -> tuple[int, dict[str, dict]]:
    command = [
        sys.executable,
        ROOT / "benchmarks" / "gpu.py",
        "--device",
        device,
        "--size",
        "tiny",
        "--out",
        out,
        "--minutes",
        "60",
    ]
    ended = subprocess.run(command, cwd=ROOT, check=False)
    return ended.returncode, {part["name"]: part for part in json.loads(out.read_text())["parts"]}


def test_all_parts_run_without_a_gpu(tmp_path):
    status, parts = run(tmp_path / "gpu.json", "cpu")
    assert {name: part.get("error") for name, part in parts.items() if part["status"] != "done"} == {}
    assert all(bar["holds"] for part in parts.values() for bar in part["bars"].values())
    assert parts["resume after SIGTERM"]["bars"]["weights"]["value"] == 0.0
    assert status == 0


def test_parts_for_which_there_is_no_time_are_left_out_and_named(tmp_path, monkeypatch):
    out, program = tmp_path / "gpu.json", ROOT / "benchmarks/gpu.py"
    monkeypatch.syspath_prepend(program.parent)
    given = ["--device", "cpu", "--size", "tiny", "--out", str(out), "--minutes", "0"]
    monkeypatch.setattr(sys, "argv", [str(program), *given])
    runpy.run_path(str(program), run_name="__main__")
    parts = {part["name"]: part for part in json.loads(out.read_text())["parts"]}
    assert {part["status"] for part in parts.values()} == {"left out"}
    assert "it usually takes" in parts["machine"]["why"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_networks_are_right_on_the_gpu(tmp_path):
    status, parts = run(tmp_path / "gpu.json", "cuda")
    assert {name: part.get("error") for name, part in parts.items() if part["status"] == "failed"} == {}
    assert status == 0
