"""The tidy tables of scores, of models and of single pictures, and their names. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from neuropictor.evaluation.measures import FURTHER_METRICS, LOWER_IS_BETTER, METRICS
from neuropictor.evaluation.protocols import OURS
from neuropictor.records.files import atomic_path

COLUMNS = (
    "subject",
    "model",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "n_images",
    "data",
    "protocol",
    "networks",
)
KEYS = ("protocol", "subject", "model", "nsd_id")
"""Columns of `scores.csv` before those of the scores: whose, by which model, of which picture."""

MODEL_NAMES = {
    "refined": "refined",
    "pretrained": "pretrained only",
    "ridge_diffusion": "ridge + diffusion",
    "ridge": "ridge",
    "mean_picture": "mean training picture",
    "null": "null (wrong pairs)",
}
"""Models in the order of tables and figures, with the names shown there."""

METRIC_NAMES = {
    "pixcorr": "PixCorr",
    "ssim": "SSIM",
    "two_way": "two-way",
    "two_way_hard": "two-way, hard",
    "distance": "distance",
    "category": "category",
    "two_way_category": "two-way, same category",
    "retrieval_image": "image from brain",
    "retrieval_brain": "brain from image",
    "similarity": "similarity",
    "lpips": "LPIPS",
    "ssim_columns": "SSIM, by column",
    "alexnet_2": "AlexNet(2)",
    "alexnet_5": "AlexNet(5)",
    "inception": "Inception",
    "clip": "CLIP",
    "effnet": "EffNet-B1",
    "swav": "SwAV",
}
"""Scores in the order of tables."""

README_MARKERS = ("<!-- metrics:begin -->", "<!-- metrics:end -->")


def order_models(models: Iterable[str]) -> list[str]:
    """Sort models into the order of `MODEL_NAMES`, unknown ones last."""
    places = {model: place for place, model in enumerate(MODEL_NAMES)}
    return sorted(models, key=lambda model: (places.get(model, len(places)), model))


def write_metrics(rows: list[dict], out: Path) -> None:
    """Write the tidy table; numbers have six decimals, so that equal runs give equal bytes."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    with atomic_path(out) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.6f", lineterminator="\n")


def read_metrics(path: Path) -> pd.DataFrame:
    """Read the tidy table; ValueError names columns that are missing.

    The model called "null" is a name here: pandas' own default would read it as a missing value.
    """
    frame = pd.read_csv(path, dtype={"subject": str}, keep_default_na=False, na_values=[""])
    missing = [name for name in COLUMNS if name not in frame]
    if missing:
        raise ValueError(f"{path}: columns {', '.join(missing)} missing, found {list(frame)}; needed: {list(COLUMNS)}")
    return frame


def write_scores(
    scores: dict[str, dict[str, dict[str, np.ndarray]]], subjects: list[str], nsd_ids: np.ndarray, out: Path
) -> None:
    """Write the scores of every picture: a row for each protocol, subject, model and picture, a column for each score.

    Parameters
    ----------
    scores : dict
        `scores[protocol][model][metric]`, float [subjects, N].
    subjects : list of str
    nsd_ids : array [N]
        Picture numbers, or names.
    out : Path
        CSV; a score that a picture does not have is empty.
    """
    frames = []
    for protocol, models in scores.items():
        for model, metrics in models.items():
            for row, subject in enumerate(subjects):
                values = {metric: table[row] for metric, table in metrics.items()}
                seen = np.isfinite(np.stack(list(values.values()))).any(0)
                keys = {"protocol": protocol, "subject": subject, "model": model, "nsd_id": nsd_ids[seen]}
                frames.append(pd.DataFrame(keys | {metric: column[seen] for metric, column in values.items()}))
    frame = pd.concat(frames, ignore_index=True)
    names = [metric for metric in METRIC_NAMES if metric in frame and frame[metric].notna().any()]
    names += [name for name in frame if name not in (*KEYS, *METRIC_NAMES)]
    with atomic_path(out) as temporary:
        frame[[*KEYS, *names]].to_csv(temporary, index=False, float_format="%.6f", lineterminator="\n")


def read_scores(path: Path) -> pd.DataFrame:
    """Read the scores of every picture; ValueError names columns that are missing."""
    frame = pd.read_csv(path, dtype={"subject": str, "nsd_id": str}, keep_default_na=False, na_values=[""])
    missing = [name for name in KEYS if name not in frame]
    if missing:
        raise ValueError(f"{path}: columns {', '.join(missing)} missing, found {list(frame)}; needed: {list(KEYS)}")
    return frame


def metrics_of(frame: pd.DataFrame, wanted: tuple[str, ...] = (*METRICS, *FURTHER_METRICS)) -> list[str]:
    """Which of some scores a table has, in order."""
    return [metric for metric in wanted if metric in set(frame["metric"])]


def title_mark(data: str) -> str:
    """What a title says about the data: " (SIMULATED data)", or nothing for NSD."""
    return " (SIMULATED data)" if data == "simulated" else ""


def count_test_pictures(frame: pd.DataFrame) -> str:
    """How many test pictures the subjects of a table have: "982", or "907 to 1000" where they differ."""
    counts = frame[frame["subject"] != "mean"].groupby("subject")["n_images"].max()
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"


def fill_readme(metrics: Path, readme: Path) -> None:
    """Put the scores, mean over subjects, between the markers of a Markdown file: nobody copies numbers by hand.

    Parameters
    ----------
    metrics : Path
        `metrics.csv`.
    readme : Path
        File with the lines of `README_MARKERS`; what stands between them is replaced.
    """
    frame = read_metrics(metrics)
    frame = frame[frame["protocol"] == OURS]
    mean = frame[frame["subject"] == "mean"]
    names = metrics_of(mean, METRICS)
    header = ["model", *(f"{METRIC_NAMES[metric]} {'↓' if metric in LOWER_IS_BETTER else '↑'}" for metric in names)]
    lines = [" | ".join(header), " | ".join(["---"] * len(header))]
    cells = mean.set_index(["model", "metric"])
    for model in order_models(mean["model"].unique()):
        found = [cells.loc[(model, metric)] if (model, metric) in cells.index else None for metric in names]
        scores = [
            "-" if cell is None else f"{cell['value']:.3f} ({cell['ci_low']:.3f} to {cell['ci_high']:.3f})"
            for cell in found
        ]
        lines.append(" | ".join([MODEL_NAMES.get(model, model), *scores]))
    subjects = ", ".join(subject for subject in frame["subject"].unique() if subject != "mean")
    title = (
        f"Mean over subjects {subjects}, {count_test_pictures(frame)} test pictures each, 95 % intervals"
        f"{title_mark(str(mean['data'].iloc[0]))}:"
    )
    table_lines = "\n".join(f"| {line} |" for line in lines)
    text = readme.read_text(encoding="utf-8")
    start, end = README_MARKERS
    if start not in text or end not in text:
        raise ValueError(f"{readme}: the lines {start} and {end} are needed, the table goes between them")
    before, after = text[: text.index(start) + len(start)], text[text.index(end) :]
    with atomic_path(readme) as temporary:
        temporary.write_text(f"{before}\n{title}\n\n{table_lines}\n{after}", encoding="utf-8")
