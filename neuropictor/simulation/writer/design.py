"""NSD's design files of a simulated experiment, MAT and CSV, consistent with one another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.io

from neuropictor.nsd import keys
from neuropictor.nsd.constants import REPEATS, SUBJECTS
from neuropictor.records.files import atomic_path
from neuropictor.simulation.writer.trial_order import TrialOrder

if TYPE_CHECKING:
    from neuropictor.simulation.writer.coco import CocoImages

#: Replaces scipy's header text, which contains the time; the format fixes its length.
MAT_TEXT = b"MATLAB 5.0 MAT-file, simulated NSD".ljust(116)


def write_experiment_design(root: Path, order: TrialOrder) -> None:
    """Write ``nsd_expdesign.mat``: five fields counting from 1."""
    sessions = order.master_order.reshape(len(order.pattern), -1)
    counts = [
        np.bincount(np.unique(session, return_counts=True)[1], minlength=REPEATS + 1)[1 : REPEATS + 1]
        for session in sessions
    ]
    fields = {
        "masterordering": (order.master_order + 1)[None].astype(np.float64),
        "subjectim": (order.images_of_subject + 1).astype(np.float64),
        "sharedix": (order.shared + 1)[None].astype(np.float64),
        "basiccnt": np.stack(counts, axis=1).astype(np.float64),
        "stimpattern": order.pattern.astype(np.float64),
    }
    with atomic_path(root / keys.EXPERIMENT_DESIGN) as temporary:
        scipy.io.savemat(temporary, fields, do_compression=True)
        with open(temporary, "r+b") as file:
            file.write(MAT_TEXT)


def write_stimulus_info(root: Path, order: TrialOrder, images: CocoImages) -> None:
    """Write ``nsd_stim_info_merged.csv``: NSD's 41 columns, with the planned trials of every subject."""
    n = order.n_images
    shared = np.isin(np.arange(n), order.shared)
    table = pd.DataFrame(
        {
            "cocoId": images.coco_id,
            "cocoSplit": images.split,
            "cropBox": [str(box) for box in images.crop],
            "loss": 0.0,
            "nsdId": np.arange(n),
            "flagged": False,
            "BOLD5000": False,
            "shared1000": shared,
        }
    )
    repeats = {}
    for row, subject in enumerate(SUBJECTS):
        trials = np.zeros((n, REPEATS), np.int64)
        count = np.zeros(n, np.int64)
        for trial, nsd_id in enumerate(order.images_of_subject[row, order.master_order]):
            if count[nsd_id] < REPEATS:  # the table has room for no more
                trials[nsd_id, count[nsd_id]] = trial + 1
            count[nsd_id] += 1
        table[f"subject{subject}"] = (count > 0).astype(int)
        repeats |= {f"subject{subject}_rep{repeat}": trials[:, repeat] for repeat in range(REPEATS)}
    with atomic_path(root / keys.STIMULUS_INFO) as temporary:
        pd.concat([table, pd.DataFrame(repeats)], axis=1).to_csv(temporary)
