"""The pages and figures of scores: models against each other, tests, published results, categories. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuropictor.data.origin import joined_label, origin_of, title_mark
from neuropictor.data.stimuli import StimulusStore
from neuropictor.evaluation.metrics import METRICS, RETRIEVAL_POOL, metric_title, shown_in
from neuropictor.evaluation.protocols import OURS, PROTOCOLS
from neuropictor.evaluation.statistics import ABOVE_CHANCE, DIFFERENCE
from neuropictor.evaluation.tables import (
    count_test_images,
    model_title,
    of_kind,
    order_models,
    read_metrics,
    read_scores,
    read_tests,
    without_ceilings,
)
from neuropictor.records.checksums import verify
from neuropictor.report.figures import COLOURS, FAINT, INK, STYLE, save_figure
from neuropictor.report.pages import NOTHING, Cell, Table, write_page

PUBLISHED = Path(__file__).with_name("published_results.csv")
"""Results as their sources print them: two-way identification in per cent, distances and correlations as numbers."""
SUBJECTS = ("01", "02", "05", "07")
"""Published numbers are the mean of these subjects of NSD."""
TEST_SETS = {
    982: "982 images, release of 37 sessions",
    1000: "1,000 images, all 40 sessions",
    0: "test set not stated",
}
CATEGORY_MODELS = ("refined", "ridge_diffusion")
"""Models of the figure by category: the best network, and the strongest baseline."""
_PANELS = 4


def report_scores(
    metrics: Path,
    scores: Path,
    statistics: Path,
    stimuli: Sequence[Path],
    release: str,
    metric_page: Path,
    test_page: Path,
    published_page: Path,
    score_figure: Path,
    category_figure: Path,
) -> None:
    """Write the report's pages and figures of scores.

    Parameters
    ----------
    metrics, scores, statistics
        `metrics.csv`, `scores.csv` and `statistics.csv` of stage evaluate.
    stimuli
        Prepared images, for their categories.
    release
        Which sessions of NSD count, see `neuropictor.nsd.constants.describe_release`; "" where that does not apply.
    metric_page
        HTML: all scores, the mean over subjects, each subject, and ceilings.
    test_page
        HTML: all tests.
    published_page
        HTML: published results by test set, and this run among them or apart, with the reasons.
    score_figure
        PNG: every score of every model, mean over subjects with its interval, and each subject as a small dot.
    category_figure
        PNG: identification by category, among all images and among those of the same category.
    """
    verify(metrics, scores, statistics, *stimuli)
    frame, tests = read_metrics(metrics), read_tests(statistics)
    proper, mark = without_ceilings(frame), title_mark(joined_label(frame["data"]))
    _metric_page(frame, release, "Reconstruction scores" + mark, metric_page)
    write_page("statistics.html", test_page, "Tests of the scores" + mark, sections=test_sections(tests))
    _published_page(proper, published_page)
    _score_figure(proper, score_figure)
    _category_figure(read_scores(scores), StimulusStore(*stimuli), mark, category_figure)


def score_table(frame: pd.DataFrame, names: Sequence[str], counts: bool = False) -> Table:
    """Models down, scores across; the best of the models proper in bold, intervals below.

    Parameters
    ----------
    frame
        DataFrame: rows of `metrics.csv` of one subject and protocol.
    names
        Of the scores.
    counts
        Whether the last column gives the number of images.
    """
    cells = {(row.model, row.metric): row for row in frame.itertuples()}
    rivals = without_ceilings(frame[frame["model"] != "null"]).groupby("metric")["value"]
    best = {name: values.max() if METRICS[name].higher_is_better else values.min() for name, values in rivals}
    rows = []
    for model in order_models(frame["model"]):
        row: list[str | Cell] = [model_title(model)]
        for name in names:
            cell = cells.get((model, name))
            mark = "b" if cell and model != "null" and cell.value == best.get(name) else ""
            row.append(value_cell(cell, mark) if cell else NOTHING)
        if counts:
            row.append(str(frame.loc[frame["model"] == model, "n_images"].max()))
        rows.append(row)
    return Table(["model", *map(with_arrow, names), *(["images"] if counts else [])], rows)


def value_cell(row: Any, mark: str = "") -> Cell:
    """Value with its interval below it, of a row of `metrics.csv`."""
    return Cell(f"{row.value:z.3f}", (f"{row.ci_low:z.3f} to {row.ci_high:z.3f}",), mark)


def score_tables(frame: pd.DataFrame) -> dict[str, list[Table]]:
    """Tables of one subject by protocol; those without scores are left out."""
    tables = {}
    for label in frame["protocol"].unique():
        part = frame[frame["protocol"] == label]
        kinds = ("main", "further") if label == OURS else ("published",)
        tables[label] = [score_table(part, names) for kind in kinds if (names := shown_in(kind, part["metric"]))]
    return tables


def with_arrow(name: str) -> str:
    """A score's title with an arrow to better values."""
    return f"{metric_title(name)}\N{NO-BREAK SPACE}{METRICS[name].arrow}"


def _metric_page(frame: pd.DataFrame, release: str, title: str, out: Path) -> None:
    proper, ours = without_ceilings(frame), frame[frame["protocol"] == OURS]
    subjects = [subject for subject in frame["subject"].unique() if subject != "mean"]
    parts: list[dict[str, Any]] = [{"title": f"Mean over subjects {', '.join(subjects)}"}]
    parts += [
        {"title": f"Subject {s}, {count_test_images(frame[frame['subject'] == s])} test images"} for s in subjects
    ]
    for subject, part in zip(("mean", *subjects), parts, strict=True):
        part["protocols"] = score_tables(proper[proper["subject"] == subject])
    ceilings = ours[ours["model"].isin(of_kind("ceiling")) & (ours["subject"] == "mean")]
    counts = proper[proper["protocol"] == OURS].groupby("metric")["n_images"].max()
    explained = [METRICS[name] for kind in ("main", "further") for name in shown_in(kind, counts.index)]
    write_page(
        "metrics.html",
        out,
        title,
        ours=OURS,
        miniature=(frame["networks"] == "miniature").any(),
        release=release,
        parts=parts,
        count=count_test_images(ours),
        explained=[(metric, counts.max() - counts[metric.name]) for metric in explained],
        pool=min(RETRIEVAL_POOL, counts.max()),
        ceilings=score_table(ceilings, shown_in("main", ceilings["metric"]), counts=True) if len(ceilings) else None,
    )


def test_sections(frame: pd.DataFrame) -> list[dict]:
    """Tables of tests, one for each protocol, kind of test and subject, for the template's `tests`."""
    sections = []
    for protocol in frame["protocol"].unique():
        for test, title in ((ABOVE_CHANCE, "Above chance"), (DIFFERENCE, "Differences between models")):
            part = frame[(frame["protocol"] == protocol) & (frame["test"] == test)]
            if not len(part):
                continue
            names = [name for name in part["subject"].unique() if name != "mean"]
            subjects = []
            for subject in (["mean"] if "mean" in set(part["subject"]) else []) + names:
                rows = part[part["subject"] == subject]
                who = f"Subject {subject}" if subject != "mean" else f"Mean over subjects {', '.join(names)}"
                subjects.append((who, rows["n_images"].max(), _test_table(rows, test == DIFFERENCE)))
            sections.append({"title": title, "protocol": protocol, "count": len(part), "subjects": subjects})
    return sections


def _test_table(frame: pd.DataFrame, different: bool) -> Table:
    """Models down, scores across: value, interval, corrected p."""
    names = [name for name in METRICS if name in set(frame["metric"])]
    label, sign = ("other", "+") if different else ("model", "")
    first = model_title(frame["model"].iloc[0])
    rows = []
    for model in order_models(frame[label]):
        cells = {row.metric: row for row in frame[frame[label] == model].itertuples()}
        row: list[str | Cell] = [f"{first} - {model_title(model)}" if different else model_title(model)]
        for cell in map(cells.get, names):
            if cell is None:
                row.append(NOTHING)
                continue
            p = "p < 0.001" if cell.p_corrected < 0.001 else f"p = {cell.p_corrected:.3f}"
            interval = f"{'' if different else 'chance '}{cell.low:{sign}z.3f} to {cell.high:{sign}z.3f}"
            row.append(Cell(f"{cell.value:{sign}z.3f}", (interval, p), "b" if cell.p_corrected < 0.05 else ""))
        rows.append(row)
    return Table(["difference" if different else "model", *map(metric_title, names)], rows)


def read_published(path: Path = PUBLISHED) -> pd.DataFrame:
    """Read published results; `test_images` is 0 where the source does not say."""
    frame = pd.read_csv(path, dtype={"subjects": str})
    return frame.assign(test_images=frame["test_images"].fillna(0).astype(int))


def reasons_against(frame: pd.DataFrame) -> list[str]:
    """Say why a run cannot stand beside published results; empty if it can.

    Parameters
    ----------
    frame
        DataFrame: rows of `metrics.csv`, without ceilings.
    """
    reasons, labels = [], {protocol.label for protocol in PROTOCOLS.values()}
    if origin_of(joined_label(frame["data"])) == "simulated":
        reasons.append("The data are simulated: rendered scenes and simulated brains. Published results are of people.")
    elif {origin_of(label) for label in frame["data"]} != {"nsd"}:
        reasons.append("The images are not those of NSD, on which published results were measured.")
    if any(label != origin_of(label) for label in frame["data"]):
        reasons.append("Images are drawn by a miniature; published ones by Stable Diffusion or its like.")
    if set(frame["networks"]) != {"published"}:
        reasons.append(
            "Images are judged by the miniature's image tower; published results by AlexNet, Inception-v3, CLIP"
            " ViT-L/14, EfficientNet-B1 and SwAV (evaluate.networks: published)."
        )
    if not labels & set(frame["protocol"]):
        reasons.append(
            f"Scores follow the protocol {OURS} only; published ones {' or '.join(sorted(labels))}"
            " (evaluate.protocols)."
        )
    subjects = sorted(set(frame["subject"]) - {"mean"})
    if tuple(subjects) != SUBJECTS:
        reasons.append(f"Subjects are {', '.join(subjects)}; published results are the mean of {', '.join(SUBJECTS)}.")
    rows = frame[(frame["subject"] != "mean") & (frame["metric"] == "pixcorr") & (frame["model"] != "null")]
    counts = set(rows["n_images"].astype(int))
    if len(counts) != 1 or not counts <= set(TEST_SETS):
        reasons.append(
            f"There are {count_test_images(frame)} test images; published test sets have 982 or 1,000, the same for"
            " every subject (nsd.release)."
        )
    return reasons


def _published_page(frame: pd.DataFrame, out: Path) -> None:
    published, reasons = read_published(), reasons_against(frame)
    names = [name for name in METRICS if name in published]
    scales = {name: (100, 1) if METRICS[name].chance is not None else (1, 3) for name in names}
    mean = frame[(frame["subject"] == "mean") & (frame["model"] != "null")]
    apart = {}
    for label in mean["protocol"].unique() if reasons else ():
        part = mean[mean["protocol"] == label]
        apart[label] = score_table(part, shown_in("main" if label == OURS else "published", part["metric"]))
    test_sets = {}
    for number, name in TEST_SETS.items():
        rows = [
            [row["method"], *(f"{row[n]:.{scales[n][1]}f}" for n in names), Cell(row["source"], (row["protocol"],))]
            for _, row in published[published["test_images"] == number].iterrows()
        ]
        if not reasons and number == mean["n_images"].max():
            rows += _own_rows(mean, scales)
        test_sets[name] = Table(["method", *map(with_arrow, names), "source, protocol"], rows)
    mark = title_mark(joined_label(frame["data"]))
    title = "Published results" + (f", and why this run stands apart{mark}" if reasons else " and this run")
    write_page("published.html", out, title, reasons=reasons, apart=apart, test_sets=test_sets)


def _own_rows(mean: pd.DataFrame, scales: dict[str, tuple[int, int]]) -> list[list[str | Cell]]:
    """Rows of this run, one for each model and published protocol."""
    rows = []
    for protocol in PROTOCOLS.values():
        part = mean[mean["protocol"] == protocol.label]
        for model in order_models(part["model"]):
            cells = {row.metric: row for row in part[part["model"] == model].itertuples()}
            values = [
                Cell(
                    f"{scale * cells[name].value:.{digits}f}",
                    (f"{scale * cells[name].ci_low:.{digits}f} to {scale * cells[name].ci_high:.{digits}f}",),
                    "b",
                )
                for name, (scale, digits) in scales.items()
            ]
            rows.append(
                [Cell(f"this run: {model_title(model)}", mark="b"), *values, Cell("this run", (protocol.label,))]
            )
    return rows


def folder_page(scores: Path, out: Path) -> None:
    """Write the page of a folder of `neuropictor.evaluation.folders.evaluate_folders`.

    Parameters
    ----------
    scores
        Folder with metrics.csv, statistics.csv and metrics.json.
    out
        HTML page.
    """
    facts = json.loads((scores / "metrics.json").read_text(encoding="utf-8"))
    write_page(
        "folder.html",
        out,
        f"Reconstruction scores: {', '.join(facts['samples'])}",
        ours=OURS,
        facts=facts,
        published=facts["networks"] == "published",
        protocols=score_tables(read_metrics(scores / "metrics.csv")),
        sections=test_sections(read_tests(scores / "statistics.csv")),
    )


def _score_figure(frame: pd.DataFrame, out: Path) -> None:
    panels = []
    for label in frame["protocol"].unique():
        kinds = ("main", "further") if label == OURS else ("published",)
        names = frame.loc[frame["protocol"] == label, "metric"]
        panels += [(label, name) for kind in kinds for name in shown_in(kind, names)]
    models = order_models(frame["model"])[::-1]
    n_rows = -(-len(panels) // _PANELS)
    with rc_context(STYLE):
        figure = Figure(figsize=(12.5, n_rows * (0.7 + 0.27 * len(models)) + 0.6), layout="constrained")
        grid = figure.subplots(n_rows, _PANELS, squeeze=False, sharey=True)
        for axes, (label, name) in zip(grid.ravel(), panels, strict=False):
            metric = METRICS[name]
            _panel(axes, frame[(frame["protocol"] == label) & (frame["metric"] == name)], models)
            axes.set_title(f"{metric.title} {metric.arrow}" + (f" ({label})" if label != OURS else ""))
            if metric.chance is not None:
                axes.axvline(metric.chance, color=FAINT, lw=1, ls=":")
        for axes in grid.ravel()[len(panels) :]:
            axes.set_visible(False)
        networks = " judged by the miniature" if (frame["networks"] == "miniature").any() else ""
        title = f"Scores{networks}: mean over subjects with 95 % interval, and each subject\n"
        figure.suptitle(title + title_mark(joined_label(frame["data"])).strip(), size=13)
        save_figure(figure, out)


def _panel(axes: Axes, frame: pd.DataFrame, models: list[str]) -> None:
    """Draw one score: models down, values across."""
    for place, model in enumerate(models):
        part = frame[frame["model"] == model]
        mean, subjects = part[part["subject"] == "mean"], part[part["subject"] != "mean"]
        axes.plot(subjects["value"], [place - 0.25] * len(subjects), "o", ms=3, color=FAINT)
        for row in mean.itertuples():
            colour = FAINT if model == "null" else COLOURS[0]
            axes.plot([row.ci_low, row.ci_high], [place, place], color=colour, lw=2.5, solid_capstyle="round")
            axes.plot(row.value, place, "o", color=colour, ms=7)
    axes.set_yticks(range(len(models)), list(map(model_title, models)), color=INK)


def _category_figure(frame: pd.DataFrame, store: StimulusStore, mark: str, out: Path) -> None:
    frame = frame[(frame["protocol"] == OURS) & frame["model"].isin(CATEGORY_MODELS)]
    frame = frame.assign(main=store.category(frame["nsd_id"].astype(int).to_numpy()))
    frame = frame[frame["main"] != ""]
    categories = sorted(frame["main"].unique())
    panels = [name for name in ("two_way", "two_way_category", "category") if name in frame]
    with rc_context(STYLE):
        size = (4.2 * max(1, len(panels)), 0.34 * max(4, len(categories)) + 1.6)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(1, max(1, len(panels)), squeeze=False, sharey=True)[0]
        for axes, name in zip(grid, panels, strict=False):
            for shift, model in enumerate(model for model in CATEGORY_MODELS if model in set(frame["model"])):
                means = frame[frame["model"] == model].groupby("main")[name].mean().reindex(categories)
                places = np.arange(len(categories)) - 0.12 + 0.24 * shift
                axes.plot(means, places, "o", ms=6, color=COLOURS[shift], label=model_title(model))
            chance = METRICS[name].chance or 1 / max(1, len(categories))
            axes.axvline(chance, color=FAINT, lw=1, ls=":")
            axes.set_xlim(min(0.4, chance - 0.05), 1.02)
            axes.set_title(metric_title(name))
        counts = frame.drop_duplicates("nsd_id")["main"].value_counts()
        grid[0].set_yticks(range(len(categories)), [f"{name} ({counts[name]})" for name in categories], color=INK)
        grid[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        title = f"By category (number of images), all subjects; dotted: chance{mark}"
        figure.suptitle(title, size=12)
        save_figure(figure, out)
