"""How long Snakemake takes to find out that nothing is to be done, and to plan everything, for NSD as a whole.

Eight subjects with all 284 sessions, fetched, on the settings of presets/nsd.yaml; no data: empty files are enough.

    python benchmarks/startup.py
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "startup.json"
EVERYONE = {
    "subjects": {"pretrain": list(range(1, 9)), "refine": list(range(1, 9))},
    "nsd": {"terms_accepted": True, "release": 40, "endpoint": "http://127.0.0.1:9"},
    "backbone": {"source": "miniature"},
    "evaluate": {"networks": "miniature", "protocols": ["ours"]},
}
ROUNDS = 3


def snakemake(folder: Path, *arguments: str) -> tuple[str, dict[str, float]]:
    """Run it in a folder; return what it said, and wall and CPU seconds."""
    start = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder, "--cores", 2]
    start += ["--workflow-profile", ROOT / "profiles/default", *arguments, "--configfile", ROOT / "config.yaml"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [str(part) for part in [*start, ROOT / "presets/nsd.yaml", folder / "everyone.yaml"]],
        capture_output=True,
        text=True,
        check=False,
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout + done.stderr, {"wall_seconds": round(wall, 2), "cpu_seconds": round(cpu, 2)}


def pretend(folder: Path) -> None:
    """Make all files of the plan, as far as Snakemake can tell; betas were removed after use."""
    for line in snakemake(folder, "-n", "--summary")[0].splitlines()[1:]:
        name = line.split("\t")[0]
        if "/" in name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    snakemake(folder, "--touch", "--forceall", "--quiet", "all")
    for path in folder.rglob("*.betas_session*.mgh"):
        path.unlink()


def main() -> None:
    version = [sys.executable, "-m", "snakemake", "--version"]
    found: dict[str, list] = {"snakemake --version": [], "dry run of everything": [], "nothing to be done": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "everyone.yaml").write_text(json.dumps(EVERYONE))
        for _ in range(ROUNDS):
            began = time.perf_counter()
            subprocess.run(version, check=True, capture_output=True)
            found["snakemake --version"].append({"wall_seconds": round(time.perf_counter() - began, 2)})
            said, seconds = snakemake(folder, "-n", "--quiet", "rules")
            found["dry run of everything"].append(seconds)
        planned = said.partition("total")[2].split()[0]
        pretend(folder)
        for _ in range(ROUNDS):
            said, seconds = snakemake(folder)
            if "Nothing to be done" not in said:
                raise SystemExit(said)
            found["nothing to be done"].append(seconds)
    machine = {"machine": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    RESULT.write_text(json.dumps({"jobs": int(planned), **machine, **found}, indent=1) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
