"""A fetch that is killed (SIGKILL) at random moments goes on and ends in the same bytes."""

import os
import subprocess
import sys
from pathlib import Path

from killed_fetch import PROGRAM, ROOT, campaign
from stand_in_bucket import Stored, serving

from neuropictor.nsd import keys


def test_killed_fetches_go_on_and_end_in_the_same_bytes(tmp_path):
    seen = campaign(tmp_path, kills=4, seed=0, megabytes=1, seconds=0.8)
    assert seen["kills"] == 4
    assert seen["fetches that ended"] >= 1
    # A kill loses at most the ranges under way.
    assert seen["bytes sent"] <= seen["fetches that ended"] * seen["bytes of the files"] + 4 * 4 * 2 * 65536


def test_what_a_kill_before_cleaning_up_has_left_is_removed(tmp_path):
    key = keys.betas(1, 1, "lh", "betas_fithrf_GLMdenoise_RR")
    objects = {key: Stored(b"beta" * 999, None)}
    with serving(objects) as server:
        command = [sys.executable, "-c", PROGRAM, server.address, str(tmp_path), key]
        for _ in range(2):
            subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_PROXY": "127.0.0.1"}, check=True)
            left = (tmp_path / key).with_name(f"{Path(key).name}.part.json")
            assert not left.exists()
            left.write_text("{}")
        subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_PROXY": "127.0.0.1"}, check=True)
        assert not left.exists()
