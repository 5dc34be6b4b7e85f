"""A lab's own tables, of trials and of images: CSV in UTF-8, every mistake told with its line.

The columns are described in docs/own_data.md.
"""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path

import numpy as np
import pandas as pd

from neuropictor.data.responses import SPLITS
from neuropictor.records.files import need

log = logging.getLogger(__name__)

TRIAL_COLUMNS = ("session", "trial", "image", "split")
IMAGE_COLUMNS = ("image", "file", "captions")


def read_trials(path: Path) -> pd.DataFrame:
    """Read and check a table of trials; returned session by session with ``nsd_id`` (the image) and ``repeat``."""
    table = read_table(path, TRIAL_COLUMNS, numbers=("session", "trial", "image"))
    wrong = ~table["split"].isin(SPLITS)
    if wrong.any():
        raise ValueError(
            f"{path}, line {line_of(wrong)}: split is {table['split'][wrong].iloc[0]!r}; allowed: {', '.join(SPLITS)}. "
            "Example: test"
        )
    twice = table.duplicated(["session", "trial"])
    if twice.any():
        raise ValueError(f"{path}, line {line_of(twice)}: this session and trial come twice; allowed: once each")
    mixed = table.groupby("image")["split"].transform("nunique") > 1
    if mixed.any():
        raise ValueError(
            f"{path}, line {line_of(mixed)}: image {table['image'][mixed].iloc[0]} is in more than one split; allowed: "
            "all trials of an image in one, so that tests are on images never trained on"
        )
    for split in ("train", "test"):
        if not (table["split"] == split).any():
            raise ValueError(f"{path}: no trial has the split {split}; allowed: at least one of train and one of test")
    if table["trial"].min() > 0:
        log.warning("%s: no row has trial 0; trials are counted from 0, the first in a session's files", path)
    table = table.sort_values(["session", "trial"], ignore_index=True).rename(columns={"image": "nsd_id"})
    table["repeat"] = table.groupby("nsd_id").cumcount()
    return table


def read_table(
    path: Path, columns: tuple[str, ...], numbers: tuple[str, ...], optional: tuple[str, ...] = ()
) -> pd.DataFrame:
    """Read a CSV table, indexed by the lines of its file.

    `columns` must exist, those of `numbers` be whole numbers from 0; those of `optional` are empty where they do not
    exist, and others are left out.
    """
    need(path, f"expected a CSV table with the columns {', '.join(columns)}")
    data = path.read_bytes()
    place = data.find(b"\0")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        text, place = "", error.start
    if place >= 0:
        line = data[:place].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: no UTF-8 text; allowed: UTF-8, in a spreadsheet's words CSV UTF-8")
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
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
            "once each, and at least one row"
        )
    for line, row in rows.items():
        if len(row) != len(header):
            raise ValueError(
                f"{path}, line {line}: {len(row)} fields, but {len(header)} columns; allowed: as many, and quotes "
                'around a field with a comma. Example: 12,dog.png,"a dog, on a beach"'
            )
    used = [*columns, *(name for name in optional if name in header)]
    places = [header.index(name) for name in used]
    table = pd.DataFrame([[row[place] for place in places] for row in rows.values()], list(rows), used)
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
