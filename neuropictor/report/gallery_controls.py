"""What the gallery shows of controls: some conditions of each, read one picture at a time. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from neuropictor.config.drawing import CONTROL_TITLES
from neuropictor.data.reconstructions import StoredReconstructions
from neuropictor.evaluation.judges import reduced

MOST_CONDITIONS = 24
"""Of one control: `semantic_swap` may have hundreds of partners."""
MOST_TILES = 12_000
"""Of all controls together, so that they leave at least half of the page's pixels to the models of a run on NSD."""


@dataclass(frozen=True)
class ShownControl:
    """What is shown of one file of stage control.

    Attributes
    ----------
    kind : str
        For example "areas".
    file : StoredReconstructions
    rows : int array [n]
        Of the file: pictures that are shown.
    columns : int array [C]
        Of the file: conditions that are shown.
    names : list of str
        Of these conditions.
    others : int array [n, C]
        Other picture whose response took part, -1 where there is none.
    """

    kind: str
    file: StoredReconstructions
    rows: np.ndarray
    columns: np.ndarray
    names: list[str]
    others: np.ndarray

    @property
    def nsd_id(self) -> np.ndarray:
        """Pictures that are shown, int [n]."""
        return self.file.nsd_id[self.rows]

    @property
    def tiles(self) -> int:
        """Number of pictures of all conditions."""
        return len(self.rows) * len(self.columns)

    def reduced(self, side: int) -> np.ndarray:
        """Read what is shown, uint8 [n, C, side, side, 3]; never more than a block of images in its own size."""
        return np.stack([reduced(self.file, self.rows, side, column) for column in self.columns], axis=1)

    def described(self, ids: np.ndarray) -> dict:
        """What the page is told, with places of pictures among a subject's `ids`."""
        return {
            "kind": self.kind,
            "title": CONTROL_TITLES.get(self.kind, self.kind.replace("_", " ")),
            "made": self.file.shape[1],
            "names": self.names,
            "pictures": np.searchsorted(ids, self.nsd_id).tolist(),
            "others": self.others.tolist(),
        }


def read_controls(
    files: Mapping[int, Mapping[str, Path]], ids: Mapping[int, np.ndarray]
) -> dict[int, list[ShownControl]]:
    """Choose what is shown of each control; reads no pictures.

    Parameters
    ----------
    files : mapping of mapping of Path
        `files[subject][kind]`, as stage control writes them.
    ids : mapping of int array
        `ids[subject]`: the subject's pictures that are shown at all, ascending.

    Returns
    -------
    dict of list of ShownControl
        At most `MOST_CONDITIONS` conditions of each, and of as many pictures that they make `MOST_TILES` together; both
        evenly spaced.

    Raises
    ------
    ValueError
        If a file is of another subject than it was given as, of one without reconstructions, or no control's.
    """
    found = {
        subject: [_opened(path, kind, subject, ids) for kind, path in own.items()] for subject, own in files.items()
    }
    most = MOST_TILES // max(1, sum(len(item.columns) for own in found.values() for item in own))
    return {
        subject: [_of_fewer_pictures(item, max(1, most)) for item in own if item.tiles]
        for subject, own in found.items()
    }


def _opened(path: Path, kind: str, subject: int, ids: Mapping[int, np.ndarray]) -> ShownControl:
    item = StoredReconstructions(path)
    if item.subject != subject:
        raise ValueError(f"{path}: is of subject {item.subject}, but was given as subject {subject}'s")
    if subject not in ids:
        raise ValueError(
            f"{path}: is a control of subject {subject}, of whom no reconstructions were given; allowed are controls "
            f"of subjects {', '.join(map(str, sorted(ids)))}"
        )
    count, columns = item.shape[1], _evenly(item.shape[1], MOST_CONDITIONS)
    rows = np.flatnonzero(np.isin(item.nsd_id, ids[subject]))
    if not item.labels:
        raise ValueError(
            f"{path}: has no labels, which say what the {count} pictures of each row are; allowed: a file of stage "
            "control, for example results/controls/sub-01/areas.h5"
        )
    labels = [item.labels[column] for column in columns]
    others = np.full((len(item.nsd_id), count), -1, np.int32) if item.others is None else item.others
    try:
        names = [json.loads(label)["name"] for label in labels]
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path}: labels are {labels[0]!r} and so on; allowed: conditions of stage control") from None
    return ShownControl(kind, item, rows, columns, names, others[np.ix_(rows, columns)])


def _of_fewer_pictures(item: ShownControl, most: int) -> ShownControl:
    kept = _evenly(len(item.rows), most)
    return replace(item, rows=item.rows[kept], others=item.others[kept])


def _evenly(count: int, most: int) -> np.ndarray:
    """At most so many of `count` places, evenly spaced from the first to the last."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)
