"""Fetches that are killed at random moments."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from stand_in_bucket import Mischief, Stored, serving

from neuropictor.fetching import manifest
from neuropictor.nsd import keys

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import sys
from pathlib import Path
from neuropictor.config import NsdConfig
from neuropictor.fetching import download
from neuropictor.fetching.nsd import fetch
download.BLOCK_BYTES, download.CHUNK_BYTES = 65536, 16384
config = NsdConfig(terms_accepted=True, endpoint=sys.argv[1], connections=4)
fetch(sys.argv[3:], Path(sys.argv[2]), config)
"""


def campaign(folder: Path, kills: int, seed: int, megabytes: float = 4.0, seconds: float = 1.5) -> dict:
    """Kill fetches of two files at random moments after their first request, and let the last one end.

    Each time all is fetched, the next one starts in a new folder. Returns counts of what was seen at the kills.
    """
    draw = random.Random(seed)
    wanted = [keys.betas(1, 1, side, "betas_fithrf_GLMdenoise_RR") for side in ("lh", "rh")]
    half = int(megabytes * 2**19)
    objects = {
        key: Stored(draw.randbytes(half + draw.randrange(9999)), size)
        for key, size in zip(wanted, (None, 300_001), strict=True)
    }
    seen = {"kills": 0, "fetches that ended": 0, "kills with a part": 0, "kills between files": 0, "bytes sent": 0}
    # The server sends both files at a time, so that everything takes about so many seconds.
    mischief = Mischief(bytes_per_second=half / seconds)
    with serving(objects, mischief) as server:
        rounds = 0
        root = folder / "0"
        while seen["kills"] < kills or root.exists():
            asked = len(server.requests)
            command = [sys.executable, "-c", PROGRAM, server.address, str(root), *wanted]
            child = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "NO_PROXY": "127.0.0.1"})
            if seen["kills"] < kills:
                while len(server.requests) == asked and child.poll() is None:
                    time.sleep(0.005)
                try:
                    child.wait(timeout=draw.uniform(0, seconds))
                except subprocess.TimeoutExpired:
                    child.send_signal(signal.SIGKILL)
                    child.wait()
                    seen["kills"] += 1
                    seen["kills with a part"] += any(root.rglob("*.part"))
                    seen["kills between files"] += (root / wanted[0]).exists()
                    assert_never_wrong(root, objects)
                    continue
            assert child.wait(timeout=300) == 0
            assert_never_wrong(root, objects)
            assert sorted(manifest.read(root)) == sorted(wanted)
            assert sorted(path.name for path in root.rglob("*") if path.is_file()) == sorted(
                [manifest.NAME, *(Path(key).name for key in wanted)]
            )
            seen["fetches that ended"] += 1
            rounds += 1
            root = folder / str(rounds)
        seen["bytes sent"] = server.sent
    seen["bytes of the files"] = sum(len(stored.content) for stored in objects.values())
    return seen


def assert_never_wrong(root: Path, objects: dict[str, Stored]) -> None:
    for key, stored in objects.items():
        if (root / key).exists():
            assert (root / key).read_bytes() == stored.content, f"wrong bytes under {key}"
