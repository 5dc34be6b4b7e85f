"""The pages of scores in the report: models against each other, tests, ceilings. Loads no torch."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

import pandas as pd

from neuropictor.evaluation.measures import FURTHER_METRICS, LOWER_IS_BETTER, METRICS, RETRIEVAL_POOL
from neuropictor.evaluation.protocols import OURS, PUBLISHED_METRICS
from neuropictor.evaluation.significance import ABOVE_CHANCE, DIFFERENCE, read_tests
from neuropictor.evaluation.tables import (
    METRIC_NAMES,
    MODEL_NAMES,
    count_test_pictures,
    metrics_of,
    order_models,
    read_metrics,
    title_mark,
)
from neuropictor.records.checksums import verify
from neuropictor.records.files import atomic_path
from neuropictor.records.record import record_path
from neuropictor.report.pages import page, table

CONTROL_NAMES = {
    "seen": "true pictures themselves",
    "vae": "true pictures through the VAE",
    "text": "drawn from the true caption",
    "mean_colour": "mean colour of the true picture",
}


NOTHING = "&ndash;"


def metric_table(metrics: Path, out: Path, release: str = "") -> None:
    """Write the page with all scores: the mean over subjects, each subject, and the controls of the run's record.

    Parameters
    ----------
    metrics : Path
        `metrics.csv`; `metrics.run.json` beside it, where there is one, adds the judge and controls.
    out : Path
        HTML page.
    release : str
        Which sessions of NSD count, see `neuropictor.nsd.constants.describe_release`.
    """
    verify(metrics)
    frame = read_metrics(metrics)
    data = "simulated" if (frame["data"] == "simulated").any() else str(frame["data"].iloc[0])
    subjects = [subject for subject in frame["subject"].unique() if subject != "mean"]
    path = record_path(metrics)
    results = json.loads(path.read_text(encoding="utf-8"))["results"] if path.is_file() else {}
    body = [f"<p>{judged_by(frame, results)} {escape(release)}</p>"]
    for subject in ("mean", *subjects):
        own = frame[frame["subject"] == subject]
        count = f", {count_test_pictures(own)} test pictures" if subject != "mean" else ""
        name = f"Subject {subject}{count}" if subject != "mean" else f"Mean over subjects {', '.join(subjects)}"
        body.append(f"<h2>{escape(name)}</h2>")
        for protocol in own["protocol"].unique():
            part = own[own["protocol"] == protocol]
            if protocol == OURS:
                body += [score_table(part, METRICS), score_table(part, FURTHER_METRICS)]
            else:
                body += [f"<p>Protocol {escape(protocol)}:</p>", score_table(part, PUBLISHED_METRICS)]
        if subject == "mean":
            body += [explanation(frame[frame["protocol"] == OURS]), _controls(results)]
    with atomic_path(out) as temporary:
        temporary.write_text(page("Reconstruction scores" + title_mark(data), "\n".join(body)), encoding="utf-8")


def judged_by(frame: pd.DataFrame, results: dict) -> str:
    """Say whose eyes the scores are seen through."""
    judge = escape(str(results.get("judge", "the backbone")))
    if (frame["networks"] == "miniature").any():
        return (
            f"Protocol {escape(OURS)}, judged by the image tower of {judge}: <b>not comparable with published scores"
            "</b>, which AlexNet, Inception, CLIP ViT-L/14, EfficientNet and SwAV give (evaluate.networks: published)."
        )
    return f"Protocol {escape(OURS)} is judged by {judge}; definitions: docs/metrics.md."


def score_table(frame: pd.DataFrame, wanted: tuple[str, ...]) -> str:
    """Models down, metrics across; the best of the models proper in bold, intervals below. Empty without metrics."""
    metrics = metrics_of(frame, wanted)
    if not metrics:
        return ""
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
    return table(["model", *map(with_arrow, metrics)], rows)


def with_arrow(metric: str) -> str:
    """A score's name with the direction of better."""
    return METRIC_NAMES.get(metric, metric) + (
        "\N{NO-BREAK SPACE}↓" if metric in LOWER_IS_BETTER else "\N{NO-BREAK SPACE}↑"
    )


def _left_out(frame: pd.DataFrame, metric: str) -> str:
    found = frame.loc[frame["metric"] == metric, "n_images"]
    missing = int(frame["n_images"].max()) - int(found.max()) if len(found) else 0
    return f" ({missing} pictures have no such distractor and are left out)" if missing else ""


def explanation(frame: pd.DataFrame) -> str:
    """What the scores of the protocol `ours` are."""
    count = count_test_pictures(frame)
    pool = min(RETRIEVAL_POOL, int(frame["n_images"].max()))
    return (
        f"<p>{count} test pictures that no training or selection saw. Small print: 95 % bootstrap intervals over "
        "pictures, resampled jointly for all subjects. PixCorr: correlation of pixels. SSIM: of gray pictures, "
        "Gaussian window. Two-way: share of other test pictures that resemble the reconstruction less than the seen "
        "picture does, in the judge's image space (chance 0.5); hard: only among pictures with the "
        f"same kind of background{_left_out(frame, 'two_way_hard')}; same category: only among pictures of the same "
        f"category{_left_out(frame, 'two_way_category')}, where knowing the category alone gives 0.5. "
        "Distance: 1 - correlation in that space; similarity: cosine. Category: main object read off the picture by "
        f"zero-shot classification. Image from brain: share of pictures that are nearest to their reconstruction among "
        f"{pool}; brain from image: the other way round (chance 1/{pool}). Null: refined reconstructions paired with "
        "wrong pictures.</p>"
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
    header = ["control", *(METRIC_NAMES[metric] for metric in METRICS), "pictures"]
    return "<h2>Ceilings and trivial solutions</h2>" + table(header, rows)


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:z.3f}"


def statistics_table(statistics: Path, out: Path) -> None:
    """Write the page with all tests.

    Parameters
    ----------
    statistics : Path
        `statistics.csv`.
    out : Path
        HTML page.
    """
    frame = read_tests(statistics)
    data = "simulated" if (frame["data"] == "simulated").any() else "".join(frame["data"].unique()[:1])
    body = [
        "<p>Above chance: the score, the 95 % interval in which it stays when reconstructions and seen pictures are"
        " paired at random, and how often chance reaches it. Differences: paired by picture, with the 95 % bootstrap"
        " interval, and p by random changes of sign, a picture's for all subjects together. All p values are corrected"
        " by Holm's method for all tests of the same kind in this table; bold: below 0.05.</p>"
    ]
    body += tests_of_frame(frame)
    with atomic_path(out) as temporary:
        temporary.write_text(page("Tests of the scores" + title_mark(data), "\n".join(body)), encoding="utf-8")


def tests_of_frame(frame: pd.DataFrame) -> list[str]:
    """Tables of tests, one for each protocol, kind of test and subject."""
    body = []
    for protocol in frame["protocol"].unique():
        for test, title in ((ABOVE_CHANCE, "Above chance"), (DIFFERENCE, "Differences between models")):
            part = frame[(frame["protocol"] == protocol) & (frame["test"] == test)]
            if not len(part):
                continue
            body.append(f"<h2>{title}, protocol {escape(protocol)}: {len(part)} tests</h2>")
            subjects = [name for name in part["subject"].unique() if name != "mean"]
            for subject in ("mean", *subjects) if "mean" in set(part["subject"]) else subjects:
                own = part[part["subject"] == subject]
                who = f"subject {subject}" if subject != "mean" else f"mean over subjects {', '.join(subjects)}"
                pictures = int(own["n_images"].max())
                body += [f"<p>{escape(who.capitalize())}, {pictures} pictures</p>", _tests(own, test == DIFFERENCE)]
    return body


def _tests(frame: pd.DataFrame, different: bool) -> str:
    """Models down, scores across: value, interval, corrected p."""
    metrics = [metric for metric in METRIC_NAMES if metric in set(frame["metric"])]
    label = "other" if different else "model"
    cells = frame.set_index([label, "metric"])
    rows = []
    for model in order_models(frame[label].unique()):
        name = MODEL_NAMES.get(model, model)
        first = MODEL_NAMES.get(frame["model"].iloc[0], frame["model"].iloc[0])
        row = [escape(f"{first} - {name}" if different else name)]
        for metric in metrics:
            if (model, metric) not in cells.index:
                row.append(NOTHING)
                continue
            cell = cells.loc[(model, metric)]
            sign = "+" if different else ""
            value = f"{cell['value']:{sign}z.3f}"
            value = f"<b>{value}</b>" if cell["p_corrected"] < 0.05 else value
            interval = f"{cell['low']:{sign}z.3f} to {cell['high']:{sign}z.3f}"
            row.append(f"{value}<small>{interval}</small><small>{p_text(cell['p_corrected'])}</small>")
        rows.append(row)
    header = ["difference" if different else "model", *(METRIC_NAMES[metric] for metric in metrics)]
    return table(header, rows)


def p_text(p: float) -> str:
    """Write a p value."""
    return "p &lt; 0.001" if p < 0.001 else f"p = {p:.3f}"
