"""The people of MOSAIC, 93 of eight fMRI data sets, and where their files lie in its public bucket."""

import re
from typing import NamedTuple

PREFIX = "mosaic:"
"""Start of a person's path in the table of people."""

ENDPOINT = "https://mosaicfmri.s3.amazonaws.com"

FOLDER = "fMRIPrepv23_2_0/task_fMRI/betas/GLMsinglev1_2"
"""Folder of single-trial responses in the bucket."""


class DataSet(NamedTuple):
    """A data set in MOSAIC.

    Attributes
    ----------
    folder
        In the bucket.
    people
        How many, called from sub-01 on.
    visual_angle
        Degrees that an image covers.
    """

    folder: str
    people: int
    visual_angle: float


DATA_SETS = {
    "BMD": DataSet("BOLDMomentsDataset", 10, 5.0),
    "BOLD5000": DataSet("BOLD5000", 4, 4.6),
    "GOD": DataSet("GenericObjectDecoding", 5, 12.0),
    "HAD": DataSet("HumanActionsDataset", 30, 16.0),
    "NOD": DataSet("NaturalObjectDataset", 30, 16.0),
    "NSD": DataSet("NaturalScenesDataset", 8, 8.4),
    "THINGS": DataSet("THINGS", 3, 10.0),
    "deeprecon": DataSet("deeprecon", 3, 12.0),
}
"""Data sets by their short names.

Endpoint, folders and people are of github.com/murtylab/mosaic-dataset, ``mosaic/constants.py`` of 1d26b5b, angles of
github.com/blahner/mosaic-preprocessing, ``create_hdf5_pkl.py`` of 62d58a0.
"""


def data_set_of(person: str) -> DataSet:
    """Return the data set of a person, e.g. of ``sub-01_NOD``.

    Raises
    ------
    ValueError
        If MOSAIC has nobody of this name.
    """
    match = re.fullmatch(r"sub-(\d\d)_(\w+)", person)
    data_set = DATA_SETS.get(match[2]) if match else None
    if match is None or data_set is None or not 1 <= int(match[1]) <= data_set.people:
        listed = ", ".join(f"{name} (01 to {one.people:02d})" for name, one in DATA_SETS.items())
        raise ValueError(f"{PREFIX}{person} is nobody of MOSAIC; allowed: people of {listed}, e.g. {PREFIX}sub-01_NOD")
    return data_set


def file_key(person: str) -> str:
    """Return the key of a person's file in the bucket; raise ValueError as `data_set_of`."""
    return f"{FOLDER}/{data_set_of(person).folder}/{person}.hdf5"
