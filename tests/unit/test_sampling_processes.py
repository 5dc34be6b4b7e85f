"""Sampling in two processes gives the file of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_pipeline import refined_pipeline

from neuropictor.config import RuntimeConfig, SampleConfig
from neuropictor.data.reconstructions import read_reconstructions
from neuropictor.sampling import sample_subject

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, sys
from pathlib import Path
from neuropictor.config import RuntimeConfig, SampleConfig
from neuropictor.sampling import sample_subject
from neuropictor.workflow.launch import launch

given = json.loads(sys.argv[1])
launch(
    sample_subject,
    pipeline=given["pipeline"],
    backbone=given["backbone"],
    responses=given["responses"],
    config=SampleConfig(**given["config"]),
    runtime=RuntimeConfig(device="cpu", threads=2, processes=2),
    model="refined",
    out=Path(given["out"]),
)
"""
SETTINGS = {"steps": 2, "samples": 2, "batch_size": 2}


@pytest.fixture
def given(tmp_path, tiny_backbone, tiny_prepared):
    refined_pipeline(tiny_backbone).save_trained(tmp_path / "networks", tiny_backbone)
    responses = tiny_prepared / "sub-01" / "responses.h5"
    return {"pipeline": str(tmp_path / "networks"), "backbone": str(tiny_backbone), "responses": str(responses)}


def test_two_processes_make_the_images_of_one(given, tmp_path):
    config, runtime = SampleConfig(**SETTINGS), RuntimeConfig(device="cpu", threads=1)
    sample_subject(**given, config=config, runtime=runtime, model="refined", out=tmp_path / "one.h5")
    (tmp_path / "sample.py").write_text(PROGRAM)
    arguments = json.dumps({**given, "config": SETTINGS, "out": str(tmp_path / "two.h5")})
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, tmp_path / "sample.py", arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = read_reconstructions(tmp_path / "one.h5"), read_reconstructions(tmp_path / "two.h5")
    assert one.images.shape == (3, 2, 8, 8, 3)  # six images: three batches, of which each process made some
    assert (one.images == two.images).all()
    assert (one.nsd_id == two.nsd_id).all()
    assert json.loads((tmp_path / "two.run.json").read_text())["results"]["images"] == 3
    assert not list(tmp_path.glob("*.chunks"))
