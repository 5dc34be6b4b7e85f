"""A lab's own tables, of trials and of images: text in UTF-8, every mistake told with its line.

The columns are described in docs/own_data.md.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from neuropictor.data.image_names import ImageNames
from neuropictor.data.responses import SPLITS
from neuropictor.records.files import need

log = logging.getLogger(__name__)

EVENTS = "_events.tsv"
"""How the names of BIDS' tables of events end (bids-specification.readthedocs.io, "Task events")."""

VALIDATION_SHARE = 0.05
_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons"}
_NO_IMAGE = ("", "n/a")
_HINT = "; images' names may stand in another column, e.g. --image-column stim_file"


@dataclass(frozen=True)
class Splits:
    """How images are split where no table says it.

    Whether an image is chosen follows from its number and the seed alone, so that further trials and images move none.

    Attributes
    ----------
    test_share
        Share of the images that test, 0..1; None: `test_images` says which.
    test_images
        Text file of names or numbers, one a line.
    validation_share
        Share of the training images that validate; at least one, unless it is 0.
    seed
        Of both choices.
    """

    test_share: float | None = None
    test_images: Path | None = None
    validation_share: float = VALIDATION_SHARE
    seed: int = 0

    def place(self, images: np.ndarray, what: str) -> np.ndarray:
        """Return a number in 0..1 for each image, to be compared with a share."""
        digests = (hashlib.sha256(f"{what}/{self.seed}/{image}".encode()).digest() for image in images.tolist())
        return np.array([int.from_bytes(digest[:8], "big") / 2**64 for digest in digests])


def read_trials(
    tables: Path | Sequence[Path], image_column: str = "image", task: str = ""
) -> tuple[pd.DataFrame, dict[int, str]]:
    """Read a table of trials, or a subject's tables of events in BIDS' form.

    Parameters
    ----------
    tables
        A CSV or TSV with ``session``, ``trial``, the images and perhaps ``split``; or files of events, or a folder of
        them.
    image_column
        Column of the images' names or numbers.
    task
        Of BIDS: the one task whose events are read; empty: there is but one.

    Returns
    -------
    DataFrame
        ``session`` and ``trial`` as numbers, ``image`` and ``split`` as text, indexed by line.
    dict
        Labels of sessions by number, where they have some.
    """
    paths = [Path(path) for path in ([tables] if isinstance(tables, str | Path) else tables)]
    if paths[0].is_dir() or paths[0].name.endswith(EVENTS):
        return _read_events(paths, image_column, task)
    if len(paths) > 1:
        raise ValueError(
            f"{len(paths)} tables, of which {paths[0]} holds no events; allowed: one table of trials, or several of "
            f"BIDS' with names such as sub-01_ses-01_task-images_run-1{EVENTS}"
        )
    table = read_table(paths[0], ("session", "trial", image_column), numbers=("trial",), optional=("split",))
    table = table.rename(columns={image_column: "image"})
    labels = {}
    if table["session"].str.fullmatch(r"0*\d{1,9}").all():
        table["session"] = table["session"].astype(np.int64)
    else:
        empty = table["session"] == ""
        if empty.any():
            raise ValueError(f"{paths[0]}, line {line_of(empty)}: session is empty; allowed: a number or a label")
        labels = dict(enumerate(sorted(table["session"].unique(), key=_natural), start=1))
        table["session"] = table["session"].map({label: number for number, label in labels.items()})
    return table, labels


def _natural(label: str) -> list[tuple[int, int | str]]:
    """Sort labels as people do: 2 before 10, numbers before words."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", label) if part]


def _read_events(paths: list[Path], image_column: str, task: str) -> tuple[pd.DataFrame, dict[int, str]]:
    """Read BIDS' events: sessions and runs by name, a run's trials by onset, rows without an image left out."""
    files = [file for path in paths for file in (sorted(path.rglob(f"*{EVENTS}")) if path.is_dir() else [path])]
    # Parts of a name such as sub-01_ses-02_task-images_run-3_events.tsv.
    parts = {file: dict(re.findall(r"([a-z]+)-([A-Za-z0-9+]+)_", file.name)) for file in files}
    files = [file for file in files if parts[file].get("task", "") == (task or parts[file].get("task", ""))]
    if not files:
        raise FileNotFoundError(
            f"{paths[0]} holds no files *{EVENTS}{f' of task {task}' if task else ''}; allowed: a folder with a "
            "subject's, for example bids/sub-01, or a table of trials"
        )
    for part, example in (("sub", "--table bids/sub-01"), ("task", "--task images")):
        several = sorted({parts[file].get(part, "") for file in files})
        if len(several) > 1:
            raise ValueError(
                f"{paths[0]}: files of events of {part}- {', '.join(several)}; allowed: of one, for example {example}"
            )
    runs = sorted(files, key=lambda file: [_natural(parts[file].get(part, "")) for part in ("ses", "run")])
    sessions = list(dict.fromkeys(parts[file].get("ses", "") for file in runs))
    tables = []
    for file in runs:
        table = read_table(file, ("onset", image_column), numbers=())
        onset = pd.to_numeric(table["onset"], errors="coerce")
        if onset.isna().any():
            line = line_of(onset.isna())
            raise ValueError(f"{file}, line {line}: onset is {table['onset'][line]!r}; allowed: seconds. Example: 12.5")
        table = table.assign(session=sessions.index(parts[file].get("ses", "")) + 1, image=table[image_column])
        table.index = pd.Index([f"{line} of {file.name}" for line in table.index])
        tables.append(table.iloc[np.argsort(onset, kind="stable")])
    table = pd.concat(tables)[["session", "image"]]
    table = table[~table["image"].isin(_NO_IMAGE)]
    if not len(table):
        raise ValueError(
            f"{paths[0]}: no row of {len(runs)} files has an image in the column {image_column}; allowed: names, with "
            "n/a only where none was shown, or another column by --image-column"
        )
    table["trial"] = table.groupby("session").cumcount()
    return table.assign(split=""), {number: label for number, label in enumerate(sessions, start=1) if label}


def number_trials(table: pd.DataFrame, where: Path | str, names: ImageNames, splits: Splits) -> pd.DataFrame:
    """Check trials, and give images their numbers and splits.

    Parameters
    ----------
    table
        As `read_trials` returns it.
    where
        Its file or folder, for messages.
    names
        From names of images to numbers.
    splits
        How images are split where the table does not.

    Returns
    -------
    DataFrame
        Session by session: ``session``, ``trial``, ``nsd_id`` (the image), ``split`` and ``repeat``; indexed as
        `table`.
    """
    table = table.assign(nsd_id=names.numbers(table["image"], str(where)))
    twice = table.duplicated(["session", "trial"])
    if twice.any():
        raise ValueError(f"{where}, line {line_of(twice)}: this session and trial come twice; allowed: once each")
    table["split"] = _split(table, where, names, splits)
    mixed = table.groupby("nsd_id")["split"].transform("nunique") > 1
    if mixed.any():
        raise ValueError(
            f"{where}, line {line_of(mixed)}: image {table['image'][mixed].iloc[0]} is in more than one split; allowed:"
            " all trials of an image in one, so that tests are on images never trained on"
        )
    for split in ("train", "test"):
        if not (table["split"] == split).any():
            raise ValueError(f"{where}: no trial has the split {split}; allowed: at least one of train and one of test")
    train = np.unique(table["nsd_id"][table["split"] == "train"])
    if not (table["split"] == "validation").any() and splits.validation_share and len(train) > 1:
        place = splits.place(train, "validation")
        chosen = train[place <= max(splits.validation_share, place.min())]
        if len(chosen) == len(train):
            raise ValueError(
                f"{where}: a validation share of {splits.validation_share} takes all {len(train)} training images; "
                "allowed: a share that leaves some. Example: --validation-share 0.05"
            )
        table.loc[table["nsd_id"].isin(chosen), "split"] = "validation"
    _tell_gaps(table, where)
    table = table.sort_values(["session", "trial"], kind="stable")
    table["repeat"] = table.groupby("nsd_id").cumcount()
    return table[["session", "trial", "nsd_id", "split", "repeat"]]


def _split(table: pd.DataFrame, where: Path | str, names: ImageNames, splits: Splits) -> pd.Series:
    """Return the split of each trial, by the table or by the options: one of them."""
    options = [name for name in ("test_share", "test_images") if getattr(splits, name) is not None]
    given = bool((table["split"] != "").any())
    if given + len(options) != 1:
        says = [*["its column split"] * given, *(f"--{name.replace('_', '-')}" for name in options)]
        raise ValueError(
            f"{where}: which images test is said by {' and '.join(says) or 'nothing'}; allowed: one of the column "
            "split, --test-share and --test-images. Example: --test-share 0.1"
        )
    if given:
        wrong = ~table["split"].isin(SPLITS)
        if wrong.any():
            raise ValueError(
                f"{where}, line {line_of(wrong)}: split is {table['split'][wrong].iloc[0]!r}; allowed: "
                f"{', '.join(SPLITS)}. Example: test"
            )
        return table["split"]
    images = np.unique(table["nsd_id"])
    if splits.test_images is not None:
        lines = pd.Series(_read_text(splits.test_images).splitlines(), name="the image").str.strip()
        lines.index += 1
        tested = names.numbers(lines[lines != ""], str(splits.test_images)).to_numpy()
        log.info(
            "%s: %d of its %d images are among the %d of the trials",
            splits.test_images,
            len(np.intersect1d(tested, images)),
            len(tested),
            len(images),
        )
    else:
        tested = images[splits.place(images, "test") < splits.test_share]
    return pd.Series(np.where(table["nsd_id"].isin(tested), "test", "train"), table.index)


def _tell_gaps(table: pd.DataFrame, where: Path | str) -> None:
    """Warn where trials are counted from 1, or left out: so they may be, but seldom are meant to be."""
    trials = table.groupby("session")["trial"].agg(["min", "max", "count"])
    if trials["min"].min() > 0:
        log.warning("%s: no row has trial 0; trials are counted from 0, the first in a session's files", where)
    gaps = trials[trials["count"] < trials["max"] + 1 - trials["min"]]
    if len(gaps):
        low, high, count = gaps.iloc[0]
        text = "%s: session %s has rows for %d of trials %d to %d (so %d sessions); trials without a row are not used"
        log.warning(text, where, gaps.index[0], count, low, high, len(gaps))


def read_nsd_images(path: Path) -> dict[int, int]:
    """Read NSD's table of images, ``nsd_stim_info_merged.csv``: nsd_id by number in COCO."""
    columns = ("nsdId", "cocoId")
    table = read_table(path, columns, numbers=columns)
    return dict(zip(table["cocoId"].tolist(), table["nsdId"].tolist(), strict=True))


def read_shared_images(path: Path) -> np.ndarray:
    """Read from NSD's table of images which ones all its people were to see, int [n], ascending."""
    table = read_table(path, ("nsdId",), numbers=("nsdId",), optional=("shared1000",))
    return np.sort(table["nsdId"][table["shared1000"] == "True"].to_numpy())


def _read_text(path: Path) -> str:
    """Read a text file; ValueError names the line that is not UTF-8."""
    need(path, "expected text")
    data = path.read_bytes()
    place = data.find(b"\0")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        text, place = "", error.start
    if place >= 0:
        line = data[:place].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: no UTF-8 text; allowed: UTF-8, in a spreadsheet's words CSV UTF-8")
    return text


def _separator(text: str, path: Path) -> str:
    """Return what separates columns: commas, tabs or semicolons, by the first line that holds something."""
    header = next((line for line in text.splitlines() if line.strip(" ,;\t")), "")
    used = [mark for mark in _SEPARATORS if mark in re.sub('"[^"]*"', "", header)]
    if len(used) > 1:
        raise ValueError(
            f"{path}: {' and '.join(_SEPARATORS[mark] for mark in used)} separate the columns {header.strip()[:200]!r};"
            " allowed: one of them throughout, commas, tabs or semicolons"
        )
    return used[0] if used else ","


def read_table(
    path: Path, columns: tuple[str, ...], numbers: tuple[str, ...], optional: tuple[str, ...] = ()
) -> pd.DataFrame:
    """Read a CSV or TSV table, indexed by the lines of its file; texts without spaces around them.

    `columns` must exist, those of `numbers` be whole numbers from 0; those of `optional` are empty where they do not
    exist, and others are left out.
    """
    need(path, f"expected a CSV or TSV table with the columns {', '.join(columns)}")
    text = _read_text(path)
    separator = _separator(text, path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    rows, line = {}, 1
    try:
        for row in reader:
            if any(field.strip() for field in row):
                rows[line] = row
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {line}: {error}; allowed: quotes around a whole field and closed, and doubled inside one. "
            'Example: 12,dog.png,"a dog, on a beach"'
        ) from error
    header = [name.strip() for name in rows.pop(min(rows))] if rows else []
    if any(header.count(name) != 1 for name in columns) or any(header.count(name) > 1 for name in optional) or not rows:
        raise ValueError(
            f"{path} has {len(rows)} rows and the columns {', '.join(header[:20])}; allowed: {', '.join(columns)}, "
            f"once each, and at least one row{_HINT if 'image' in columns else ''}"
        )
    for line, row in rows.items():
        if len(row) != len(header):
            raise ValueError(
                f"{path}, line {line}: {len(row)} fields, but {len(header)} columns separated by "
                f"{_SEPARATORS[separator]}; allowed: as many, and quotes around a field with a separator. Example: "
                '12,dog.png,"a dog, on a beach"'
            )
    used = [*columns, *(name for name in optional if name in header)]
    places = [header.index(name) for name in used]
    table = pd.DataFrame([[row[place].strip() for place in places] for row in rows.values()], list(rows), used)
    for name in set(optional).difference(used):
        table[name] = ""
    for name in numbers:
        wrong = ~table[name].str.fullmatch(r"0*\d{1,9}")
        if wrong.any():
            raise ValueError(
                f"{path}, line {line_of(wrong)}: {name} is {table[name][wrong].iloc[0]!r}; allowed: whole numbers from "
                "0. Example: 12"
            )
        table[name] = table[name].astype(np.int64)
    return table


def line_of(wrong: pd.Series) -> int:
    """Line of the first wrong row in the file."""
    return wrong.index[wrong][0]
