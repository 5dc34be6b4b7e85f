"""Let the disk be full, or read-only, under each stage of the tiny chain; mend it, and continue. Needs to be root.

PYTHONPATH=tests python benchmarks/full_disk.py --work /tmp/full-disk
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from full_disk_stages import SAID, one_stage
from killed_chain import STAGES
from machine import machine
from rich.progress import track
from tiny_chain import snakemake

RESULT = Path(__file__).parent / "results" / "full_disk.json"


def main(
    work: Annotated[Path, typer.Option(help="Folder for the runs; takes about 0.3 GB.")],
    out: Annotated[Path, typer.Option()] = RESULT,
):
    finished = work / "finished"
    finished.mkdir(parents=True, exist_ok=True)
    snakemake(finished)
    cases = [(stage, fault) for stage in STAGES for fault in SAID]
    each = [one_stage(stage, fault, finished, work / "case") for stage, fault in track(cases, "Filling disks")]
    result = {
        "cases": len(each),
        "said which file, why and what to do": sum(bool(seen["said"]) for seen in each),
        "files lost": sum(len(seen["lost"]) for seen in each),
        "continued to the same results": sum(seen["continued"] and not seen["differing"] for seen in each),
        "left lying about": sum(len(seen["left"]) for seen in each),
        "machine": machine(),
        "each": each,
    }
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "each"}, indent=1))


if __name__ == "__main__":
    typer.run(main)
