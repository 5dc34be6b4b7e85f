"""A short sample of `benchmarks/kill_campaign.py`: what is killed at a random moment ends in the same bytes.

And two workflows that would write the same results: one refuses.
"""

import socket
import subprocess
import time

import pytest
from killed_chain import one_run
from tiny_chain import command

pytestmark = pytest.mark.workflow
SEED = 1377  # of the campaign: refine, killed after half its time


def test_what_is_killed_and_continued_is_the_same(chain, tmp_path):
    seen = one_run(SEED, chain, tmp_path)
    assert (seen["stages"], seen["signal"], seen["to"]) == (["refine"], "SIGKILL", "all processes")
    assert seen["continued"], seen["output"]
    assert not seen["half-written"]
    assert not seen["differing"]
    assert not seen["left"]


def test_of_two_workflows_on_one_results_folder_one_refuses(tmp_path):
    def started(folder):
        (tmp_path / folder).mkdir()
        picked = ["data/nsd/nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5", "--config", f"paths={{results: {results}}}"]
        return subprocess.Popen(
            command(tmp_path / folder, *picked), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    results = tmp_path / "results"
    one = started("one")
    while not (results / ".lock").exists():
        assert one.poll() is None, one.stdout.read()
        time.sleep(0.05)
    other, _ = started("other").communicate(timeout=300)
    assert f"Another workflow is writing to {results}; wait until it has ended" in other
    assert f"on {socket.gethostname()}" in other
    assert "Traceback" not in other
    assert not list((tmp_path / "other").rglob("*.hdf5"))
    output, _ = one.communicate(timeout=300)
    assert one.returncode == 0, output
    assert list((tmp_path / "one").rglob("*.hdf5"))
