"""NSD-synthetic: 284 artificial images that NSD's people saw, and their order.

Sources: NSD Data Manual, https://cvnlab.slite.page/p/wLlJyfWRvg; Gifford et al. 2026 (doi
10.1038/s41467-026-69345-9), github.com/gifale95/NSD-synthetic.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import scipy.io

from neuropictor.nsd import keys

#: Images; the last ones are coloured, and each person's own.
IMAGES, COLOURED = 284, 64
#: Trials, the rows of a person's betas, the same for everybody; a run has 83 and ten repeats of the trial before.
ROWS, TRIALS_PER_RUN = 744, 93
#: Columns of the table of images that are read.
_NAME, _CLASS, _SUBCLASS = "Image", "Image class", "Image subclass"


def shared_keys() -> list[str]:
    """Return the keys of what everybody shares."""
    return [keys.SYNTHETIC_DESIGN, keys.SYNTHETIC_IMAGES, keys.SYNTHETIC_STIMULI]


def subject_keys(subject: int) -> list[str]:
    """Return the keys of a person's own images."""
    return [keys.synthetic_colours(subject)]


def read_order(root: str | Path) -> np.ndarray:
    """Read which image each trial shows, int [744], from 0.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing or damaged, or its numbers are not 1 to 284.
    """
    path = _need(root, keys.SYNTHETIC_DESIGN)
    try:
        order = scipy.io.loadmat(path)["masterordering"].astype(np.int64).ravel() - 1
    except Exception as error:  # scipy raises errors of many kinds
        raise ValueError(
            f"{path} is no readable MAT file of version 5 with the field masterordering ({error}); remove it and make "
            "or fetch it again"
        ) from error
    if len(order) != ROWS or not np.array_equal(np.unique(order), np.arange(IMAGES)):
        raise ValueError(
            f"{path}: masterordering has {len(order)} trials of images {order.min() + 1} to {order.max() + 1}; "
            f"allowed: {ROWS} trials, of each of 1 to {IMAGES}"
        )
    return order


def repeats_of_the_last(order: np.ndarray) -> np.ndarray:
    """Tell which trials show the image of the trial before in their run (the one-back task), bool [trials]."""
    same = np.append(False, order[1:] == order[:-1])
    same[::TRIALS_PER_RUN] = False
    return same


def read_images(root: str | Path) -> pd.DataFrame:
    """Read names, classes and subclasses of the images.

    Returns
    -------
    pandas.DataFrame
        name, category (one of eight) and subclass of each of the 284 images.

    Raises
    ------
    FileNotFoundError, ValueError
        If the table is missing, or is another.
    """
    return read_classes(_need(root, keys.SYNTHETIC_IMAGES))


def read_classes(path: Path) -> pd.DataFrame:
    """Read NSD's table of the images, as `read_images` returns it."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)[[_NAME, _CLASS, _SUBCLASS]]
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); allowed: NSD's table, with the columns {_NAME}, {_CLASS}, {_SUBCLASS}"
        ) from error
    if len(table) != IMAGES or table[_NAME].nunique() != IMAGES:
        raise ValueError(
            f"{path} has {len(table)} rows and {table[_NAME].nunique()} names; allowed: {IMAGES}, a name each"
        )
    return table.set_axis(["name", "category", "subclass"], axis=1)


def _need(root: str | Path, key: str) -> Path:
    path = Path(root) / key
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; fetch or simulate NSD-synthetic, or leave nsd.test_sets empty")
    return path
