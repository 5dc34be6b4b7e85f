"""Kill the tiny chain at random moments in every stage, and continue (SIGKILL, SIGTERM, SIGINT; one job or all).

    PYTHONPATH=tests python benchmarks/kill_campaign.py --runs 126

Each run takes a finished tiny run, removes the results of one or two stages, starts them, sends a signal at a moment
drawn from the time that the stage takes, and continues as README says. Runs are seeded and written one by one: what is
stopped goes on. Counted are files that are there under their final names and are not the undisturbed run's, runs that
could not be continued, results that differ in the end, what was left lying about, and locks that had to be removed.
"""

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from killed_chain import counted, lasting, one_run
from machine import machine
from rich.progress import track
from tiny_chain import snakemake

RESULT = Path(__file__).parent / "results" / "kill_campaign.json"


def main(
    work: Annotated[Path, typer.Option(help="Folder for the runs; takes about 1 GB.")],
    runs: int = 126,
    minutes: Annotated[float, typer.Option(help="Start no run after so many minutes.")] = 1e9,
    out: Annotated[Path, typer.Option()] = RESULT,
):
    began, finished = time.monotonic(), work / "finished"
    finished.mkdir(parents=True, exist_ok=True)
    snakemake(finished)
    found = json.loads(out.read_text())["each"] if out.is_file() else []
    known = {run["seed"] for run in found}
    for seed in track([seed for seed in range(runs) if seed not in known], "Killing and continuing"):
        if time.monotonic() - began > minutes * 60:
            break
        seen = one_run(seed, finished, work)
        found.append(seen)
        print(json.dumps(seen))
        result = counted(found) | {"files compared": len(lasting(finished)), "machine": machine(), "each": found}
        out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(counted(found), indent=1))


if __name__ == "__main__":
    typer.run(main)
