"""Kill stages of the tiny chain at random moments and continue: are the results those of the undisturbed run?"""

import csv
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tiny_chain import command

#: Rules in order, with the results that are removed so that their jobs run again.
STAGES = {
    "simulate_images": "data/nsd/nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5",
    "simulate_subject": "data/nsd/nsddata_betas/ppdata/subj*/fsaverage/betas_*",
    "preprocess_subject": "data/prepared/sub-*/responses.h5",
    "preprocess_stimuli": "data/prepared/sub-*/stimuli.h5",
    "cache_latents": "results/latents/sub-*.h5",
    "calibrate": "results/calibrate/autoencoder.safetensors",
    "align_space": "results/align/space.safetensors",
    "align": "results/align/sub-*/components.h5",
    "pretrain": "results/pretrain/model_index.json",
    "refine": "results/refine/sub-*/model_index.json",
    "sample": "results/sample/sub-*/[rp]e*ed.h5",
    "baselines": "results/sample/sub-*/ridge.h5",
    "evaluate": "results/metrics.csv",
    "control": "results/controls/sub-*/*.h5",
    "score_controls": "results/controls/controls.csv",
    "report_scores": "results/report/metrics.html",
    "gallery": "results/gallery.html",
    "contact_sheet": "results/report/contact_sheet_sub-*.png",
}
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
RECEIVERS = ("one job", "the workflow", "all processes")
#: What differs from run to run by its nature: times, and what Snakemake and TensorBoard keep for themselves.
VARYING = {".snakemake", "logs", "benchmarks", "tensorboard", "runs.csv", "manifest.jsonl", ".lock"}

#: Seconds in which a job loads what it needs, where only the stage itself was timed.
STARTING = 2.0


def lasting(folder: Path) -> list[Path]:
    """Give all files of a finished run whose content must not depend on what happened."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [path for path in files if not set(path.parts) & VARYING and not path.name.endswith("run.json")]


def one_run(seed: int, finished: Path, work: Path) -> dict:
    """Remove the results of one or two stages of a finished run, start them, disturb the first, and continue.

    Stages take turns by the seed; the signal, who receives it and when are drawn with it. Returns what was seen.
    """
    draw = random.Random(seed)
    first = seed % len(STAGES)
    stages = list(STAGES)[first : first + draw.randint(1, 2)]
    receiver, name = draw.choice(RECEIVERS), draw.choice(list(SIGNALS))
    folder, names = work / f"run-{seed}", lasting(finished)
    # Linked, not copied: the workflow replaces files and never writes into them, which the comparison would show.
    shutil.copytree(finished, folder, copy_function=_link, symlinks=True)
    targets = [path for stage in stages for path in sorted(folder.glob(STAGES[stage]))]
    assert targets, stages
    for path in targets:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    wanted = [path.relative_to(folder).as_posix() for path in targets]
    moment = draw.uniform(0, _longest(finished, stages[0]))
    outcome = _disturb(folder, stages[0], wanted, SIGNALS[name], receiver, moment)
    seen = {"seed": seed, "stages": stages, "signal": name, "to": receiver, "after": round(moment, 2)}
    seen |= {"outcome": outcome, "half-written": differing(finished, folder, names, missing=False)}
    seen["locked"] = any((folder / ".snakemake/locks").glob("*"))
    if seen["locked"]:
        subprocess.run(command(folder, "--unlock"), capture_output=True, check=True)
    done = subprocess.run(command(folder, *wanted), capture_output=True, text=True, check=False)
    seen |= {"continued": done.returncode == 0, "differing": differing(finished, folder, names, missing=True)}
    left = [path for path in folder.rglob("*") if ".partial" in path.name or path.name == "checkpoints"]
    seen["left"] = [path.relative_to(folder).as_posix() for path in left]
    if done.returncode:
        seen["output"] = (done.stdout + done.stderr)[-3000:]
    shutil.rmtree(folder)
    return seen


def counted(runs: list[dict]) -> dict:
    """Count what was seen in many runs."""
    return {
        "runs": len(runs),
        "disturbed": sum(run["outcome"] == "stopped" for run in runs),
        "by stage": dict(Counter(run["stages"][0] for run in runs if run["outcome"] == "stopped")),
        "by signal": dict(Counter(f"{run['signal']} to {run['to']}" for run in runs if run["outcome"] == "stopped")),
        "half-written files": sum(len(run["half-written"]) for run in runs),
        "runs that could not be continued": sum(not run["continued"] for run in runs),
        "results that differ": sum(len(run["differing"]) for run in runs),
        "left lying about": sum(len(run["left"]) for run in runs),
        "locks to remove": sum(run["locked"] for run in runs),
    }


def _link(old: str, new: str) -> None:
    # Snakemake's and the stages' small files of record are appended to or rewritten in place.
    (shutil.copy2 if set(Path(old).parts) & VARYING or old.endswith(".json") else os.link)(old, new)


def _longest(finished: Path, stage: str) -> float:
    with open(finished / "results/runs.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["job"].split("/")[0] == stage]
    return max(float(row["job_seconds"] or float(row["wall_seconds"]) + STARTING) for row in rows)


def _members(group: int) -> Iterator[tuple[int, str]]:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(path.name)) == group:
                yield int(path.name), (path / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue


def _disturb(folder: Path, stage: str, wanted: list[str], number: int, receiver: str, moment: float) -> str:
    """Start the workflow, and send the signal `moment` seconds after a job of the stage has started."""
    started = subprocess.Popen(
        command(folder, *wanted), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    job = None
    while job is None and started.poll() is None:
        job = next((member for member, line in _members(started.pid) if f".{stage}.py" in line), None)
        time.sleep(0.02)
    with suppress(subprocess.TimeoutExpired):
        started.wait(moment)
    try:
        if receiver == "one job" and job is not None:
            os.kill(job, number)
        elif receiver == "the workflow" and started.poll() is None:
            os.kill(started.pid, number)
        else:
            os.killpg(started.pid, number)
        outcome = "stopped"
    except ProcessLookupError:
        outcome = "ended before"
    try:
        started.wait(300)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        raise
    # Jobs that lost their workflow end by themselves; the next workflow must find them gone.
    deadline = time.monotonic() + 300
    while any(_members(started.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return outcome


def differing(finished: Path, folder: Path, names: list[Path], missing: bool) -> list[str]:
    """Name the files that are not as in the finished run; those that are not there only if asked to."""
    found = []
    for name in names:
        one, other = finished / name, folder / name
        if not other.exists():
            found += [name.as_posix()] if missing else []
        elif not other.samefile(one) and other.read_bytes() != one.read_bytes():
            found.append(name.as_posix())
    return found
