"""The whole chain at its smallest: how it is run, in any folder."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = [ROOT / "config.yaml", ROOT / "presets/tiny.yaml"]
#: Programs: the real one, and one that spares many jobs the loading of large packages.
COLD, WARM = ("-m", "snakemake"), (ROOT / "tests/warm_workflow.py",)


def command(folder: Path, *arguments: str, further: Iterable[Path] = (), program: tuple = COLD) -> list[str]:
    """Give the command that runs the workflow of this checkout in another folder, with further settings."""
    start = [sys.executable, *program, "--snakefile", ROOT / "Snakefile", "--directory", folder, "--cores", 2]
    profile = ["--workflow-profile", ROOT / "profiles/default"]
    return [str(part) for part in [*start, *profile, *arguments, "--configfile", *SETTINGS, *further]]


def snakemake(folder: Path, *arguments: str, further: Iterable[Path] = (), program: tuple = COLD) -> str:
    """Run the workflow of this checkout in another folder."""
    asked = command(folder, *arguments, further=further, program=program)
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output
