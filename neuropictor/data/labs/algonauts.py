"""The Algonauts Project 2023: part of NSD's fsaverage vertices, averaged over repeats and z-scored.

Layout: github.com/gifale95/algonauts_2023; the images' names give NSD's numbers, from 0.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from neuropictor.data.labs.formats import MESHES, Numbers, of_array
from neuropictor.data.labs.reader import Files, Run
from neuropictor.nsd.constants import HEMISPHERES
from neuropictor.records.files import need

_IMAGE = re.compile(r"train-(\d+)_nsd-(\d+)\.\w+")


def algonauts(folder: Path) -> Files | None:
    """Read a person's folder: ``training_split/`` and ``roi_masks/``."""
    responses = folder / "training_split" / "training_fmri"
    if not responses.is_dir():
        return None

    def trials() -> pd.DataFrame:
        images = folder / "training_split" / "training_images"
        names = sorted(match.groups() for path in images.glob("train-*") if (match := _IMAGE.fullmatch(path.name)))
        count = _read(responses / "lh_training_fmri.npy", "lh").shape[0]
        if len(names) != count:
            raise ValueError(
                f"{images} has {len(names)} images, but lh_training_fmri.npy {count} trials; allowed: as many, named "
                "as train-0001_nsd-00013.png"
            )
        numbers = [str(int(number)) for _, number in names]
        return pd.DataFrame({"session": 1, "trial": np.arange(count), "image": numbers, "split": ""})

    run = Run(tuple(responses / f"{side}_training_fmri.npy" for side in HEMISPHERES))
    return Files(lambda session: [run], _read, trials)


def _read(path: Path, side: str) -> Numbers:
    """Responses [images, chosen vertices], with the vertices that the mask chooses."""
    mask = path.parents[2] / "roi_masks" / f"{side}.all-vertices_fsaverage_space.npy"
    arrays = []
    for file in (path, mask):
        need(file, "expected a file of the Algonauts Project 2023")
        try:
            arrays.append(np.lib.format.open_memmap(file, "r"))
        except (ValueError, OSError) as error:
            raise ValueError(f"{file} cannot be read ({error}); allowed: whole files of numbers") from error
    values, chosen = arrays
    if chosen.shape != (MESHES["fsaverage"],) or values.shape[1:] != (int((chosen == 1).sum()),):
        raise ValueError(
            f"{path} holds {values.shape}, and {mask.name} {chosen.shape} with {int((chosen == 1).sum())} chosen; "
            f"allowed: [images, chosen vertices] and ({MESHES['fsaverage']},)"
        )
    if values.dtype.kind != "f":
        raise ValueError(f"{path} holds {values.dtype}; allowed: float numbers")
    return replace(of_array(values), place=np.where(chosen == 1, np.cumsum(chosen == 1) - 1, -1))
