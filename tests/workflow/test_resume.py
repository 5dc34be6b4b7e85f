"""A training that is killed and started again ends in the same weights, bit for bit, as one left alone."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from small_training import inputs
from tiny_chain import ROOT

STEPS = 24
ADAPTED = 12
PROGRAM = """
import json, logging, sys
from neuropictor.training import loop
from neuropictor.training.reconstruct import pretrain
from small_training import arguments

logging.basicConfig(level=logging.INFO, format="%(message)s")
given = json.loads(sys.argv[1])
step = loop.Trainer._step

def announced(self, number, batch):
    losses = step(self, number, batch)
    print("step", number + 1, flush=True)
    if number + 1 == given["wait_at"]:
        sys.stdin.readline()
    return losses

loop.Trainer._step = announced
pretrain(**arguments(given))
"""
CONFIG = {
    "steps": STEPS - ADAPTED,
    "batch_size": 4,
    "validation_interval": 7,
    "captions": "random",
    "guidance_adaptation": {"steps": ADAPTED, "dropout": 0.3},
}


@pytest.fixture(scope="module")
def start(tiny_prepared, tiny_latents, tiny_backbone, tmp_path_factory):
    """Inputs of a pretraining; the encoder has dropout, so that the state of torch's generator matters."""
    return inputs(tiny_prepared, tiny_backbone, tmp_path_factory.mktemp("start"), dropout=0.2)


def launch(start, out, wait_at=0, workers=0, **changes):
    runtime = {"threads": 1, "checkpoint_interval": 5, "log_interval": 2, "workers": workers}
    given = {**start, "out": str(out), "config": CONFIG | changes, "runtime": runtime, "wait_at": wait_at}
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(given)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        start_new_session=True,
    )


def finish(process):
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return [int(line.split()[1]) for line in out.splitlines() if line.startswith("step ")], err


def stop(process, at, number):
    """Send a signal to all processes, as Slurm does, while step `at` is done and the next has not begun.

    Returns the exit status.
    """
    for line in process.stdout:
        if line == f"step {at}\n":
            break
    os.killpg(process.pid, number)
    time.sleep(0.1)
    if process.poll() is None:
        with contextlib.suppress(BrokenPipeError):  # it ended in the meantime
            process.stdin.write("\n")
            process.stdin.flush()
    process.communicate(timeout=600)
    return process.returncode


def weights(folder):
    found = {path.relative_to(folder): path.read_bytes() for path in folder.glob("*/*.safetensors")}
    assert len(found) == 4  # encoder, guiding, manipulation, null context
    return found, (folder / "model_index.json").read_bytes()


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """Uninterrupted training."""
    out = tmp_path_factory.mktemp("whole")
    steps, _ = finish(launch(start, out))
    assert steps == list(range(1, STEPS + 1))
    return out


@pytest.mark.parametrize(
    ("number", "status", "continued_after", "workers"),
    [(signal.SIGTERM, 143, 13, 2), (signal.SIGKILL, -signal.SIGKILL, 10, 0)],
    ids=["SIGTERM", "SIGKILL"],
)
def test_killed_and_continued_equals_uninterrupted(start, whole, tmp_path, number, status, continued_after, workers):
    out, other = tmp_path / "out", tmp_path / "other"
    assert stop(launch(start, out, wait_at=13, workers=workers), 13, number) == status
    assert not (out / "model_index.json").exists()
    checkpoints = sorted(path.name for path in (out / "checkpoints").glob("step-*"))
    assert checkpoints[-1] == f"step-{continued_after:08d}.pt"
    assert len(checkpoints) == 2
    shutil.copytree(out, other)
    steps, log = finish(launch(start, out))
    assert f"Continuing after step {continued_after}" in log
    assert steps == list(range(continued_after + 1, STEPS + 1))
    assert weights(out) == weights(whole)
    assert not (out / "checkpoints").exists()
    if number == signal.SIGKILL:
        assert (out / "history.csv").read_text() == (whole / "history.csv").read_text()
    else:
        steps, log = finish(launch(start, other, learning_rate=2e-3))
        assert "config.pretrain.learning_rate was 0.001, is now 0.002" in log
        assert steps[0] == 1  # a changed configuration starts afresh
