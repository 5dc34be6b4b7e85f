"""A training in two processes is the training of one: the same losses, weights to rounding; and it survives SIGTERM."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from small_training import arguments, inputs
from tiny_chain import ROOT

from neuropictor.training.reconstruct import pretrain

pytestmark = pytest.mark.workflow
PROGRAM = """
import gc, json, os, sys
import torch
from neuropictor.records.log import start_log
from neuropictor.training.reconstruct import pretrain
from neuropictor.workflow.launch import launch
from neuropictor.training.loop import Trainer
from small_training import arguments

destroy = torch.distributed.destroy_process_group

def alone(*arguments):  # a wrapper that outlives its process group may hang the process, see Trainer._release
    assert not any(isinstance(item, torch.nn.parallel.DistributedDataParallel) for item in gc.get_objects())
    destroy(*arguments)

torch.distributed.destroy_process_group = alone
train = Trainer._train

def told(self, *arguments):
    names = ("find_unused_parameters", "gradient_as_bucket_view", "broadcast_buffers")
    line = " ".join(["exchange", *(name for name in names if getattr(self.module, name))])
    os.write(1, (line + os.linesep).encode())  # in one piece: print() would let the other process's words in between
    train(self, *arguments)

Trainer._train = told
given = arguments(json.loads(sys.argv[1]))
start_log(given["out"] / "train.log")
launch(pretrain, **given)
"""
# The first steps leave some weights without a gradient.
CONFIG = {"steps": 40, "semantic_steps": 3, "batch_size": 8, "validation_interval": 10}
#: Sums over a batch are taken in another order, and all steps carry the difference on.
LOSS_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def start(tiny_prepared, tiny_latents, tiny_backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    (folder / "train.py").write_text(PROGRAM)
    return folder, inputs(tiny_prepared, tiny_backbone, folder, dropout=0.0)


def asked(start, out: Path, processes: int, runtime: dict | None = None, **changes) -> dict:
    usual = {"threads": processes, "checkpoint_interval": 10_000, "log_interval": 1, "processes": processes}
    return {**start[1], "out": str(out), "config": CONFIG | changes, "runtime": usual | (runtime or {})}


def train(start, *given, **changes) -> subprocess.Popen:
    """Start a training in two processes."""
    return subprocess.Popen(
        [sys.executable, start[0] / "train.py", json.dumps(asked(start, *given, **changes))],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
    )


def finished(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def curve(out: Path) -> dict[tuple[str, str, str], float]:
    with open(out / "history.csv", newline="") as file:
        return {(row["step"], row["split"], row["name"]): float(row["value"]) for row in csv.DictReader(file)}


def weights(out: Path) -> dict[str, np.ndarray]:
    files = [path for path in sorted(out.rglob("*.safetensors")) if "checkpoints" not in path.parts]
    return {f"{path.parent.name}.{name}": array for path in files for name, array in load_file(path).items()}


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "pretrain"
    pretrain(**arguments(asked(start, out, 1)))
    return out


@pytest.fixture(scope="module")
def together(start, tmp_path_factory):
    out = tmp_path_factory.mktemp("together") / "pretrain"
    finished(train(start, out, 2))
    return out


def test_two_processes_have_the_loss_curve_of_one(alone, together):
    one, two = curve(alone), curve(together)
    assert one.keys() == two.keys()
    assert len([key for key in one if key[1] == "train"]) > 40
    for key, value in one.items():
        assert two[key] == pytest.approx(value, rel=LOSS_TOLERANCE), key
    before, after = weights(alone), weights(together)
    assert before.keys() == after.keys()
    assert len(before) > 50
    apart = sum(np.square(before[name] - after[name]).sum(dtype=float) for name in before)
    size = sum(np.square(before[name]).sum(dtype=float) for name in before)
    assert (apart / size) ** 0.5 < LOSS_TOLERANCE


def test_a_step_that_uses_all_weights_is_the_same_in_parts(start, tmp_path):
    """Without steps on the semantic loss alone no process searches for weights without gradient."""
    runtime = {"accumulation": 2, "gradient_checkpointing": True, "tensorboard": False}
    changes = {"steps": 5, "semantic_steps": 0}
    pretrain(**arguments(asked(start, tmp_path / "1", 1, runtime, **changes)))
    said = finished(train(start, tmp_path / "2", 2, runtime, **changes)).splitlines()
    assert {line for line in said if line.startswith("exchange")} == {"exchange gradient_as_bucket_view"}
    one, two = curve(tmp_path / "1"), curve(tmp_path / "2")
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert two[key] == pytest.approx(value, rel=LOSS_TOLERANCE), key


def test_one_record_one_log_and_nothing_left(together):
    assert json.loads((together / "run.json").read_text())["stage"] == "pretrain"
    assert {path.name for path in together.iterdir()} >= {"model_index.json", "history.csv", "train.log"}
    assert not list(together.glob("*checkpoints*"))
    assert (together / "train.log").read_text().count("Pretraining: 40 of 40 steps") == 1


def test_stopped_and_continued_ends_in_the_same_weights(start, together, tmp_path):
    out = tmp_path / "pretrain"
    log = out / "train.log"
    process = train(start, out, 2)
    deadline = time.monotonic() + 120
    while not (log.is_file() and "Step 10, validation" in log.read_text()):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, log.read_text() if log.is_file() else "no log"
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode not in {0, None}
    assert "SIGTERM: saved after step" in output
    assert len(list((out / "checkpoints").glob("step-*.pt"))) == 1
    assert not (out / "model_index.json").exists()
    assert "Continuing after step" in finished(train(start, out, 2))
    before, after = weights(together), weights(out)
    assert all((before[name] == after[name]).all() for name in before)


def test_unequal_shares_are_refused():
    from neuropictor.config import ConfigError, RuntimeConfig, load
    from neuropictor.workflow.launch import launch

    with pytest.raises(ConfigError, match=r"refine.batch_size is 48, of which 5 processes .* e.g. batch_size: 50"):
        load({"calibrate": {"batch_size": 50}, "pretrain": {"batch_size": 50}, "runtime": {"processes": 5}})
    with pytest.raises(ConfigError, match=r"processes is 3, which cannot be spread evenly over 2 nodes.*processes: 2"):
        load({"runtime": {"processes": 3, "nodes": 2}})
    with pytest.raises(ConfigError, match=r"processes is 4 and gpus is 1, but each process takes one GPU.*gpus: 4"):
        load({"runtime": {"processes": 4, "gpus": 1}})
    across = RuntimeConfig(device="cpu", threads=1, processes=2, nodes=2)
    with pytest.raises(RuntimeError, match=r"runtime.nodes: 2 asked for, but this is no Slurm job; allowed: nodes: 1"):
        launch(print, across)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("missing", [{"device": "cuda"}, {"gpus": 1}])
def test_a_missing_gpu_is_told_before_the_stage_is_called(missing):
    from neuropictor.config import RuntimeConfig
    from neuropictor.workflow.launch import launch

    with pytest.raises(RuntimeError, match=r"runtime\.\w+: .* asked for, but torch .* finds no .*; allowed: "):
        launch(pytest.fail, RuntimeConfig(threads=1, **missing))
