"""Figures of the report. Loads no torch, and no part of matplotlib that needs a screen."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from neuropictor.data.origin import joined_label, title_mark
from neuropictor.data.reconstructions import StoredReconstructions
from neuropictor.data.responses import ResponseStore
from neuropictor.data.rows import evenly_spaced
from neuropictor.data.stimuli import StimulusStore
from neuropictor.evaluation.tables import model_title, order_models
from neuropictor.records.checksums import verify
from neuropictor.records.files import atomic_path
from neuropictor.surface import load_geometry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import RcKeyType

    from neuropictor.config import EvaluateConfig

INK, FAINT = "#1d2530", "#6a7583"
COLOURS = ("#2563a8", "#c8551b", "#2c8a57", "#8a4fa3", "#b08a15", "#4a9aa8", "#a83a5c", "#5c6670")
"""Distinguishable in print and by most colour-blind readers."""

STYLE: dict[RcKeyType, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e8ee",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "legend.frameon": False,
    "figure.dpi": 130,
    "savefig.facecolor": "white",
}

_CELL = 1.3  # inches


def contact_sheet(samples: dict[str, Path], stimuli: Path, config: EvaluateConfig, out: Path) -> None:
    """Draw one subject's test images beside their reconstructions.

    Rows are evenly spaced over the test images in the order of nsd_id: scores play no part. Where a
    model drew several samples, the first is shown.

    Parameters
    ----------
    samples
        Reconstructions of one subject by model.
    stimuli
        Prepared images.
    config
        `contact_sheet_rows` is used.
    out
        PNG.
    """
    verify(*samples.values(), stimuli)
    files = {model: StoredReconstructions(path) for model, path in samples.items()}
    models = order_models(files)
    first = files[models[0]]
    for model in models:
        if not np.array_equal(files[model].nsd_id, first.nsd_id):
            raise ValueError(f"{samples[model]}: not the same images as {samples[models[0]]}; sample them again")
    store = StimulusStore(stimuli)
    rows = evenly_spaced(len(first.nsd_id), config.contact_sheet_rows)
    nsd_ids = first.nsd_id[rows]
    columns = {"seen": store.images(nsd_ids)}
    columns |= {model_title(model): files[model].read(rows) for model in models}
    labels = [
        f"{category or 'image'}\n{background}" if background else category
        for category, background in zip(store.category(nsd_ids), store.background(nsd_ids), strict=True)
    ]
    title = f"Subject {first.subject}: seen images and reconstructions{title_mark(first.data)}"
    with rc_context(STYLE):
        save_figure(image_grid(columns, labels, title), out)


def image_grid(
    columns: Mapping[str, Sequence[np.ndarray | None] | np.ndarray], labels: list[str], title: str
) -> Figure:
    """Lay out images uint8 [S, S, 3] in a grid with column heads and row labels; None leaves a cell empty."""
    n_rows, n_columns = len(labels), len(columns)
    left, top = 1.0, 0.85 if title else 0.4
    width, height = left + n_columns * _CELL + 0.1, top + n_rows * _CELL + 0.1
    figure = Figure(figsize=(width, height))
    grid = figure.add_gridspec(
        n_rows,
        n_columns,
        left=left / width,
        right=1 - 0.1 / width,
        top=1 - top / height,
        bottom=0.1 / height,
        wspace=0.05,
        hspace=0.05,
    )
    figure.text(
        0.5, 1 - 0.3 / height, "\n".join(textwrap.wrap(title, int(width * 11))), ha="center", va="center", size=12
    )
    for place, (name, images) in enumerate(columns.items()):
        for row, image in enumerate(images):
            axes = figure.add_subplot(grid[row, place])
            if image is not None:
                axes.imshow(image, interpolation="nearest" if image.shape[0] > 200 else "bicubic")
            axes.grid(visible=False)
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(image is not None)
                spine.set_color(INK if place == 0 else "#d0d6de")
            if row == 0:
                axes.set_title(textwrap.fill(name, 18), size=10, weight="bold" if place < 2 else "normal", pad=6)
            if place == 0:
                axes.set_ylabel(labels[row], rotation=0, ha="right", va="center", labelpad=6, size=8, color=FAINT)
    return figure


def training_curves(histories: Sequence[Path], out: Path) -> None:
    """Draw losses and other values of all training stages.

    Parameters
    ----------
    histories
        `history.csv` files (columns step, split, name, value) in folders of their stages, for example `pretrain` or
        `refine/sub-01`; subjects share the panels of a stage.
    out
        PNG. Its title says "simulated" if a `run.json` beside a history says so.
    """
    verify(*histories)
    stages: dict[str, dict[str, pd.DataFrame]] = {}
    for path in histories:
        folder = Path(path).parent
        stage, run = (folder.parent.name, folder.name) if folder.name.startswith("sub-") else (folder.name, "")
        frame = pd.read_csv(path)
        missing = [name for name in ("step", "split", "name", "value") if name not in frame]
        if missing:
            raise ValueError(f"{path}: columns {', '.join(missing)} missing, found {list(frame)}")
        stages.setdefault(stage, {})[run] = frame
    panels = {
        stage: list(dict.fromkeys(name for frame in runs.values() for name in frame["name"]))
        for stage, runs in stages.items()
    }
    n_columns = max(1, *map(len, panels.values()))
    with rc_context(STYLE):
        figure = Figure(figsize=(max(7.0, 3.6 * n_columns), 2.7 * len(stages) + 0.5), layout="constrained")
        grid = figure.subplots(len(stages), n_columns, squeeze=False)
        for row, (stage, runs) in zip(grid, stages.items(), strict=True):
            for axes, name in zip(row, panels[stage], strict=False):
                _curve(axes, runs, name)
                axes.set_title(f"{stage}: {name}")
            # Outside the panels, to hide no point; the loss, which all runs have in both splits, comes first.
            axes.legend(*row[0].get_legend_handles_labels(), fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
            for axes in row[len(panels[stage]) :]:
                axes.set_visible(False)
        figure.suptitle("Training" + title_mark(_data_of(histories)), size=13)
        figure.supxlabel(
            "Training: of the repeats that a step draws, with dropout and left-out contexts. "
            "Validation: of means over repeats, without.",
            size=9,
        )
        save_figure(figure, out)


def _curve(axes: Axes, runs: dict[str, pd.DataFrame], name: str) -> None:
    """Draw one value of all runs of a stage: training thin and smoothed, validation with markers."""
    positive = True
    for colour, (run, frame) in zip(_cycle(len(runs)), runs.items(), strict=True):
        for split, part in frame[frame["name"] == name].groupby("split", sort=False):
            label = " ".join(filter(None, (run, split)))
            values = part["value"].to_numpy(float)
            positive &= bool((values[np.isfinite(values)] > 0).all())
            if split == "train":
                smooth = part["value"].ewm(span=max(2, len(part) // 20)).mean()
                axes.plot(part["step"], values, color=colour, lw=0.6, alpha=0.25)
                axes.plot(part["step"], smooth, color=colour, lw=1.4, label=label)
            else:
                axes.plot(part["step"], values, color=colour, lw=1.2, ls="--", marker="o", ms=3, label=label)
    if "loss" in name and positive:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(which="minor", color="#f1f3f6")
    axes.set_xlabel("step")


def _cycle(number: int) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(number)]


def _data_of(histories) -> str:
    """Origin of the data by the run records beside the histories; empty where none tells."""
    kinds = set()
    for path in histories:
        record = Path(path).with_name("run.json")
        if record.is_file():
            kinds.add(json.loads(record.read_text(encoding="utf-8")).get("results", {}).get("data"))
    return joined_label(kinds - {None})


def response_map(responses: Path, out: Path) -> None:
    """Draw a subject's noise ceiling and responses to three test images on the flat cortex.

    Parameters
    ----------
    responses
        Prepared responses.
    out
        PNG.
    """
    verify(responses)
    store = ResponseStore(responses)
    geometry = load_geometry()
    shown = store.images("test")
    shown = shown[evenly_spaced(len(shown), 3)] if len(shown) else shown
    means = store.mean_response(shown)
    limit = float(np.quantile(np.abs(means), 0.99)) if means.size else 1.0
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(11, 9.6), layout="constrained")
        panels = figure.subplots(2, 2).ravel()
        geometry.paint(store.ncsnr, panels[0], title="Noise ceiling (ncsnr)", label="ncsnr")
        for axes, nsd_id, values in zip(panels[1:], shown, means, strict=False):
            repeats = len(store.trials(int(nsd_id)))
            title = f"Response to test image {nsd_id} (mean of {repeats})"
            geometry.paint(values, axes, limits=(-limit, limit), title=title, label="z")
        for axes in panels[1 + len(shown) :]:
            axes.set_visible(False)
        figure.suptitle(f"Subject {store.subject} on the flat visual cortex{title_mark(store.data)}", size=14)
        save_figure(figure, out)
    store.close()


def save_figure(figure: Figure, out: Path) -> None:
    """Write a PNG whole or not at all; without the date and version that matplotlib would add."""
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
