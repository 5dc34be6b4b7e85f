"""From a bucket to prepared responses, through Snakemake: simulated NSD behind a local server, killed, continued."""

import os
import signal
import subprocess
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from stand_in_bucket import Mischief, packed, serving
from tiny_chain import command

from neuropictor.config import NsdConfig, PreprocessConfig, SimulateConfig
from neuropictor.data.preprocess import preprocess_subject
from neuropictor.data.test_sets import preprocess_test_set
from neuropictor.fetching import manifest
from neuropictor.fetching import nsd as fetch
from neuropictor.nsd import keys
from neuropictor.simulation.writer.imagery import write_imagery_images, write_imagery_subject
from neuropictor.simulation.writer.nsd import write_images, write_subject

pytestmark = pytest.mark.workflow
SUBJECTS = [1, 2]
SIMULATED = SimulateConfig(sessions=2, trials_per_session=150, shared_images=12)
PREPROCESS = PreprocessConfig(validation_images=6)
ARCHIVES = dict(zip(fetch.ARCHIVES, (("captions", "instances"), ("stuff",)), strict=True))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A simulated NSD, as it lies behind the server."""
    root = tmp_path_factory.mktemp("original")
    write_images(root, SIMULATED)
    for subject in SUBJECTS:
        write_subject(root, subject, SIMULATED)
        write_imagery_subject(root, subject, SIMULATED)
    write_imagery_images(root, SIMULATED)
    return root


def workflow(folder: Path, *arguments: str) -> subprocess.Popen:
    asked = command(folder, *arguments, further=[folder / "settings.yaml"])
    return subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def finished(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def write_settings(folder: Path, address: str) -> None:
    """Write settings that fetch from the local server."""
    nsd = {"source": "fetch", "terms_accepted": True, "sessions": 1, "endpoint": address, "coco_endpoint": address}
    nsd["test_sets"] = ["imagery"]
    (folder / "settings.yaml").write_text(yaml.safe_dump({"nsd": nsd}))


def test_fetched_killed_and_continued_responses_are_those_of_the_original(original, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    objects = packed(original, ARCHIVES)
    slow = Mischief(bytes_per_second=3e6)
    with serving(objects, slow) as server:
        write_settings(tmp_path, server.address)
        running = workflow(tmp_path, "preprocess")
        beta = tmp_path / "data/nsd" / keys.betas(1, 1, "lh", NsdConfig().beta_version)
        stimuli = tmp_path / "data/nsd" / keys.STIMULI
        folders = {path.parent for path in (beta, stimuli)}
        while running.poll() is None and not any(list(folder.glob("*.part")) for folder in folders):
            time.sleep(0.05)
        time.sleep(0.5)
        assert running.poll() is None
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        assert not beta.is_file() or not stimuli.is_file()
        slow.bytes_per_second = 0
        finished(workflow(tmp_path, "--unlock"))
        finished(workflow(tmp_path, "preprocess"))
    kept = set(manifest.read(tmp_path / "data/nsd"))
    assert keys.STIMULI in kept
    assert not list((tmp_path / "data/nsd").rglob("*.part*"))
    assert not list((tmp_path / "data/nsd").rglob("*betas_session*"))  # removed once preprocessed
    for test_set in ("vision", "imagery"):
        direct = [tmp_path / "direct" / test_set / f"{store}.h5" for store in ("responses", "stimuli")]
        preprocess_test_set(original, 1, test_set, PREPROCESS, NsdConfig(), *direct)
        for path in direct:
            fetched = tmp_path / "data/prepared/sub-01" / test_set / path.name
            with h5py.File(fetched) as one, h5py.File(path) as other:
                assert set(one) == set(other)
                for field in other:
                    np.testing.assert_array_equal(one[field][()], other[field][()])
    for subject in SUBJECTS:
        preprocess_subject(original, subject, PREPROCESS, NsdConfig(sessions=1), tmp_path / "direct.h5")
        name = f"data/prepared/sub-{subject:02d}/responses.h5"
        with h5py.File(tmp_path / name) as fetched, h5py.File(tmp_path / "direct.h5") as direct:
            assert set(fetched) == set(direct)
            for field in direct:
                np.testing.assert_array_equal(fetched[field][()], direct[field][()])
            assert fetched.attrs["data"] == "simulated"
        assert (tmp_path / "data/prepared" / f"sub-{subject:02d}" / "stimuli.h5").is_file()
