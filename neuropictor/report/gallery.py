"""The gallery: one HTML page, without server or network, to browse every test image with all its reconstructions.

Images are embedded as sheets of thumbnails (WebP), one of the seen images and one of each subject and model or
control, which the page takes apart when it shows them. Loads no torch.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from neuropictor.config.types import Subject
from neuropictor.data.origin import joined_label, origin_of, title_mark
from neuropictor.data.reconstructions import StoredReconstructions
from neuropictor.data.rows import evenly_spaced
from neuropictor.data.stimuli import StimulusStore
from neuropictor.evaluation.judges import Seen, reduced
from neuropictor.evaluation.metrics import METRICS, metric_title
from neuropictor.evaluation.protocols import OURS
from neuropictor.evaluation.tables import SCORE_COLUMNS, model_title, order_models, read_scores
from neuropictor.records.progress import progress
from neuropictor.report.pages import write_page

MOST_PIXELS = 160_000_000
"""Of all thumbnails together: for 982 images, 4 subjects and 5 models they get 88 pixels a side and 20 to 40 MB."""
LARGEST, SMALLEST = 128, 48
"""Sides of thumbnails in pixels."""
MOST_CONDITIONS = 24
"""Of one control: `semantic_swap` may have hundreds of partners."""
MOST_TILES = 12_000
"""Of all controls together, so that they leave at least half of the page's pixels to the models of a run on NSD."""
_LEAST_COLUMNS = 40
"""Of a sheet; large ones have more, as many as rows: a WebP image has at most 16,383 pixels a side."""
_QUALITY = {True: 90, False: 75}
"""WebP quality of full-size images, and of reduced ones."""


def gallery(
    samples: dict[Subject, dict[str, Path]],
    stimuli: Sequence[Path],
    scores: Sequence[Path],
    out: Path,
    controls: Mapping[Subject, Mapping[str, Path]] | None = None,
) -> None:
    """Write the page.

    Parameters
    ----------
    samples
        dict of dict of Path: `samples[subject][model]`: files of reconstructions; models may have any name.
    stimuli
        Prepared images of the subjects.
    scores
        Tables of the form of `scores.csv`; a model or control that has none is shown without scores.
    out
        HTML page, which needs no other file.
    controls
        mapping of mapping of Path: `controls[subject][kind]`: files of stage control, of any of the subjects.

    Raises
    ------
    ValueError
        If a file is of another subject than it was given as, or one of `controls` is not of a control.
    """
    files = _opened(samples)
    store = StimulusStore(*stimuli)
    ids = {
        subject: np.unique(np.concatenate([item.nsd_id for item in models.values()]))
        for subject, models in files.items()
    }
    everyone = np.unique(np.concatenate(list(ids.values())))
    drawn = read_controls(controls or {}, ids)
    side = thumbnail_side(store.size, len(everyone), files, sum(item.tiles for part in drawn.values() for item in part))
    data = {
        "tile": side,
        "metrics": [],
        "models": [
            {"key": model, "name": model_title(model)}
            for model in order_models({model for models in files.values() for model in models})
        ],
        "subjects": [
            {"name": subject, "images": np.searchsorted(everyone, numbers).tolist()} for subject, numbers in ids.items()
        ],
        "images": {
            "id": everyone.tolist(),
            "category": store.category(everyone).tolist(),
            "background": store.background(everyone).tolist(),
            "caption": [captions[0] if captions else "" for captions in store.captions(everyone)],
        },
        "controls": {subject: [item.described(ids[subject]) for item in part] for subject, part in drawn.items()},
        "sprites": {},
        "scores": {},
    }
    _add_scores(data, scores, {subject: numbers for subject, numbers in ids.items()})
    sheets: dict[str, bytes] = {}
    seen = reduced(Seen(store, everyone), np.arange(len(everyone)), side)
    _add_sheet(data, sheets, "seen", seen[:, None], store.size)
    pairs = [(subject, model) for subject, models in files.items() for model in models]
    for subject, model in progress(pairs, "Reducing images", unit="model"):
        item = files[subject][model]
        _add_sheet(data, sheets, f"{subject}/{model}", _aligned(item, ids[subject], side), item.shape[2])
    shown = [(subject, item) for subject, part in drawn.items() for item in part]
    for subject, item in progress(shown, "Reducing images of controls", unit="control"):
        _add_sheet(data, sheets, f"{subject}/control/{item.kind}", item.reduced(side), item.file.shape[2])
    label = joined_label(item.data for models in files.values() for item in models.values())
    title, note = "Seen images and reconstructions" + title_mark(label), _note(data, label, drawn)
    texts = {name: base64.b64encode(content).decode() for name, content in sheets.items()}
    write_page("gallery.html", out, title, note=note, data=data, sheets=texts)


def _opened(samples: dict[str, dict[str, Path]]) -> dict[str, dict[str, StoredReconstructions]]:
    files = {
        subject: {model: StoredReconstructions(path) for model, path in models.items()}
        for subject, models in samples.items()
    }
    for subject, models in files.items():
        for model, item in models.items():
            if item.subject != subject:
                raise ValueError(
                    f"{samples[subject][model]}: is of subject {item.subject}, but was given as subject {subject}'s"
                )
    return files


def thumbnail_side(
    size: int, seen: int, files: dict[str, dict[str, StoredReconstructions]], of_controls: int = 0
) -> int:
    """Side of the thumbnails in pixels: the images' own, unless they are large or many."""
    tiles = seen + of_controls
    tiles += sum(item.shape[0] * item.shape[1] for models in files.values() for item in models.values())
    most = int(np.sqrt(MOST_PIXELS / tiles)) // 8 * 8
    return min(size, LARGEST, max(SMALLEST, most))


def _aligned(item: StoredReconstructions, ids: np.ndarray, side: int) -> np.ndarray:
    """Reduced samples in the order of `ids`, uint8 [n, K, side, side, 3]; black where a model has no image."""
    small = np.zeros((len(ids), item.samples, side, side, 3), np.uint8)
    for sample in range(item.samples):
        small[np.searchsorted(ids, item.nsd_id), sample] = reduced(item, np.arange(len(item)), side, sample)
    return small


def _add_sheet(data: dict, sheets: dict[str, bytes], name: str, images: np.ndarray, size: int) -> None:
    """Lay reduced images uint8 [n, K, s, s, 3] out row by row as one WebP image; `size` was their side before."""
    samples, side = images.shape[1:3]
    small = images.reshape(-1, side, side, 3)
    columns = max(_LEAST_COLUMNS, int(np.ceil(np.sqrt(len(small)))))
    rows = -(-len(small) // columns)
    canvas = np.zeros((rows * columns, side, side, 3), np.uint8)
    canvas[: len(small)] = small
    laid = canvas.reshape(rows, columns, side, side, 3).swapaxes(1, 2).reshape(rows * side, -1, 3)
    file = io.BytesIO()
    Image.fromarray(laid).save(file, "WEBP", quality=_QUALITY[size <= side], method=4)
    sheets[name] = file.getvalue()
    data["sprites"][name] = {"columns": columns, "samples": samples}


def _add_scores(data: dict, tables: Sequence[Path], ids: dict[str, np.ndarray]) -> None:
    """Add the scores of all tables, aligned with each subject's images; published protocols keep their name."""
    columns: dict[str, str] = {}
    frames = [read_scores(path) for path in tables]
    for frame in frames:
        for (protocol, subject, model), part in frame.groupby(["protocol", "subject", "model"], sort=False):
            if subject not in ids or model not in {item["key"] for item in data["models"]}:
                continue
            numbers = part["nsd_id"].astype(np.int64).to_numpy()
            kept = np.isin(numbers, ids[subject])
            rows = np.searchsorted(ids[subject], numbers[kept])
            for metric in part.columns.drop(list(SCORE_COLUMNS)):
                values = pd.to_numeric(part[metric]).to_numpy()[kept]
                if not np.isfinite(values).any():
                    continue
                key = metric if protocol == OURS else f"{protocol}: {metric}"
                columns.setdefault(key, metric)
                aligned: list[float | None] = [None] * len(ids[subject])
                for row, value in zip(rows, values, strict=True):
                    aligned[row] = round(float(value), 4) if np.isfinite(value) else None
                data["scores"].setdefault(subject, {}).setdefault(model, {})[key] = aligned
    data["metrics"] = [
        {
            "key": key,
            "name": metric_title(metric) + (f" ({key.partition(':')[0]})" if ":" in key else ""),
            "lower": metric in METRICS and not METRICS[metric].higher_is_better,
        }
        for key, metric in columns.items()
    ] or [{"key": "none", "name": "no scores", "lower": False}]
    first = [item for item in data["metrics"] if item["key"] == "two_way"]
    data["metrics"] = first + [item for item in data["metrics"] if item not in first]


def _note(data: dict, label: str, drawn: dict[str, list[ShownControl]]) -> str:
    """The note at the top of the page."""
    real = "Rendered scenes and simulated brains; nobody was measured. " if origin_of(label) == "simulated" else ""
    of_controls = len({number for items in drawn.values() for item in items for number in item.nsd_id.tolist()})
    sentence = f" {of_controls} of the images are shown with controls, below their scores." if of_controls else ""
    return (
        f"{real}{len(data['images']['id'])} test images, {len(data['subjects'])} "
        f"subject{'s' if len(data['subjects']) > 1 else ''}, {len(data['models'])} models. None was picked: order and "
        f"view are yours. Scores are those of single images; tables with intervals are in the report.{sentence}"
    )


@dataclass(frozen=True)
class ShownControl:
    """The shown part of one file of stage control.

    Attributes
    ----------
    kind
        For example "areas".
    file
        The images.
    rows
        int [n]: of the file: images shown.
    columns
        int [C]: of the file: conditions shown.
    title
        Of the control.
    names
        Of the conditions.
    others
        int [n, C]: other image whose response took part, -1 where there is none.
    """

    kind: str
    file: StoredReconstructions
    rows: np.ndarray
    columns: np.ndarray
    title: str
    names: list[str]
    others: np.ndarray

    @property
    def nsd_id(self) -> np.ndarray:
        """Images shown, int [n]."""
        return self.file.nsd_id[self.rows]

    @property
    def tiles(self) -> int:
        """Number of images of all conditions."""
        return len(self.rows) * len(self.columns)

    def reduced(self, side: int) -> np.ndarray:
        """Read the images shown, uint8 [n, C, side, side, 3]; at most a block of images at full size at a time."""
        return np.stack([reduced(self.file, self.rows, side, column) for column in self.columns], axis=1)

    def described(self, ids: np.ndarray) -> dict:
        """Data for the page, with images' places among a subject's `ids`."""
        return {
            "kind": self.kind,
            "title": self.title,
            "made": self.file.shape[1],
            "names": self.names,
            "images": np.searchsorted(ids, self.nsd_id).tolist(),
            "others": self.others.tolist(),
        }


def read_controls(
    files: Mapping[str, Mapping[str, Path]], ids: Mapping[str, np.ndarray]
) -> dict[str, list[ShownControl]]:
    """Choose the images and conditions to show of each control; reads no images.

    Parameters
    ----------
    files
        mapping of mapping of Path: `files[subject][kind]`, as stage control writes them.
    ids
        mapping of int array: `ids[subject]`: the subject's images on the page, ascending.

    Returns
    -------
    dict of list of ShownControl
        At most `MOST_CONDITIONS` conditions of each, and as many images as make `MOST_TILES` together; both evenly
        spaced.

    Raises
    ------
    ValueError
        If a file is of another subject than it was given as, of one without reconstructions, or not of a control.
    """
    shown = {
        subject: [_open_control(path, kind, subject, ids) for kind, path in paths.items()]
        for subject, paths in files.items()
    }
    most = MOST_TILES // max(1, sum(len(item.columns) for items in shown.values() for item in items))
    return {
        subject: [_of_fewer_images(item, max(1, most)) for item in items if item.tiles]
        for subject, items in shown.items()
    }


def _open_control(path: Path, kind: str, subject: str, ids: Mapping[str, np.ndarray]) -> ShownControl:
    item = StoredReconstructions(path)
    if item.subject != subject:
        raise ValueError(f"{path}: is of subject {item.subject}, but was given as subject {subject}'s")
    if subject not in ids:
        raise ValueError(
            f"{path}: is a control of subject {subject}, of whom no reconstructions were given; allowed are controls "
            f"of subjects {', '.join(map(str, sorted(ids)))}"
        )
    count, columns = item.shape[1], evenly_spaced(item.shape[1], MOST_CONDITIONS)
    rows = np.flatnonzero(np.isin(item.nsd_id, ids[subject]))
    if not item.labels:
        raise ValueError(
            f"{path}: has no labels, which say what the {count} images of each row are; allowed: a file of stage "
            "control, for example results/controls/sub-01/areas.h5"
        )
    others = np.full((len(item.nsd_id), count), -1, np.int32) if item.others is None else item.others
    try:
        labels = [json.loads(label) for label in item.labels]
        names = [labels[column]["name"] for column in columns]
        title = labels[0].get("title", kind.replace("_", " "))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(
            f"{path}: labels are {item.labels[0]!r} and so on; allowed: conditions of stage control"
        ) from None
    return ShownControl(kind, item, rows, columns, title, names, others[np.ix_(rows, columns)])


def _of_fewer_images(item: ShownControl, most: int) -> ShownControl:
    kept = evenly_spaced(len(item.rows), most)
    return replace(item, rows=item.rows[kept], others=item.others[kept])
