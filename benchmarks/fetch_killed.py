"""Kill fetches at random moments (SIGKILL) and count what is left and lost; wrong bytes end this with an error.

    PYTHONPATH=tests python benchmarks/fetch_killed.py --kills 50

Two files, 4 MB together, from a local server that takes 1.5 s for them; a kill falls at a random moment after the first
request of a fetch. Whenever both files have arrived, the next fetch starts anew, until all kills are spent. What was
sent beyond ("fetches that ended" x "bytes of the files") was lost by kills.
"""

import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from killed_fetch import campaign

RESULT = Path(__file__).parent / "results" / "fetch_killed.json"


def main(kills: int = 50, seed: int = 1, out: Annotated[Path, typer.Option()] = RESULT):
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        seen = campaign(Path(folder), kills, seed)
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    found = {**seen, "seconds": round(time.monotonic() - began, 1), "machine": machine}
    out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    typer.run(main)
