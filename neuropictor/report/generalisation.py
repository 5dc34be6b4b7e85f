"""The page on generalisation: a section for each question that was asked. Loads no torch.

What was asked stands in the template, the numbers that answer it are put together here.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from neuropictor.data.origin import joined_label, title_mark
from neuropictor.data.reconstructions import StoredReconstructions
from neuropictor.data.rows import evenly_spaced
from neuropictor.data.stimuli import StimulusStore
from neuropictor.evaluation.metrics import METRICS, shown_in
from neuropictor.evaluation.protocols import OURS
from neuropictor.evaluation.statistics import ABOVE_CHANCE, DIFFERENCE, bootstrap_mean
from neuropictor.evaluation.tables import (
    ALL,
    GROUP,
    NOT_SCORED,
    STATISTICS,
    model_title,
    of_kind,
    order_models,
    read_metrics,
    read_scores,
    read_tests,
)
from neuropictor.records.checksums import verify
from neuropictor.report.figures import COLOURS, FAINT, STYLE, image_grid
from neuropictor.report.pages import NOTHING, Cell, Table, write_page
from neuropictor.report.scores import score_table, value_cell, with_arrow

SHOWN = 12  # images of a picture row: all with a true image of NSD-Imagery
CONTROLS_SHOWN = ("bottleneck", "agreement")
REPETITIONS, SEED = 1000, 15  # of intervals of test images inside and outside of clusters
COMPARED = ("refined", "ridge_diffusion", "nearest")


@dataclass
class Question:
    """A section of the page.

    Attributes
    ----------
    kind
        Which of the template's questions.
    facts
        What its text names.
    answers
        Sentences with the numbers that answer it.
    tables
        By caption.
    figures
        PNGs, by what they show.
    """

    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)
    tables: dict[str, Table] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)


def report_generalisation(
    scores: Path,
    out: Path,
    test_sets: Sequence[Path] = (),
    test_images: Sequence[Path] = (),
    new_people: Path | None = None,
    stimuli: Sequence[Path] = (),
    trained_on: str = "pretrained",
    clusters: Path | None = None,
    controls: Path | None = None,
) -> None:
    """Write the page.

    Parameters
    ----------
    scores
        `scores.csv` of stage evaluate, with `metrics.csv` beside it.
    out
        HTML page.
    test_sets, test_images
        `metrics.csv` of each further test set, in the folder of its name, and prepared images in folders of these
        names. Reconstructions are found beside the tables, by subject.
    new_people, stimuli
        `metrics.csv` of new people, and the prepared images that test them; reconstructions and records are found
        beside it, by number of pairs and subject.
    trained_on
        What drew new people: "start" weights, or networks "pretrained" on others, or on new people "themselves" too.
    clusters
        Clusters of images, some of which were held out of training.
    controls
        `controls.csv`, for the controls of `CONTROLS_SHOWN`.
    """
    tables = [scores, scores.with_name("metrics.csv"), *test_sets, *filter(None, (new_people, clusters, controls))]
    verify(*tables, *test_images, *stimuli)
    metrics = read_metrics(tables[1])
    labels = [*metrics["data"], *(label for path in test_sets for label in read_metrics(path)["data"])]
    questions = [
        _test_set(path, [one for one in test_images if one.parent.name == path.parent.name]) for path in test_sets
    ]
    if new_people:
        questions.append(_new_people(new_people, StimulusStore(*stimuli), trained_on))
        labels += list(read_metrics(new_people)["data"])
    if clusters:
        questions.append(_clusters(pd.read_csv(clusters, dtype={"nsd_id": str}), read_scores(scores)))
    if controls:
        table = pd.read_csv(controls, dtype={"subject": str})
        questions += [question for kind in CONTROLS_SHOWN for question in _control(kind, table)]
    questions.append(_ceilings(metrics))
    write_page("generalisation.html", out, "Generalisation" + title_mark(joined_label(labels)), questions=questions)


def _test_set(metrics: Path, stimuli: Sequence[Path]) -> Question:
    name = metrics.parent.name
    frame, tests = read_metrics(metrics), read_tests(metrics.with_name(STATISTICS))
    question = Question(name)
    frame, tests = frame[frame["subject"] == "mean"], _of_mean(tests)
    for group in frame[GROUP].unique():
        part = frame[(frame[GROUP] == group) & (frame["protocol"] == OURS)]
        caption = (
            f"All {part['n_images'].max()} images" if group == ALL else f"{group}, {part['n_images'].max()} images"
        )
        names = [
            name for kind in ("main", "further") for name in shown_in(kind, part["metric"]) if "retrieval" not in name
        ]
        question.tables[caption] = score_table(part, names)
        question.answers += _above_chance(tests[tests[GROUP] == group], group)
    folders = sorted(metrics.parent.glob("sub-*"))
    question.figures[f"Subject {folders[0].name.removeprefix('sub-')}"] = _pictures(
        folders[0], StimulusStore(stimuli[0])
    )
    return question


def _of_mean(tests: pd.DataFrame) -> pd.DataFrame:
    """Tests of the mean over subjects by our protocol; of a single subject, its own."""
    tests = tests[tests["protocol"] == OURS]
    return tests[tests["subject"] == "mean"] if (tests["subject"] == "mean").any() else tests


def _above_chance(tests: pd.DataFrame, group: str) -> Iterator[str]:
    """Say of the refined networks whether they identify above chance, and how they compare with ridge + diffusion."""
    above = tests[(tests["test"] == ABOVE_CHANCE) & (tests["model"] == "refined") & (tests["metric"] == "two_way")]
    differ = tests[
        (tests["test"] == DIFFERENCE) & (tests["other"] == "ridge_diffusion") & (tests["metric"] == "two_way")
    ]
    for row in above.itertuples():
        text = f"{'All' if group == ALL else group}: two-way identification by the refined networks {row.value:z.3f}"
        text += f" (chance {row.low:z.3f} to {row.high:z.3f}, p = {row.p:.4f})"
        for other in differ.itertuples():
            text += f"; ridge + diffusion {row.value - other.value:z.3f}"
            text += f" (difference {other.value:+z.3f}, p = {other.p:.4f})"
        yield text + "."


def _pictures(folder: Path, store: StimulusStore) -> str:
    """Seen images above their reconstructions, evenly spaced over kinds: a PNG in base64."""
    files = {model: StoredReconstructions(folder / f"{model}.h5") for model in COMPARED}
    every = files[COMPARED[0]].nsd_id
    kinds = store.category(every)
    scored = np.flatnonzero(~np.isin(kinds, NOT_SCORED))
    order = scored[np.argsort(kinds[scored], kind="stable")]
    rows = order[evenly_spaced(len(order), SHOWN)]
    nsd_ids = every[rows]
    names = [name[:12] or kind for name, kind in zip(store.names(nsd_ids), kinds[rows], strict=True)]
    lines = {"seen": store.images(nsd_ids)} | {model: file.read(rows) for model, file in files.items()}
    return _grid(lines, [f"{place + 1}. {name}" for place, name in enumerate(names)])


def _grid(lines: Mapping[str, np.ndarray], heads: list[str]) -> str:
    """Rows of images by model, uint8 [n, S, S, 3] each, under heads, which differ: a PNG in base64."""
    columns = {head: [images[place] for images in lines.values()] for place, head in enumerate(heads)}
    with rc_context(STYLE):
        return _png(image_grid(columns, [_row_title(name) for name in lines], ""))


def _row_title(name: str) -> str:
    return name if name == "seen" else model_title(name)


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()


def _new_people(metrics: Path, store: StimulusStore, trained_on: str) -> Question:
    frame, tests = read_metrics(metrics), _of_mean(read_tests(metrics.with_name(STATISTICS)))
    frame = frame[frame["protocol"] == OURS]
    people = [subject for subject in frame["subject"].unique() if subject != "mean"]
    question = Question("new_people", {"people": people, "trained_on": trained_on})
    mean = frame[frame["subject"] == "mean"]
    names = [
        name
        for name in ("two_way", "two_way_hard", "pixcorr", "category", "distance")
        if (mean["metric"] == name).any()
    ]
    cells = {(row.group, row.model, row.metric): row for row in mean.itertuples()}
    groups, models = list(mean[GROUP].unique()), order_models(mean["model"])
    rows: list[list[str | Cell]] = []
    for group in groups:
        for model in models:
            if not any((group, model, name) in cells for name in names):
                continue
            scores = [
                value_cell(cells[group, model, name]) if (group, model, name) in cells else NOTHING for name in names
            ]
            rows.append([group, model_title(model), *scores, _seconds(metrics.parent, group, model, people)])
    question.tables["Mean over people, 95 % intervals over images"] = Table(
        ["pairs", "model", *map(with_arrow, names), "seconds to fit"], rows
    )
    differences = tests[(tests["test"] == DIFFERENCE) & (tests["metric"] == "two_way")]
    for row in differences.itertuples():
        question.answers.append(
            f"{row.group} pairs, two-way identification: adapted - {model_title(row.other)} {row.value:+z.3f}"
            f" ({row.low:+z.3f} to {row.high:+z.3f}, p = {row.p:.4f})."
        )
    question.figures["Scores by number of pairs"] = _curve(mean, groups, models, names)
    question.figures[f"Subject {people[0]}"] = _people_pictures(metrics.parent, groups, people[0], store)
    return question


def _seconds(folder: Path, group: str, model: str, people: list[str]) -> str:
    """Return the mean time of fitting or training, from the records."""
    file = {"adapted": "components.run.json", "refined": "refine/run.json"}.get(model, "baselines.run.json")
    records = [folder / f"pairs-{group}" / f"sub-{subject}" / file for subject in people]
    times = [pd.read_json(path, typ="series")["wall_seconds"] for path in records if path.is_file()]
    if not times:
        return NOTHING
    drawn = " with drawing" if file.startswith("baselines") else ""
    return f"{np.mean(times):.1f}{drawn}"


def _curve(mean: pd.DataFrame, groups: list[str], models: list[str], names: list[str]) -> str:
    with rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(names), 3.2), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            for colour, model in zip(COLOURS, models, strict=False):
                part = (
                    mean[(mean["model"] == model) & (mean["metric"] == name)].set_index(GROUP).reindex(groups).dropna()
                )
                places = [groups.index(group) for group in part.index]
                errors = np.abs(part[["ci_low", "ci_high"]].to_numpy().T - part["value"].to_numpy())
                axes.errorbar(places, part["value"], errors, color=colour, marker="o", ms=4, label=model_title(model))
            if METRICS[name].chance is not None:
                axes.axhline(METRICS[name].chance, color=FAINT, lw=1, ls=":")
            axes.set_xticks(range(len(groups)), groups)
            axes.set_xlabel("image-response pairs")
            axes.set_title(with_arrow(name))
        axes.legend(fontsize=8)
        return _png(figure)


def _people_pictures(folder: Path, groups: list[str], subject: str, store: StimulusStore) -> str:
    files = {
        f"{group} pairs": StoredReconstructions(folder / f"pairs-{group}" / f"sub-{subject}" / "adapted.h5")
        for group in groups
    }
    nsd_ids = next(iter(files.values())).nsd_id
    rows = evenly_spaced(len(nsd_ids), SHOWN)
    lines = {"seen": store.images(nsd_ids[rows])} | {name: file.read(rows) for name, file in files.items()}
    return _grid(lines, [f"image {nsd_id}" for nsd_id in nsd_ids[rows]])


def _clusters(clusters: pd.DataFrame, scores: pd.DataFrame) -> Question:
    count, held_out = clusters.loc[clusters["cluster"] >= 0, "cluster"].nunique(), clusters[clusters["held_out"] == 1]
    facts = {"clusters": count, "held_out": held_out["cluster"].nunique()}
    question = Question("clusters", facts | {"images": len(clusters), "images_held_out": len(held_out)})
    scores = scores[scores["protocol"] == OURS].merge(clusters[["nsd_id", "held_out"]], on="nsd_id")
    names = [name for name in shown_in("main", scores.columns)]
    rows: list[list[str | Cell]] = []
    for model in order_models(scores["model"]):
        if model in of_kind("ceiling"):
            continue
        for inside, where in ((1, "inside"), (0, "outside")):
            part = scores[(scores["model"] == model) & (scores["held_out"] == inside)]
            cells = [_interval(part, name) for name in names]
            rows.append([model_title(model), where, *cells, str(part["nsd_id"].nunique())])
    question.tables["Test images inside and outside of the held-out clusters, mean over subjects"] = Table(
        ["model", "clusters", *map(with_arrow, names), "images"], rows
    )
    return question


def _interval(scores: pd.DataFrame, name: str) -> str | Cell:
    """Mean over subjects of a score, with its interval over images."""
    if not scores[name].notna().any():
        return NOTHING
    table = scores.pivot(index="subject", columns="nsd_id", values=name)
    one = bootstrap_mean(table.to_numpy(), REPETITIONS, SEED)
    return Cell(f"{one.value:z.3f}", (f"{one.low:z.3f} to {one.high:z.3f}",))


def _control(kind: str, controls: pd.DataFrame) -> list[Question]:
    """Conditions of a control down, scores across; nothing if it was not made."""
    frame = controls[controls["control"] == kind]
    if not len(frame):
        return []
    question = Question(kind)
    subject = "mean" if (frame["subject"] == "mean").any() else frame["subject"].iloc[0]
    part = frame[frame["subject"] == subject]
    names = [name for name in METRICS if (part["metric"] == name).any() and METRICS[name].shown[0] == "main"]
    cells = {(row.condition, row.metric): row for row in part.itertuples()}
    rows: list[list[str | Cell]] = [
        [condition, *(value_cell(cells[condition, name]) if (condition, name) in cells else NOTHING for name in names)]
        for condition in part["condition"].unique()
    ]
    question.tables[f"{int(part['n_images'].max())} test images"] = Table(["condition", *map(with_arrow, names)], rows)
    return [question]


def _ceilings(metrics: pd.DataFrame) -> Question:
    frame = metrics[(metrics["protocol"] == OURS) & (metrics["subject"] == "mean")]
    shown = frame[frame["model"].isin(["refined", "ridge_diffusion", *of_kind("ceiling")])]
    question = Question("ceilings")
    question.tables[f"{int(shown['n_images'].max())} test images"] = score_table(
        shown, shown_in("main", shown["metric"])
    )
    return question
