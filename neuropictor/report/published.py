"""Published results by test set and protocol; this run beside them only where it can be compared. Loads no torch."""

from __future__ import annotations

from html import escape
from pathlib import Path

import pandas as pd

from neuropictor.evaluation.protocols import DISTANCES, OURS, PROTOCOLS, PUBLISHED_METRICS
from neuropictor.evaluation.tables import MODEL_NAMES, count_test_pictures, order_models, read_metrics, title_mark
from neuropictor.records.files import atomic_path
from neuropictor.report.pages import page, table
from neuropictor.report.scores import score_table, with_arrow

PUBLISHED = Path(__file__).with_name("published_results.csv")
"""Results as their sources print them: two-way identification in per cent, distances and correlations as numbers."""
METRICS = tuple(metric for metric in PUBLISHED_METRICS if metric != "ssim_columns")
SUBJECTS = ("1", "2", "5", "7")
"""Published numbers are the mean of these subjects of NSD."""
TEST_SETS = {
    982: "982 pictures, release of 37 sessions",
    1000: "1,000 pictures, all 40 sessions",
    0: "test set not stated",
}
_IN_PERCENT = frozenset(METRICS) - DISTANCES - {"pixcorr", "ssim"}


def read_published(path: Path = PUBLISHED) -> pd.DataFrame:
    """Read published results; `test_images` is 0 where the source does not tell."""
    frame = pd.read_csv(path, dtype={"subjects": str})
    return frame.assign(test_images=frame["test_images"].fillna(0).astype(int))


def reasons_against(frame: pd.DataFrame) -> list[str]:
    """Say why a run cannot stand beside published results; empty if it can.

    Parameters
    ----------
    frame : DataFrame
        As `read_metrics` reads it.
    """
    found = []
    data = set(frame["data"])
    if "simulated" in data:
        found.append("The data are simulated: rendered scenes and simulated brains. Published results are of people.")
    elif data != {"nsd"}:
        found.append("The pictures are not those of NSD, on which published results were measured.")
    if set(frame["networks"]) != {"published"}:
        found.append(
            "Pictures are judged by the miniature's image tower; published results by AlexNet, Inception-v3, CLIP"
            " ViT-L/14,"
            " EfficientNet-B1 and SwAV (evaluate.networks: published)."
        )
    labels = {protocol.label for protocol in PROTOCOLS.values()}
    if not labels & set(frame["protocol"]):
        found.append(
            f"Scores follow the protocol {OURS} only; published ones {' or '.join(sorted(labels))}"
            f" (evaluate.protocols)."
        )
    subjects = sorted(set(frame["subject"]) - {"mean"})
    if tuple(subjects) != SUBJECTS:
        found.append(f"Subjects are {', '.join(subjects)}; published results are the mean of {', '.join(SUBJECTS)}.")
    own = frame[(frame["subject"] != "mean") & (frame["metric"] == "pixcorr") & (frame["model"] != "null")]
    counts = set(own["n_images"].astype(int))
    if len(counts) != 1 or not counts <= set(TEST_SETS):
        found.append(
            f"There are {count_test_pictures(frame)} test pictures; published test sets have 982 or 1,000, the same for"
            " every subject (nsd.release)."
        )
    return found


def published_table(metrics: Path, out: Path) -> None:
    """Write the page: one table for each test set; this run in its own, or apart, with the reasons.

    Parameters
    ----------
    metrics : Path
        `metrics.csv`.
    out : Path
        HTML page.
    """
    frame, published = read_metrics(metrics), read_published()
    reasons = reasons_against(frame)
    data = "simulated" if (frame["data"] == "simulated").any() else str(frame["data"].iloc[0])
    mean = frame[(frame["subject"] == "mean") & (frame["model"] != "null")]
    body = []
    own_set = int(mean["n_images"].max())
    if reasons:
        body.append("<h2>This run is not comparable with published results</h2>")
        body.append("<ul>" + "".join(f"<li>{escape(reason)}</li>" for reason in reasons) + "</ul>")
        for protocol in mean["protocol"].unique():
            part = mean[mean["protocol"] == protocol]
            wanted = tuple(part["metric"].unique()[:6]) if protocol == OURS else PUBLISHED_METRICS
            name = f"<p>Its own scores, protocol {escape(protocol)}, mean over subjects:</p>"
            body.append(name + score_table(part, wanted))
    for number, name in TEST_SETS.items():
        part = published[published["test_images"] == number]
        rows = [_published_row(row) for _, row in part.iterrows()]
        if not reasons and number == own_set:
            rows += _own_rows(mean)
        header = ["method", *map(with_arrow, METRICS), "protocol", "source"]
        body.append(f"<h2>Published on NSD: {escape(name)}</h2>{table(header, rows)}")
    body.append(
        "<p>Mean of subjects 1, 2, 5 and 7; two-way identification in per cent, chance 50. Numbers of different test"
        " sets"
        " or protocols are not comparable, and those of one protocol only as far as everybody's libraries agree"
        " (docs/metrics.md).</p>"
    )
    title = "Published results" + (f", and why this run stands apart{title_mark(data)}" if reasons else " and this run")
    with atomic_path(out) as temporary:
        temporary.write_text(page(title, "\n".join(body)), encoding="utf-8")


def _published_row(row: pd.Series) -> list[str]:
    cells = [f"{row[metric]:.1f}" if metric in _IN_PERCENT else f"{row[metric]:.3f}" for metric in METRICS]
    return [escape(row["method"]), *cells, escape(row["protocol"]), escape(row["source"])]


def _own_rows(mean: pd.DataFrame) -> list[list[str]]:
    """Rows of this run, one for each model and published protocol."""
    rows = []
    for protocol in PROTOCOLS.values():
        cells = mean[mean["protocol"] == protocol.label].set_index(["model", "metric"])
        for model in order_models(cells.index.get_level_values(0).unique()):
            values = []
            for metric in METRICS:
                cell = cells.loc[(model, metric)]
                scale, digits = (100, 1) if metric in _IN_PERCENT else (1, 3)
                low, high = scale * cell["ci_low"], scale * cell["ci_high"]
                value = f"<b>{scale * cell['value']:.{digits}f}</b>"
                values.append(f"{value}<small>{low:.{digits}f} to {high:.{digits}f}</small>")
            name = escape(MODEL_NAMES.get(model, model))
            rows.append([f"<b>this run: {name}</b>", *values, escape(protocol.label), "this run"])
    return rows
