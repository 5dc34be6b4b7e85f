"""The tidy table of scores and its page for the report. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from pathlib import Path

import pandas as pd

from neuropictor.evaluation.measures import LOWER_IS_BETTER, METRICS
from neuropictor.evaluation.pages import page, table
from neuropictor.runlog import atomic_path, record_path

COLUMNS = ("subject", "model", "metric", "value", "ci_low", "ci_high", "n_images", "data")

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
}

CONTROL_NAMES = {
    "seen": "true pictures themselves",
    "vae": "true pictures through the VAE",
    "text": "drawn from the true caption",
    "mean_colour": "mean colour of the true picture",
}


NOTHING = "&ndash;"
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


def title_mark(data: str) -> str:
    """What a title says about the data: " (SIMULATED data)", or nothing for NSD."""
    return " (SIMULATED data)" if data == "simulated" else ""


def count_test_pictures(frame: pd.DataFrame) -> str:
    """How many test pictures the subjects of a table have: "982", or "907 to 1000" where they differ."""
    counts = frame[frame["subject"] != "mean"].groupby("subject")["n_images"].max()
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"


def metric_table(metrics: Path, out: Path) -> None:
    """Write the page with all scores: the mean over subjects, each subject, and the controls of the run's record.

    Parameters
    ----------
    metrics : Path
        `metrics.csv`; `metrics.run.json` beside it, where there is one, adds controls, chance and paired differences.
    out : Path
        HTML page.
    """
    frame = read_metrics(metrics)
    data = "simulated" if (frame["data"] == "simulated").any() else str(frame["data"].iloc[0])
    subjects = [subject for subject in frame["subject"].unique() if subject != "mean"]
    body = [
        f"<h2>Mean over subjects {escape(', '.join(subjects))}</h2>",
        _score_table(frame[frame["subject"] == "mean"]),
    ]
    body.append(_explanation(frame))
    path = record_path(metrics)
    if path.is_file():
        results = json.loads(path.read_text(encoding="utf-8"))["results"]
        body += [_controls(results), _differences(results)]
    for subject in subjects:
        own = frame[frame["subject"] == subject]
        body += [f"<h2>Subject {escape(subject)}, {count_test_pictures(own)} test pictures</h2>", _score_table(own)]
    with atomic_path(out) as temporary:
        temporary.write_text(page("Reconstruction scores" + title_mark(data), "\n".join(body)), encoding="utf-8")


def _score_table(frame: pd.DataFrame) -> str:
    """Models down, metrics across; the best of the models proper in bold, intervals below."""
    metrics = [metric for metric in METRICS if metric in set(frame["metric"])]
    cells = frame.set_index(["model", "metric"])
    rows = []
    for model in order_models(frame["model"].unique()):
        row = [escape(MODEL_NAMES.get(model, model))]
        for metric in metrics:
            if (model, metric) not in cells.index:
                row.append(NOTHING)
                continue
            cell = cells.loc[(model, metric)]
            rivals = frame[(frame["metric"] == metric) & (frame["model"] != "null")]["value"]
            best = rivals.min() if metric in LOWER_IS_BETTER else rivals.max()
            value = f"{cell['value']:.3f}"
            value = f"<b>{value}</b>" if cell["value"] == best and model != "null" else value
            row.append(f"{value}<small>{cell['ci_low']:.3f} to {cell['ci_high']:.3f}</small>")
        rows.append(row)
    arrows = {metric: " ↓" if metric in LOWER_IS_BETTER else " ↑" for metric in metrics}
    return table(["model", *(METRIC_NAMES[metric] + arrows[metric] for metric in metrics)], rows)


def _explanation(frame: pd.DataFrame) -> str:
    images = int(frame["n_images"].max())
    count = count_test_pictures(frame)
    hard = frame.loc[frame["metric"] == "two_way_hard", "n_images"]
    left_out = images - int(hard.max()) if len(hard) else 0
    alone = f" ({left_out} pictures have no such distractor and are left out)" if left_out else ""
    return (
        f"<p>{count} test pictures that no training or selection saw. Small print: 95 % bootstrap intervals over "
        "pictures, resampled jointly for all subjects. PixCorr: correlation of pixels. SSIM: of gray pictures, "
        "Gaussian window. Two-way: share of other test pictures that resemble the reconstruction less than the seen "
        "picture does, in the image space of the backbone's CLIP (chance 0.5); hard: only among pictures with the "
        f"same kind of background{alone}. Distance: 1 - correlation in that space. Category: main object read off "
        "the picture by zero-shot classification. Null: refined reconstructions paired with wrong pictures.</p>"
    )


def _controls(results: dict) -> str:
    """What the backbone allows and what trivial solutions reach, beside the scores."""
    controls = results.get("controls", {})
    rows = [
        [escape(name), *(_number(controls[key].get(metric)) for metric in METRICS), str(controls[key]["n_images"])]
        for key, name in CONTROL_NAMES.items()
        if key in controls
    ]
    if not rows:
        return ""
    chance = [
        f"subject {escape(subject)} {values['two_way'][0]:.3f} to {values['two_way'][1]:.3f}"
        for subject, values in results.get("chance", {}).items()
    ]
    note = f"<p>Two-way by chance (random pairs, 95 %): {', '.join(chance)}.</p>" if chance else ""
    header = ["control", *(METRIC_NAMES[metric] for metric in METRICS), "pictures"]
    return "<h2>Ceilings and trivial solutions</h2>" + table(header, rows) + note


def _differences(results: dict) -> str:
    """Paired differences refined - other, with intervals; bold where the interval excludes zero."""
    rows = []
    for model, metrics in results.get("differences", {}).items():
        row = [escape(f"refined - {MODEL_NAMES.get(model, model)}")]
        for metric in METRICS:
            value, low, high = metrics.get(metric, (None, None, None))
            if value is None:
                row.append(NOTHING)
                continue
            text = f"<b>{value:+.3f}</b>" if low > 0 or high < 0 else f"{value:+.3f}"
            row.append(f"{text}<small>{low:+.3f} to {high:+.3f}</small>")
        rows.append(row)
    if not rows:
        return ""
    header = ["paired difference", *(METRIC_NAMES[metric] for metric in METRICS)]
    return "<h2>Refined against the others, mean over subjects</h2>" + table(header, rows)


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:z.3f}"


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
    mean = frame[frame["subject"] == "mean"]
    names = [metric for metric in METRICS if metric in set(mean["metric"])]
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
