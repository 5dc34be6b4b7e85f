"""How soon a new person's first image is there: 200 image-response pairs to a fitted map and one drawn image.

    python benchmarks/new_person.py --results results --prepared data/prepared --subject 01 --others 02 --others 05

On a finished run of the workflow. One process, started afresh: imports, `adapt` and the first test image, drawn by the
start weights or by `--pipeline`. The baseline is stage align on all of the person's pairs, and its first image.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine

RESULT = Path(__file__).parent / "results" / "new_person.json"
PAIRS, SEED = 200, 18


def first_image(given: argparse.Namespace, how: str) -> None:
    """Fit and draw, and print the seconds of the fit."""
    from neuropictor.config import AlignConfig, RuntimeConfig, SampleConfig
    from neuropictor.data.adapt import adapt_subject
    from neuropictor.data.alignment import ComponentStore, align_subject
    from neuropictor.data.responses import ResponseStore
    from neuropictor.data.subsets import choose_pairs
    from neuropictor.sampling import inputs, network_sampler

    responses = given.prepared / f"sub-{given.subject}" / "responses.h5"
    space, latents = given.results / "align/space.safetensors", given.results / "latents" / f"sub-{given.subject}.h5"
    others = [given.results / "align" / f"sub-{other}" / "components.h5" for other in given.others]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "components.h5"
        if how == "adapt":
            chosen = Path(folder) / "responses.h5"
            choose_pairs(responses, PAIRS, SEED, chosen)
            responses = chosen
        started = time.monotonic()
        if how == "adapt":
            adapt_subject(responses, space, others, None, AlignConfig(), out, latents)
        else:
            align_subject(responses, latents, space, AlignConfig(), out)
        fitted = time.monotonic() - started
        store = ResponseStore(responses)
        components, runtime = ComponentStore(out, store), RuntimeConfig(device="cpu", threads=2)
        sampler = network_sampler(given.pipeline, None, store, components, SampleConfig(), runtime)
        nsd_id = int(store.images("test")[0])
        sampler.draw([(nsd_id, 0)], inputs(store, components, [nsd_id], None))
    print(json.dumps(fitted))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--prepared", type=Path, default=Path("data/prepared"))
    parser.add_argument("--pipeline", type=Path, default=Path("neuropictor/assets/miniature/population"))
    parser.add_argument("--subject", default="01")
    parser.add_argument("--others", action="append", required=True)
    parser.add_argument("--how", choices=["adapt", "align"], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    if given.how:
        return first_image(given, given.how)
    measured = {}
    for how in ("adapt", "align"):
        started = time.monotonic()
        done = subprocess.run([sys.executable, *sys.argv, "--how", how], check=True, capture_output=True, text=True)
        measured[how] = {"fit_seconds": json.loads(done.stdout.splitlines()[-1]), "seconds": time.monotonic() - started}
        print(how, measured[how])
    ratio = measured["align"]["fit_seconds"] / measured["adapt"]["fit_seconds"]
    record = {"machine": machine(), "pairs": PAIRS, "measured": measured, "fit_faster_than_align": ratio}
    given.out.write_text(json.dumps(record, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
