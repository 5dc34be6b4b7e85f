"""Figures of scores: models against each other, and category by category. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from neuropictor.data.stimuli import StimulusStore
from neuropictor.evaluation.measures import FURTHER_METRICS, IDENTIFICATION, LOWER_IS_BETTER, METRICS
from neuropictor.evaluation.protocols import OURS
from neuropictor.evaluation.tables import (
    METRIC_NAMES,
    MODEL_NAMES,
    metrics_of,
    order_models,
    read_metrics,
    read_scores,
    title_mark,
)
from neuropictor.report.figures import COLOURS, FAINT, INK, STYLE, save_figure

_COLUMNS = 4
CATEGORY_MODELS = ("refined", "ridge_diffusion")
"""Models of the figure by category: the best of the networks, and the strong baseline."""


def score_figure(metrics: Path, out: Path) -> None:
    """Draw every score of every model: mean over subjects with its interval, and each subject as a small dot.

    Parameters
    ----------
    metrics : Path
        `metrics.csv`.
    out : Path
        PNG.
    """
    frame = read_metrics(metrics)
    data = "simulated" if (frame["data"] == "simulated").any() else ""
    wanted = {OURS: (*METRICS, *FURTHER_METRICS)}
    panels = [
        (protocol, metric)
        for protocol in frame["protocol"].unique()
        for metric in metrics_of(frame[frame["protocol"] == protocol], wanted.get(protocol, tuple(METRIC_NAMES)))
    ]
    models = order_models(frame["model"].unique())[::-1]
    n_rows = -(-len(panels) // _COLUMNS)
    with rc_context(STYLE):
        figure = Figure(figsize=(12.5, n_rows * (0.7 + 0.27 * len(models)) + 0.6), layout="constrained")
        grid = figure.subplots(n_rows, _COLUMNS, squeeze=False, sharey=True)
        for axes, (protocol, metric) in zip(grid.ravel(), panels, strict=False):
            part = frame[(frame["protocol"] == protocol) & (frame["metric"] == metric)]
            _panel(axes, part, models)
            arrow = "↓" if metric in LOWER_IS_BETTER else "↑"
            axes.set_title(f"{METRIC_NAMES[metric]} {arrow}" + (f" ({protocol})" if protocol != OURS else ""))
            if metric in IDENTIFICATION:
                axes.axvline(0.5, color=FAINT, lw=1, ls=":")
        for axes in grid.ravel()[len(panels) :]:
            axes.set_visible(False)
        networks = " judged by the miniature" if (frame["networks"] == "miniature").any() else ""
        title = f"Scores{networks}: mean over subjects with 95 % interval, and each subject{title_mark(data)}"
        figure.suptitle(title, size=13)
        save_figure(figure, out)


def _panel(axes, part: pd.DataFrame, models: list[str]) -> None:
    """Draw one score: models down, values across."""
    for place, model in enumerate(models):
        own = part[part["model"] == model]
        colour = FAINT if model == "null" else COLOURS[0]
        mean = own[own["subject"] == "mean"]
        axes.plot(
            own.loc[own["subject"] != "mean", "value"], [place - 0.25] * (len(own) - len(mean)), "o", ms=3, color=FAINT
        )
        if len(mean):
            row = mean.iloc[0]
            axes.plot([row["ci_low"], row["ci_high"]], [place, place], color=colour, lw=2.5, solid_capstyle="round")
            axes.plot(row["value"], place, "o", color=colour, ms=7)
    names = [MODEL_NAMES.get(model, model.replace("_", " ")) for model in models]
    axes.set_yticks(range(len(models)), names, color=INK)


def category_figure(scores: Path, stimuli: Sequence[Path], out: Path) -> None:
    """Draw identification by category: among all pictures, and among those of the same category.

    Parameters
    ----------
    scores : Path
        `scores.csv`.
    stimuli : sequence of Path
        Prepared pictures, which tell categories.
    out : Path
        PNG.
    """
    frame, store = read_scores(scores), StimulusStore(*stimuli)
    frame = frame[(frame["protocol"] == OURS) & frame["model"].isin(CATEGORY_MODELS)]
    frame = frame.assign(main=store.category(frame["nsd_id"].astype(int).to_numpy()))
    frame = frame[frame["main"] != ""]
    names = sorted(frame["main"].unique())
    panels = [metric for metric in ("two_way", "two_way_category", "category") if metric in frame]
    with rc_context(STYLE):
        figure = Figure(figsize=(4.2 * max(1, len(panels)), 0.34 * max(4, len(names)) + 1.6), layout="constrained")
        grid = figure.subplots(1, max(1, len(panels)), squeeze=False, sharey=True)[0]
        for axes, metric in zip(grid, panels, strict=False):
            for shift, model in enumerate(model for model in CATEGORY_MODELS if model in set(frame["model"])):
                own = frame[frame["model"] == model]
                means = own.groupby("main")[metric].mean().reindex(names)
                colour = COLOURS[shift]
                axes.plot(means, np.arange(len(names)) - 0.12 + 0.24 * shift, "o", ms=6, color=colour)
                axes.plot([], [], "o", color=colour, label=MODEL_NAMES.get(model, model))
            chance = 1 / len(names) if metric == "category" and names else 0.5
            axes.axvline(chance, color=FAINT, lw=1, ls=":")
            axes.set_xlim(min(0.4, chance - 0.05), 1.02)
            axes.set_title(METRIC_NAMES[metric])
        pictures = frame.drop_duplicates("nsd_id")["main"].value_counts()
        grid[0].set_yticks(range(len(names)), [f"{name} ({pictures[name]})" for name in names], color=INK)
        grid[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        title = f"By category (number of pictures), all subjects; dotted: chance{title_mark(store.data)}"
        figure.suptitle(title, size=12)
        save_figure(figure, out)
