"""Contact sheets and curves of controls. Loads no torch."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from neuropictor.controls.conditions import CONTROLS
from neuropictor.controls.scores import OF_TWO, TABLE_METRICS
from neuropictor.data.origin import title_mark
from neuropictor.data.reconstructions import StoredReconstructions
from neuropictor.evaluation.metrics import METRICS
from neuropictor.report.figures import COLOURS, FAINT, STYLE, image_grid, save_figure


def draw_sheet(
    kind: str,
    drawn: StoredReconstructions,
    chosen: np.ndarray,
    seen: dict[str, np.ndarray],
    out: Path,
    labels: list[str] | None = None,
) -> None:
    """Draw a contact sheet: a block of rows for each test image, conditions across.

    Parameters
    ----------
    kind
        Name of the control.
    drawn
        With a label for each condition; without labels only `seen` is drawn.
    chosen
        int [r]: rows of `drawn`.
    seen
        dict of uint8 [r, S, S, 3]: columns before the conditions.
    out
        PNG.
    labels
        Of the rows; default: the image's number.
    """
    places: dict[tuple[str, str], int] = {}
    for place, label in enumerate(map(json.loads, drawn.labels)):
        places.setdefault((label["row"], label["column"]), place)  # the first partner
    lines = list(dict.fromkeys(row for row, _ in places)) or [""]
    heads = list(dict.fromkeys(column for _, column in places))
    columns: dict[str, list] = {name: [] for name in [*seen, *heads]}
    names = []
    for number, image in enumerate(chosen):
        base = labels[number] if labels else f"image {drawn.nsd_id[image]}"
        for rank, line in enumerate(lines):
            names.append("\n".join(filter(None, (base if rank == 0 else "", line))))
            for name, images in seen.items():
                columns[name].append(images[number] if rank == 0 else None)
            for head in heads:
                place = places.get((line, head))
                columns[head].append(None if place is None else drawn.read([image], place)[0])
    title = f"Subject {drawn.subject}: {CONTROLS[kind].title}{title_mark(drawn.data)}"
    with rc_context(STYLE):
        save_figure(image_grid(columns, names, title), out)


def draw_scores(frame: pd.DataFrame, out: Path) -> None:
    """Draw scores over conditions with intervals, and each one's range of wrong pairs in gray.

    Parameters
    ----------
    frame
        DataFrame: rows of one subject and one control.
    out
        PNG.
    """
    kind, subject, data = (frame[name].iloc[0] for name in ("control", "subject", "data"))
    titles = OF_TWO if CONTROLS[kind].of_two else {name: METRICS[name].title for name in TABLE_METRICS}
    shown = {name: title for name, title in titles.items() if name in set(frame["metric"])}
    columns = list(dict.fromkeys(frame["column"]))
    lines = list(dict.fromkeys(frame["row"].fillna("")))
    across = -(-len(shown) // 2)
    wide = max(3.2, 0.34 * len(columns) + 1.4) * across
    title = f"Subject {subject}: {CONTROLS[kind].title}{title_mark(data)}"
    with rc_context(STYLE):
        figure = Figure(figsize=(wide, 7.4), layout="constrained")
        panels = figure.subplots(2, across).ravel()
        for axes, (metric, name) in zip(panels, shown.items(), strict=False):
            part = frame[frame["metric"] == metric]
            for number, line in enumerate(lines):
                points = part[part["row"].fillna("") == line].set_index("column").reindex(columns)
                at = np.arange(len(columns)) + 0.12 * (number - (len(lines) - 1) / 2)
                colour = COLOURS[number % len(COLOURS)]
                errors = np.abs(points[["ci_low", "ci_high"]].to_numpy().T - points["value"].to_numpy())
                style = {"ls": "", "marker": "o", "ms": 4, "elinewidth": 1.2}
                axes.errorbar(at, points["value"], errors, color=colour, label=line or None, **style)
                if CONTROLS[kind].joined:
                    steps = ~points.index.isin(CONTROLS[kind].apart)
                    axes.plot(at[steps], points["value"][steps], color=colour, lw=1.2)
            chance = part.groupby("column").agg({"null_low": "min", "null_high": "max"}).reindex(columns)
            spans = chance["null_high"] - chance["null_low"]
            axes.bar(range(len(columns)), spans, 1.0, chance["null_low"], color=FAINT, alpha=0.18, lw=0)
            axes.set_xlim(-0.6, len(columns) - 0.4)
            axes.use_sticky_edges = False
            axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=8)
            axes.set_title(name)
        for axes in panels[len(shown) :]:
            axes.set_visible(False)
        if any(lines):
            handles = panels[0].get_legend_handles_labels()
            figure.legend(*handles, fontsize=8, loc="outside lower center", ncols=6)
        figure.suptitle(
            f"{textwrap.fill(title, int(wide * 10))}\n95 % intervals over {frame['n_images'].max()} images; gray: "
            "chance (wrong pairs or fair coins)",
            size=12,
        )
        save_figure(figure, out)
