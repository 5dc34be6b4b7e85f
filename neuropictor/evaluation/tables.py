"""The models, the tables of scores and tests as files, and the README's table. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from neuropictor.config.types import subject_label
from neuropictor.data.origin import joined_label, title_mark
from neuropictor.evaluation.metrics import METRICS, shown_in
from neuropictor.evaluation.protocols import OURS
from neuropictor.records.files import atomic_path

METRIC_COLUMNS = (
    *("subject", "model", "metric", "value", "ci_low", "ci_high", "n_images", "data", "protocol", "networks"),
)
SCORE_COLUMNS = ("protocol", "subject", "model", "nsd_id")
"""Columns of `scores.csv` before those of the scores: subject, model and image."""
SCORES, STATISTICS = "scores.csv", "statistics.csv"
"""Names of the tables beside `metrics.csv`: scores of every image, and tests."""
GROUP, ALL = "group", "all"
"""Column of tables by groups of images, and the group of all."""
NOT_SCORED = ("C",)
"""Kinds of images without true ones: set C of NSD-Imagery was imagined from words."""
TEST_COLUMNS = (
    *("test", "protocol", "subject", "model", "other", "metric"),
    *("value", "low", "high", "p", "p_corrected", "n_images", "data"),
)


@dataclass(frozen=True)
class Model:
    """Origin of images: one of our networks, a baseline, a ceiling made of the seen images, or wrong pairs."""

    name: str
    title: str
    kind: Literal["network", "baseline", "ceiling", "null"]


MODELS = {
    model.name: model
    for model in (
        Model("refined", "refined", "network"),
        Model("pretrained", "pretrained only", "network"),
        Model("adapted", "adapted, no training", "network"),
        Model("ridge_diffusion", "ridge + diffusion", "baseline"),
        Model("ridge", "ridge", "baseline"),
        Model("nearest", "nearest training image by response", "baseline"),
        Model("mean_image", "mean training image", "baseline"),
        Model("null", "null (wrong pairs)", "null"),
        Model("seen", "true images themselves", "ceiling"),
        Model("vae", "true images through the VAE", "ceiling"),
        Model("true_features", "drawn from true latents and texts", "ceiling"),
        Model("text", "drawn from the true caption", "ceiling"),
        Model("mean_colour", "mean colour of the true image", "ceiling"),
    )
}
"""All models in the order of tables and figures; `evaluation.baselines` and `evaluation.evaluate` make most of them."""

FITTED = ("ridge_diffusion", "ridge", "nearest", "mean_image", "true_features")
"""Models that `evaluation.baselines.fit_baselines` draws, in files of their own."""

README_MARKERS = ("<!-- metrics:begin -->", "<!-- metrics:end -->")


def of_kind(kind: str) -> list[str]:
    """Names of the models of a kind, in order."""
    return [name for name, model in MODELS.items() if model.kind == kind]


def model_title(name: str) -> str:
    """Title of a model; that of other people's models is their name."""
    return MODELS[name].title if name in MODELS else name.replace("_", " ")


def order_models(models: Iterable[str]) -> list[str]:
    """Each model once, in the order of `MODELS`, unknown ones last."""
    places = {model: place for place, model in enumerate(MODELS)}
    return sorted(set(models), key=lambda model: (places.get(model, len(places)), model))


def without_ceilings(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of the models proper."""
    return frame[~frame["model"].isin(of_kind("ceiling"))]


def write_table(table: pd.DataFrame | list[dict], columns: Iterable[str], out: Path) -> None:
    """Write a table as CSV; numbers have six decimals, so that equal runs give equal bytes."""
    with atomic_path(out) as temporary:
        pd.DataFrame(table, columns=list(columns)).to_csv(
            temporary, index=False, float_format="%.6f", lineterminator="\n"
        )


def _read(path: Path, columns: tuple[str, ...], empty: list | dict) -> pd.DataFrame:
    """Read a table. The model called "null" is a name here: pandas' own default would read it as a missing value."""
    frame = pd.read_csv(path, dtype={"subject": str, "nsd_id": str, GROUP: str}, keep_default_na=False, na_values=empty)
    missing = [name for name in columns if name not in frame]
    if missing:
        raise ValueError(f"{path}: columns {', '.join(missing)} missing, found {list(frame)}; needed: {list(columns)}")
    return frame.assign(subject=frame["subject"].map(subject_label))


def read_metrics(path: Path) -> pd.DataFrame:
    """Read `metrics.csv`; ValueError names columns that are missing."""
    return _read(path, METRIC_COLUMNS, [""])


def read_scores(path: Path) -> pd.DataFrame:
    """Read `scores.csv`; ValueError names columns that are missing."""
    return _read(path, SCORE_COLUMNS, [""])


def read_tests(path: Path) -> pd.DataFrame:
    """Read `statistics.csv`; ValueError names columns that are missing."""
    return _read(path, TEST_COLUMNS, {"value": [""], "p": [""]})


def count_test_images(frame: pd.DataFrame) -> str:
    """Number of test images of a table's subjects: "982", or "907 to 1000" where they differ."""
    counts = frame[frame["subject"] != "mean"].groupby("subject")["n_images"].max()
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"


def fill_readme(metrics: Path, readme: Path) -> None:
    """Put the scores, mean over subjects, between the markers of a Markdown file, so that no number is copied by hand.

    Parameters
    ----------
    metrics
        `metrics.csv`.
    readme
        File with the lines of `README_MARKERS`; what stands between them is replaced.
    """
    frame = without_ceilings(read_metrics(metrics))
    frame = frame[frame["protocol"] == OURS]
    mean = frame[frame["subject"] == "mean"]
    names = shown_in("main", mean["metric"])
    header = ["model", *(f"{METRICS[name].title} {METRICS[name].arrow}" for name in names)]
    lines = [header, ["---"] * len(header)]
    cells = {(row.model, row.metric): row for row in mean.itertuples()}
    for model in order_models(mean["model"]):
        row = [cells.get((model, name)) for name in names]
        scores = [
            "-" if cell is None else f"{cell.value:.3f} ({cell.ci_low:.3f} to {cell.ci_high:.3f})" for cell in row
        ]
        lines.append([model_title(model), *scores])
    subjects = ", ".join(subject for subject in frame["subject"].unique() if subject != "mean")
    title = (
        f"Mean over subjects {subjects}, {count_test_images(frame)} test images each, 95 % intervals"
        f"{title_mark(joined_label(mean['data']))}:"
    )
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    text = readme.read_text(encoding="utf-8")
    start, end = README_MARKERS
    if start not in text or end not in text:
        raise ValueError(f"{readme}: the lines {start} and {end} are needed, the table goes between them")
    before, after = text[: text.index(start) + len(start)], text[text.index(end) :]
    with atomic_path(readme) as temporary:
        temporary.write_text(f"{before}\n{title}\n\n{table}\n{after}", encoding="utf-8")
