"""MOSAIC's files: single-trial responses of one person of one data set on the HCP's grayordinates, z-scored.

Layout: github.com/blahner/mosaic-preprocessing, ``create_hdf5_pkl.py`` of 62d58a0: a vector for each trial,
``betas/sub-01_NSD_stimulus-<name>_phase-<train|test>_rep-<n>``, whose attribute nan_indices lists what is undefined,
and attributes of the person and the processing. Names have no endings: twelve digits are a file of COCO.
"""

from __future__ import annotations

import contextlib
import logging
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from neuropictor.data.labs.formats import Numbers, grayordinates
from neuropictor.data.labs.reader import Files, Run
from neuropictor.data.stores import foreign_dataset, linked, open_foreign
from neuropictor.records.files import need

log = logging.getLogger(__name__)

_NAME = re.compile(r"sub-\w+?_\w+?_stimulus-(?P<image>.+)_phase-(?P<split>train|test)_rep-(?P<repeat>\d+)")
_GRAYORDINATES = 91_282
# Of NSD-synthetic: artificial images, called 001.jpg to 284.jpg (organize_betas_nsdsynthetic.py), which are no test of
# what is trained on photographs, and would be taken for NSD's images of these numbers.
_SYNTHETIC = re.compile(r"sub-\w+?_NSD_stimulus-\d{3}_phase-test_rep-\d+")
_COCO = re.compile(r"\d{12}")
# Attributes of the file; the visual angle is that of the images, in degrees.
_FACTS = ("visual_angle", "sex", "age", "dataset_name", "subjectID", "preprocessing_pipeline", "beta_pipeline")


def mosaic(path: Path) -> Files | None:
    """Read a file, or a folder that holds one."""
    if path.is_dir():
        paths = [file for file in sorted(path.glob("sub-*_*.hdf5")) if not re.search(r"_ses-|_run-", file.name)]
        if len(paths) > 1:
            raise ValueError(f"{path} holds {len(paths)} files as {paths[0].name}; allowed: one, e.g. {paths[0]}")
        if not paths:
            return None
        path = paths[0]
    elif path.suffix not in (".hdf5", ".h5"):
        return None
    need(path, "expected a person's file of MOSAIC")
    with open_foreign(path) as file:
        group: Any = None if linked(file, "betas") else file["betas"]
        names = list(group) if isinstance(group, h5py.Group) else []
    if not names:
        return None
    parts = {name: match for name in names if (match := _NAME.fullmatch(name))}
    for name in set(names).difference(parts):
        raise ValueError(f"{path} holds betas/{name}; allowed: names as sub-01_NSD_stimulus-dog_phase-train_rep-0")
    count = len(names)
    names = [name for name in names if not _SYNTHETIC.fullmatch(name)]
    if len(names) < count:
        log.info("%s: %d trials of NSD-synthetic are left out", path, count - len(names))
    names.sort(key=lambda name: (parts[name]["split"], parts[name]["image"], int(parts[name]["repeat"])))

    def take(trials: np.ndarray, columns: np.ndarray) -> np.ndarray:
        values = np.empty((len(trials), len(columns)), np.float32)
        first, last = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 0)
        with open_foreign(path) as file:
            for row, trial in enumerate(trials):
                dataset: Any = foreign_dataset(file, f"betas/{names[trial]}")
                if dataset is None or dataset.shape != (_GRAYORDINATES,) or dataset.dtype.kind != "f":
                    raise ValueError(
                        f"{path}: betas/{names[trial]} is {getattr(dataset, 'dtype', 'no data set')} "
                        f"{getattr(dataset, 'shape', '')}; allowed: float numbers ({_GRAYORDINATES},)"
                    )
                beta, missing = dataset[first:last], np.asarray(dataset.attrs.get("nan_indices", []), np.int64) - first
                beta[missing[(missing >= 0) & (missing < last - first)]] = np.nan
                values[row] = beta[columns - first]
        return values

    def trials() -> pd.DataFrame:
        images = [parts[name]["image"] for name in names]
        images = [f"{image}.jpg" if _COCO.fullmatch(image) else image for image in images]
        table = pd.DataFrame({"image": images, "split": [parts[name]["split"] for name in names]})
        return table.assign(session=1, trial=np.arange(len(names)))

    def facts() -> dict[str, str | float]:
        with open_foreign(path) as file:
            found = {name: np.asarray(file.attrs[name]) for name in _FACTS if name in file.attrs}
        shown = {name: value.item() for name, value in found.items() if value.ndim == 0}
        shown = {name: value.decode() if isinstance(value, bytes) else value for name, value in shown.items()}
        with contextlib.suppress(KeyError, ValueError):  # written as text or as a number
            shown["visual_angle"] = float(shown["visual_angle"])
        return {name: value for name, value in shown.items() if isinstance(value, str | int | float)}

    numbers = Numbers((len(names), _GRAYORDINATES), take, grayordinates())
    return Files(lambda session: [Run((path,))], lambda path, side: numbers, trials, facts)
