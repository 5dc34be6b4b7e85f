"""MOSAIC's files: single-trial responses of one person of one data set on the HCP's grayordinates, z-scored.

Layout: github.com/murtylab/mosaic-dataset (``betas/sub-01_NSD_stimulus-<name>_phase-<train|test>_rep-<n>``).
"""

from __future__ import annotations

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

_NAME = re.compile(r"sub-\w+?_\w+?_stimulus-(?P<image>.+)_phase-(?P<split>train|test)_rep-(?P<repeat>\d+)")
_GRAYORDINATES = 91_282


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
    names.sort(key=lambda name: (parts[name]["split"], parts[name]["image"], int(parts[name]["repeat"])))

    def take(trials: np.ndarray, columns: np.ndarray) -> np.ndarray:
        values = np.empty((len(trials), len(columns)), np.float32)
        with open_foreign(path) as file:
            for row, trial in enumerate(trials):
                dataset: Any = foreign_dataset(file, f"betas/{names[trial]}")
                if dataset is None or dataset.shape != (_GRAYORDINATES,) or dataset.dtype.kind != "f":
                    raise ValueError(
                        f"{path}: betas/{names[trial]} is {getattr(dataset, 'dtype', 'no data set')} "
                        f"{getattr(dataset, 'shape', '')}; allowed: float numbers ({_GRAYORDINATES},)"
                    )
                beta, missing = dataset[:], np.asarray(dataset.attrs.get("nan_indices", []), np.int64)
                beta[missing[(missing >= 0) & (missing < _GRAYORDINATES)]] = np.nan
                values[row] = beta[columns]
        return values

    def trials() -> pd.DataFrame:
        fields = [(parts[name]["image"], parts[name]["split"]) for name in names]
        table = pd.DataFrame(fields, columns=["image", "split"])
        return table.assign(session=1, trial=np.arange(len(names)))

    numbers = Numbers((len(names), _GRAYORDINATES), take, grayordinates())
    return Files(lambda session: [Run((path,))], lambda path, side: numbers, trials)
