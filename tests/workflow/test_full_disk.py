"""A short sample of `benchmarks/full_disk.py`: a full or read-only disk is told, and mended nothing is lost."""

import subprocess

import pytest
from full_disk_stages import SAID, one_stage

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module", autouse=True)
def small_disks(tmp_path_factory):
    """Skip where this user may not mount (a tmpfs serves as a disk)."""
    disk = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"only root may mount: {done.stderr.strip()}")
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("fault", SAID)
def test_a_stage_tells_and_goes_on_when_mended(chain, tmp_path, fault):
    seen = one_stage("report_scores", fault, chain, tmp_path / "folder")
    assert seen["failed"]
    assert seen["said"], seen["output"]
    assert seen["continued"], seen["output"]
    assert not seen["lost"]
    assert not seen["differing"]
    assert not seen["left"]
