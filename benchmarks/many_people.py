"""Does it help unseen people to pretrain on more people: 3, 6, 12 and 24, all simulated.

    PYTHONPATH=tests python benchmarks/many_people.py --folder many_people      # hours; continues where it was stopped

Everybody in pretraining sees 480 scenes three times, drawn from the same 4,000; unseen people see 250, which is an hour
in the scanner, and all are tested on the same 120 scenes, which train nobody. Networks start from random weights, since
the shipped ones know other people already, and take the same number of steps whatever the number of people. What runs
is the workflow itself, on imported stores and a table of people. `pretrained` is an unseen person's score after
alignment alone, `refined` after refining.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from machine import machine
from matplotlib import rc_context
from matplotlib.figure import Figure

from neuropictor.config import SimulateConfig
from neuropictor.data.origin import title_mark
from neuropictor.data.reconstructions import StoredReconstructions
from neuropictor.data.responses import SPLITS
from neuropictor.data.rows import evenly_spaced
from neuropictor.data.stimuli import StimulusStore
from neuropictor.evaluation.metrics import METRICS
from neuropictor.evaluation.statistics import bootstrap_mean
from neuropictor.miniature.networks import render_scenes
from neuropictor.miniature.population import write_person, write_stimuli
from neuropictor.records.progress import progress
from neuropictor.report.figures import COLOURS, STYLE, image_grid, save_figure

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "many_people.json"
SIZES = (3, 6, 12, 24)
UNSEEN = 4
SCENES, TESTED, IMAGES, UNSEEN_IMAGES, VALIDATION = 4120, 120, 480, 250, 20
FIRST_PERSON = 201
SIMULATE = SimulateConfig()
SETTINGS = {
    "nsd": {"source": "prepared"},
    "calibrate": {"init": "scratch", "steps": 200, "learning_rate": 1.0e-3, "schedule": "cosine"},
    "align": {"folds": 4},
    "pretrain": {"init": "scratch", "steps": 900, "learning_rate": 8.0e-4, "warmup": 50, "validation_interval": 300},
    "refine": {"steps": 100, "learning_rate": 2.0e-4, "validation_interval": 100},
    "evaluate": {"bootstrap": 1000},
    "runtime": {"tensorboard": False, "track_code": False},
}
SHOWN = ("two_way", "two_way_hard", "pixcorr", "ssim", "category")
FIGURE, SHEET = (ROOT / "docs" / f"many_people{end}.png" for end in ("", "_images"))
MARK = title_mark("simulated+miniature")
MODELS = {"pretrained": "after alignment alone", "refined": "after refining", "ridge_diffusion": "ridge + diffusion"}
PAGE, BEGIN, END = ROOT / "docs/many_people.md", "<!-- scores:begin -->", "<!-- scores:end -->"


def people() -> dict[str, tuple[int, int]]:
    """Number and training images of everybody, by label."""
    labels = [f"P{number:02d}" for number in range(1, SIZES[-1] + 1)] + [f"U{n}" for n in range(1, UNSEEN + 1)]
    return {
        label: (FIRST_PERSON + place, UNSEEN_IMAGES if label.startswith("U") else IMAGES)
        for place, label in enumerate(labels)
    }


def make_stores(folder: Path) -> None:
    """Simulate everybody's responses and collect their images, unless they are there."""
    missing = [label for label in people() if not (folder / f"sub-{label}" / "stimuli.h5").is_file()]
    if not missing:
        return
    images, scenes = render_scenes(range(SCENES), SIMULATE.seed, 2)
    for label in progress(missing, "Simulating people", unit="person"):
        person, count = people()[label]
        (folder / f"sub-{label}").mkdir(parents=True, exist_ok=True)
        own = np.random.default_rng([SIMULATE.seed, person]).choice(SCENES - TESTED, count, replace=False) + TESTED
        rows = np.concatenate([np.arange(TESTED), own])
        split = np.repeat(
            [SPLITS.index(name) for name in ("test", "validation", "train")], [TESTED, VALIDATION, count - VALIDATION]
        )
        order = np.argsort(rows)
        store = folder / f"sub-{label}" / "responses.h5"
        write_person(person, rows[order], split[order], images, scenes, SIMULATE, store, label)
        write_stimuli(rows[order], images, scenes, store.with_name("stimuli.h5"))


def run(folder: Path, size: int, cores: int) -> Path:
    """Run the workflow with this many people in pretraining; give its folder of results."""
    results = folder / f"people-{size}"
    if not (results / "metrics.csv").is_file():
        lines = ["subject\tdataset\tpretrain\trefine"]
        for label in people():
            unseen = label.startswith("U")
            if unseen or int(label[1:]) <= size:
                lines.append(f"{label}\tsimulation\t{'no' if unseen else 'yes'}\t{'yes' if unseen else 'no'}")
        table, settings = folder / f"people-{size}.tsv", folder / f"people-{size}.yaml"
        table.write_text("\n".join(lines) + "\n")
        paths = {"nsd": str(folder / "nsd"), "prepared": str(folder / "prepared"), "results": str(results)}
        chosen = {"subjects": {"table": str(table)}, "paths": paths, "controls": {"made": []}}
        settings.write_text(yaml.safe_dump(SETTINGS | chosen))
        command = [sys.executable, ROOT / "tests/warm_workflow.py", "--snakefile", ROOT / "Snakefile"]
        command += ["--workflow-profile", ROOT / "profiles/default", "--directory", folder, "--cores", cores]
        command += ["--rerun-incomplete", "--configfile", ROOT / "config.yaml", settings, "--", results / "metrics.csv"]
        subprocess.run([str(part) for part in command], check=True)
    return results


def summary(scores: dict[int, pd.DataFrame]) -> list[dict]:
    """Mean scores over unseen people with intervals over test images, and paired differences from the fewest people."""
    rows = []
    for model in MODELS:
        for metric in SHOWN:
            tables = {
                size: frame[frame["model"] == model].pivot(index="subject", columns="nsd_id", values=metric).to_numpy()
                for size, frame in scores.items()
            }
            for size, values in tables.items():
                row = {"model": model, "metric": metric, "people": size}
                row |= {
                    name: round(getattr(bootstrap_mean(values, 10_000, 15), name), 4)
                    for name in ("value", "low", "high")
                }
                difference = bootstrap_mean(values - tables[SIZES[0]], 10_000, 15)
                row |= {f"more_{name}": round(getattr(difference, name), 4) for name in ("value", "low", "high")}
                rows.append(row)
    return rows


def fill_page(scores: list[dict]) -> None:
    """Write the table of the documentation's page between its markers."""
    rows = {(row["model"], row["metric"], row["people"]): row for row in scores}
    titles = [f"{METRICS[name].title} {METRICS[name].arrow}" for name in SHOWN]
    lines = [
        f"| unseen people's images | people in pretraining | {' | '.join(titles)} |",
        "|---" * (2 + len(SHOWN)) + "|",
    ]
    for model, title in MODELS.items():
        for size in SIZES if model != "ridge_diffusion" else SIZES[:1]:  # no network takes part in it
            cells = []
            for name in SHOWN:
                row = rows[model, name, size]
                cells.append(f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})")
                more = [row["more_low"], row["more_high"]]
                cells[-1] += " *" if size != SIZES[0] and min(more) * max(more) > 0 else ""
            lines.append(f"| {title} | {size if model != 'ridge_diffusion' else 'none'} | {' | '.join(cells)} |")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{rest.partition(END)[2]}")


def draw(folder: Path, scores: list[dict]) -> None:
    """Draw scores over the number of people, and unseen person U1's images, evenly spaced over the test images."""
    frame = pd.DataFrame(scores)
    with rc_context(STYLE):
        figure = Figure(figsize=(12, 3.4), layout="constrained")
        panels = ("two_way", "two_way_hard", "pixcorr", "category")
        for axes, metric in zip(figure.subplots(1, len(panels)), panels, strict=True):
            for shift, (model, title) in enumerate(MODELS.items()):
                rows = frame[(frame["model"] == model) & (frame["metric"] == metric)]
                places = np.log2(rows["people"]) + 0.06 * (shift - 1)
                lengths = np.abs(rows[["low", "high"]].to_numpy().T - rows["value"].to_numpy())
                axes.errorbar(places, rows["value"], lengths, fmt="o-", ms=5, color=COLOURS[shift], label=title)
            axes.set_xticks(np.log2(SIZES), [str(size) for size in SIZES])
            axes.set_xlabel("people in pretraining")
            axes.set_title(f"{METRICS[metric].title} {METRICS[metric].arrow}")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(MODELS), fontsize=9)
        figure.suptitle(f"{UNSEEN} unseen people, 95 % intervals over test images{MARK}", size=12)
        save_figure(figure, FIGURE)
        columns = {}
        for size in SIZES:
            for model in ("pretrained", "refined"):
                stored = StoredReconstructions(folder / f"people-{size}/sample/sub-U1/{model}.h5")
                shown = evenly_spaced(len(stored.nsd_id), 6)
                columns[f"{size} people, {MODELS[model]}"] = stored.read(shown)
        store = StimulusStore(folder / "prepared/sub-U1/stimuli.h5")
        seen = {"seen": store.images(stored.nsd_id[shown])}
        labels = store.category(stored.nsd_id[shown]).tolist()
        save_figure(image_grid(seen | columns, labels, f"Unseen person U1{MARK}"), SHEET)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("many_people"), help="stores and results; continued")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=SIZES, help="people in pretraining; the table needs all"
    )
    parser.add_argument("--cores", type=int, default=2)
    args = parser.parse_args()
    folder = args.folder.absolute()
    make_stores(folder / "prepared")
    scores = {}
    for size in args.sizes:
        results = run(folder, size, args.cores)
        scores[size] = pd.read_csv(results / "scores.csv", dtype={"subject": str})
    if set(args.sizes) != set(SIZES):
        return
    found = {"machine": machine(), "settings": SETTINGS, "scores": summary(scores)}
    draw(folder, found["scores"])
    fill_page(found["scores"])
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(pd.DataFrame(found["scores"]).to_string(index=False))


if __name__ == "__main__":
    main()
