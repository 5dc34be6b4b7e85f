"""Which solver with how many steps: scores of the demo's images by each, and paired tests against the reference.

    python benchmarks/solvers.py --results results --prepared data/prepared

Draws every validation image (what the demo's setting is chosen by) or test image of every subject with the refined
networks of a finished run, from the same starting noise, by each setting in turn, and scores them as stage evaluate
does. For each setting: means over subjects with 95 % intervals (bootstrap over images), and the difference from the
reference by image with the p value of a sign-flip test, corrected by Holm's method over all settings and scores. A
setting is usable where no score is significantly worse. Seconds are those of the loop of drawing, decoding included,
one setting after the other in one process.
"""

import argparse
import json
import logging
import time
from pathlib import Path

import numpy as np
from machine import machine

RESULTS = Path(__file__).parent / "results"
REFERENCE = ("ddim", 25)
SETTINGS = [
    *((solver, steps) for solver in ("ddim", "dpm++", "unipc") for steps in (5, 6, 8, 10)),
]
METRICS = ("pixcorr", "ssim", "two_way", "two_way_hard", "distance", "category", "similarity")
ALPHA = 0.05


def draw(results: Path, prepared: Path, subject: str, split: str, settings: list, threads: int) -> dict:
    """Return images uint8 [N, S, S, 3] and seconds of one subject by setting."""
    from neuropictor.config import RuntimeConfig, SampleConfig
    from neuropictor.data.alignment import ComponentStore
    from neuropictor.data.responses import ResponseStore
    from neuropictor.sampling import batched, inputs, network_sampler

    store = ResponseStore(prepared / subject / "responses.h5")
    file = results / "align" / subject / "components.h5"
    components = ComponentStore(file, store) if file.is_file() else None
    runtime, drawn = RuntimeConfig(threads=threads), {}
    for solver, steps in settings:
        config = SampleConfig(scheduler=solver, steps=steps)
        sampler = network_sampler(results / "refine" / subject, None, store, components, config, runtime)
        batches = batched(store.images(split), config)
        given = [inputs(store, components, [nsd_id for nsd_id, _ in jobs], None) for jobs in batches]
        start = time.perf_counter()
        images = np.concatenate([sampler.draw(jobs, part) for jobs, part in zip(batches, given, strict=True)])
        drawn[solver, steps] = (images, time.perf_counter() - start)
        print(subject, solver, steps, round(drawn[solver, steps][1], 1), "s", flush=True)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), help="of a finished run")
    parser.add_argument("--prepared", type=Path, default=Path("data/prepared"))
    parser.add_argument("--split", choices=["validation", "test"], default="validation")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    out = given.out or RESULTS / f"solvers-{given.split}.json"

    import torch

    from neuropictor.data.responses import ResponseStore
    from neuropictor.data.stimuli import StimulusStore
    from neuropictor.evaluation import metrics
    from neuropictor.evaluation.evaluate import Scorer
    from neuropictor.evaluation.judges import Held, Judge, load_describer
    from neuropictor.evaluation.protocols import OURS
    from neuropictor.evaluation.statistics import bootstrap_mean, holm, p_difference
    from neuropictor.models.backbone import Backbone

    logging.disable(logging.WARNING)
    settings = [REFERENCE, *SETTINGS]
    subjects = sorted(path.name for path in (given.results / "refine").glob("sub-*"))
    scores: dict[tuple, list] = {setting: [] for setting in settings}
    seconds = dict.fromkeys(settings, 0.0)
    for subject in subjects:
        drawn = draw(given.results, given.prepared, subject, given.split, settings, given.threads)
        store = StimulusStore(given.prepared / subject / "stimuli.h5")
        ids = ResponseStore(given.prepared / subject / "responses.h5").images(given.split)
        describer = load_describer("miniature", Backbone.load(), None, torch.device("cpu"))
        judge = Judge.of_store(describer, store, ids)
        scorer = Scorer(judge, [], None, torch.device("cpu"))
        for setting, (images, spent) in drawn.items():
            by_metric = scorer.score(Held(images[:, None]), np.arange(len(ids)))[0]
            scores[setting].append({metric: by_metric[OURS, metric] for metric in METRICS})
            seconds[setting] += spent
    rows, values = [], []
    for setting in settings:
        for metric in METRICS:
            table = np.stack([by_metric[metric] for by_metric in scores[setting]])
            estimate = bootstrap_mean(table, 1000, 0)
            row = {"solver": setting[0], "steps": setting[1], "metric": metric, "value": round(estimate.value, 4)}
            rows.append(row | {"low": round(estimate.low, 4), "high": round(estimate.high, 4)})
            if setting != REFERENCE:
                reference = np.stack([by_metric[metric] for by_metric in scores[REFERENCE]])
                difference = (table - reference)[:, np.isfinite(table).any(0)]
                rows[-1] |= {"difference": round(float(np.nanmean(difference)), 4)}
                values.append((rows[-1], p_difference(difference, 9999, 0)))
    corrected = holm(np.array([p for _, p in values]))
    for (row, p), adjusted in zip(values, corrected, strict=True):
        worse = row["difference"] * (1 if metrics.METRICS[row["metric"]].higher_is_better else -1) < 0
        row |= {"p": round(p, 4), "p_corrected": round(float(adjusted), 4)}
        row["significantly_worse"] = bool(worse and adjusted < ALPHA)
    ways = []
    for setting in settings:
        mine = [row for row in rows if (row["solver"], row["steps"]) == setting]
        ways.append(
            {
                "solver": setting[0],
                "steps": setting[1],
                "seconds": round(seconds[setting], 1),
                "of_reference": round(seconds[setting] / seconds[REFERENCE], 3),
                "usable": not any(row.get("significantly_worse") for row in mine),
                "scores": {
                    row["metric"]: {key: row[key] for key in row if key not in ("solver", "steps", "metric")}
                    for row in mine
                },
            }
        )
    what = f"SIMULATED data: refined networks of the demo, {given.split} images"
    result = {"what": what, "subjects": subjects, "reference": REFERENCE}
    out.write_text(json.dumps(result | {"ways": ways, "machine": machine()}, indent=1) + "\n")
    for way in ways:
        shown = "  ".join(f"{name} {row['value']:.3f}" for name, row in way["scores"].items())
        print(f"{way['solver']:6}{way['steps']:4}{way['seconds']:8.1f} s {way['of_reference']:6.2f}  {shown}", end="  ")
        print("" if way["usable"] else "significantly worse")


if __name__ == "__main__":
    main()
