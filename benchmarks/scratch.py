"""Scratch that fetching and preprocessing need: raw betas on disk at any moment, through Snakemake.

    PYTHONPATH=tests python benchmarks/scratch.py

A simulated NSD of many small sessions lies behind a local server; `snakemake preprocess` (nsd.source: fetch) runs for
two subjects while the folder is watched: bytes of raw betas (whole files, and parts that are coming, counted as whole),
in sessions. The line is so fast that preprocessing takes longer than fetching, which piles up most; with few and with
many cores. What the plan reserves room for is `SESSIONS_AT_ONCE` of rules/common.smk, which the resource `sessions` of
the profiles keeps to.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import yaml
from machine import machine
from stand_in_bucket import Stored, packed, serving

from neuropictor.config import NsdConfig, SimulateConfig
from neuropictor.fetching import nsd as fetch
from neuropictor.nsd import keys
from neuropictor.simulation.writer.nsd import write_images, write_subject

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "scratch.json"
SUBJECTS = [1, 2]


class Watch(threading.Thread):
    """Looks every few milliseconds at what lies in a folder."""

    def __init__(self, folder: Path):
        super().__init__(daemon=True)
        self.folder, self.stopped = folder, threading.Event()
        self.most_bytes, self.most_sessions, self.seen = 0, 0, set()

    def run(self) -> None:
        while not self.stopped.wait(0.01):
            sizes = {}
            for folder, _, names in os.walk(self.folder):
                for name in names:
                    if "betas_session" in name and name.endswith((".mgh", ".part")):
                        session = (Path(folder).parts[-3], re.search(r"session(\d+)", name)[1])
                        try:
                            sizes[session] = sizes.get(session, 0) + os.stat(Path(folder) / name).st_size
                        except FileNotFoundError:
                            continue
            self.most_bytes = max(self.most_bytes, sum(sizes.values()))
            self.most_sessions = max(self.most_sessions, len(sizes))
            self.seen |= set(sizes)


def measure(objects: dict[str, Stored], sessions: int, cores: int) -> dict:
    """Run the workflow to the prepared stores."""
    one = sum(len(objects[keys.betas(1, 1, side, NsdConfig().beta_version)].content) for side in ("lh", "rh"))
    with tempfile.TemporaryDirectory() as folder, serving(objects) as server:
        endpoints = {"endpoint": server.address, "coco_endpoint": server.address}
        settings = {
            "subjects": {"pretrain": SUBJECTS, "refine": SUBJECTS},
            "nsd": {"source": "fetch", "terms_accepted": True, "sessions": sessions, **endpoints},
            "preprocess": {"validation_images": 6},
        }
        (Path(folder) / "settings.yaml").write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder]
        command += ["--workflow-profile", ROOT / "profiles/default", "--cores", cores, "preprocess"]
        command += ["--configfile", ROOT / "config.yaml", Path(folder) / "settings.yaml"]
        watch = Watch(Path(folder) / "data/nsd")
        watch.start()
        began = time.monotonic()
        environment = os.environ | {"NO_PROXY": "127.0.0.1"}
        command = [str(part) for part in command]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        seconds = time.monotonic() - began
        watch.stopped.set()
        watch.join()
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        left = list((Path(folder) / "data/nsd").rglob("*betas_session*"))
    return {
        "cores": cores,
        "sessions_fetched": len(watch.seen),
        "most_sessions_at_once": watch.most_sessions,
        "most_bytes_in_sessions": round(watch.most_bytes / one, 2),
        "left_in_the_end": len(left),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=6, help="of each of two subjects")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    described = machine()
    reserved = int(re.search(r"^SESSIONS_AT_ONCE = (\d+)", (ROOT / "rules/common.smk").read_text(), re.MULTILINE)[1])
    simulated = SimulateConfig(sessions=given.sessions, trials_per_session=30, shared_images=8, image_size=64)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root, simulated)
        for subject in SUBJECTS:
            write_subject(root, subject, simulated)
        objects = packed(root, fetch.ARCHIVES)
    runs = [measure(objects, given.sessions, cores) for cores in (2, 8)]
    result = {
        "what": f"raw betas while {len(SUBJECTS)} subjects of {given.sessions} sessions are fetched and prepared",
        "sessions_that_the_plan_reserves_room_for": reserved,
        "most_sessions_at_once": max(run["most_sessions_at_once"] for run in runs),
        "gigabytes_of_a_session_of_nsd": 0.983,
        "runs": runs,
        "machine": described,
    }
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
