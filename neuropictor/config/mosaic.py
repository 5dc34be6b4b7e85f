"""The people of MOSAIC, 93 of eight fMRI data sets, and where their files lie in its public bucket."""

import re

PREFIX = "mosaic:"
"""Start of a person's path in the table of people."""

ENDPOINT = "https://mosaicfmri.s3.amazonaws.com"

FOLDER = "fMRIPrepv23_2_0/task_fMRI/betas/GLMsinglev1_2"
"""Folder of single-trial responses in the bucket."""

DATA_SETS = {
    "BMD": ("BOLDMomentsDataset", 10),
    "BOLD5000": ("BOLD5000", 4),
    "GOD": ("GenericObjectDecoding", 5),
    "HAD": ("HumanActionsDataset", 30),
    "NOD": ("NaturalObjectDataset", 30),
    "NSD": ("NaturalScenesDataset", 8),
    "THINGS": ("THINGS", 3),
    "deeprecon": ("deeprecon", 3),
}
"""Data sets by their short names: folder in the bucket, and number of people, called from sub-01 on.

All of this is of ``mosaic/constants.py`` in github.com/murtylab/mosaic-dataset, commit 1d26b5b.
"""


def file_key(person: str) -> str:
    """Return the key of a person's file, e.g. of ``sub-01_NOD``.

    Raises
    ------
    ValueError
        If MOSAIC has nobody of this name.
    """
    match = re.fullmatch(r"sub-(\d\d)_(\w+)", person)
    folder, people = DATA_SETS.get(match[2], ("", 0)) if match else ("", 0)
    if match is None or not 1 <= int(match[1]) <= people:
        listed = ", ".join(f"{name} (01 to {count:02d})" for name, (_, count) in DATA_SETS.items())
        raise ValueError(f"{PREFIX}{person} is nobody of MOSAIC; allowed: people of {listed}, e.g. {PREFIX}sub-01_NOD")
    return f"{FOLDER}/{folder}/{person}.hdf5"
