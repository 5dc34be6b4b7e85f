"""A copy of the workflow with a library of its own, and what it would run."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "rules", "workflow_scripts", "report", "envs", "profiles", "presets", "config.yaml")
PER_SUBJECT = {
    "simulate_subject": 1,
    "preprocess_subject": 1,
    "preprocess_stimuli": 1,
    "cache_latents": 1,
    "align": 1,
    "refine": 1,
    "sample": 2,
    "baselines": 1,
    "contact_sheet": 1,
}
ONCE = ["simulate_images", "calibrate", "align_space", "pretrain"]
ONCE += ["evaluate", "data_card", "report_scores", "gallery", "training_curves"]
ONCE += ["response_map", "score_controls", "all"]
CONTROLS = 4  # that draw images, of one subject


def snakemake(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def planned(folder: Path, settings: dict, *arguments: str) -> Counter:
    """Jobs of a dry run, by rule."""
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    output = snakemake(folder, "-n", "--configfile", "settings.yaml", *arguments)
    stats = output.partition("Job stats:")[2].partition("total")[0]
    return Counter({rule: int(count) for rule, count in re.findall(r"^(\w+)\s+(\d+)\s*$", stats, re.MULTILINE)})


def refused(folder: Path, settings: dict, *files: str) -> str:
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "snakemake", "-n", "--configfile", "settings.yaml", *files]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    return done.stdout + done.stderr


def chain(subjects: int) -> Counter:
    jobs = {rule: count * subjects for rule, count in PER_SUBJECT.items()} | dict.fromkeys(ONCE, 1)
    return Counter(jobs | {"control": CONTROLS})


def copy_workflow(folder: Path) -> Path:
    """Copy the workflow, with a library of its own: fingerprints follow edits of it."""
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part)
    ignored = shutil.ignore_patterns("__pycache__", "*.npz", "*.safetensors")
    shutil.copytree(ROOT / "neuropictor", folder / "neuropictor", ignore=ignored)
    return folder


def image_files() -> list[str]:
    from neuropictor.nsd import keys

    annotations = [keys.annotations(kind, split) for kind in keys.ANNOTATION_KINDS for split in keys.COCO_SPLITS]
    return [keys.STIMULI, keys.STIMULUS_INFO, keys.EXPERIMENT_DESIGN, *annotations]
