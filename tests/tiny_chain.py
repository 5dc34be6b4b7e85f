"""The whole chain at its smallest: how it is run, in any folder."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = [ROOT / "config.yaml", ROOT / "presets/tiny.yaml"]


def command(folder: Path, *arguments: str, further: Iterable[Path] = ()) -> list[str]:
    """Give the command that runs the workflow of this checkout in another folder, with further settings."""
    start = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder, "--cores", 2]
    profile = ["--workflow-profile", ROOT / "profiles/default"]
    return [str(part) for part in [*start, *profile, *arguments, "--configfile", *SETTINGS, *further]]


def snakemake(folder: Path, *arguments: str, further: Iterable[Path] = ()) -> str:
    """Run the workflow of this checkout in another folder."""
    done = subprocess.run(command(folder, *arguments, further=further), capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def variant(chain: Path, folder: Path) -> Path:
    """Make a folder that shares the results of a finished chain, with a workflow and a library of its own to edit."""
    folder.mkdir(parents=True)
    for part in ("data", "results", "logs", ".snakemake"):
        (folder / part).symlink_to(chain / part)
    for part in ("rules", "workflow_scripts", "report", "envs", "profiles", "presets"):
        shutil.copytree(ROOT / part, folder / part)
    for part in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / part, folder / part)
    weights = shutil.ignore_patterns("__pycache__", "assets", "*.npz")
    shutil.copytree(ROOT / "neuropictor", folder / "neuropictor", ignore=weights)
    (folder / "neuropictor/assets").symlink_to(ROOT / "neuropictor/assets")
    return folder


def own_copy(folder: Path, *parts: str) -> None:
    """Replace shared parts of a variant by copies; files in them are linked, so replace them, never write into them."""
    for part in parts:
        shared = (folder / part).resolve()
        (folder / part).unlink()
        shutil.copytree(shared, folder / part, copy_function=os.link)
