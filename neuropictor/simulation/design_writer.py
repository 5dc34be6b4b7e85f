"""NSD's design and behaviour files of a simulated experiment: MAT, CSV and TSV, consistent with one another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.io

from neuropictor.nsd import keys
from neuropictor.nsd.constants import REPEATS, SECONDS_PER_SLOT, SUBJECTS
from neuropictor.runlog import atomic_path
from neuropictor.simulation.trial_order import TrialOrder

if TYPE_CHECKING:
    from neuropictor.simulation.coco_writer import CocoPictures

# A simulated observer: chance to call a picture seen when it is, and when it is not, to press no button, to change the
# mind (roughly as in Allen et al. 2022); reaction time in ms.
_HIT, _FALSE_ALARM, _NO_PRESS, _CHANGE = 0.75, 0.2, 0.01, 0.03
_REACTION_MEAN, _REACTION_SPREAD = 900.0, 0.25
# A session a week, its first run at two in the afternoon, runs six minutes apart.
_DAYS_BETWEEN, _FIRST_RUN, _RUN_MINUTES = 7, 14 / 24, 6.0
_SECONDS_A_DAY = 86_400
#: In place of the text with the time of day that scipy begins a file with; its length is the format's.
_MAT_TEXT = b"MATLAB 5.0 MAT-file, simulated NSD".ljust(116)


def write_experiment_design(root: Path, order: TrialOrder) -> None:
    """Write ``nsd_expdesign.mat``: five fields counting from 1."""
    sessions = order.master_order.reshape(len(order.pattern), -1)
    counts = [
        np.bincount(np.unique(session, return_counts=True)[1], minlength=REPEATS + 1)[1 : REPEATS + 1]
        for session in sessions
    ]
    fields = {
        "masterordering": (order.master_order + 1)[None].astype(np.float64),
        "subjectim": (order.pictures_of_subject + 1).astype(np.float64),
        "sharedix": (order.shared + 1)[None].astype(np.float64),
        "basiccnt": np.stack(counts, axis=1).astype(np.float64),
        "stimpattern": order.pattern.astype(np.float64),
    }
    with atomic_path(root / keys.EXPERIMENT_DESIGN) as temporary:
        scipy.io.savemat(temporary, fields, do_compression=True)
        with open(temporary, "r+b") as file:
            file.write(_MAT_TEXT)


def write_stimulus_info(root: Path, order: TrialOrder, pictures: CocoPictures) -> None:
    """Write ``nsd_stim_info_merged.csv``: NSD's 41 columns, with the planned trials of every subject."""
    n = order.n_pictures
    shared = np.isin(np.arange(n), order.shared)
    table = pd.DataFrame(
        {
            "cocoId": pictures.coco_id,
            "cocoSplit": pictures.split,
            "cropBox": [str(box) for box in pictures.crop],
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
        for trial, nsd_id in enumerate(order.pictures_of_subject[row, order.master_order]):
            if count[nsd_id] < REPEATS:  # the table has room for no more
                trials[nsd_id, count[nsd_id]] = trial + 1
            count[nsd_id] += 1
        table[f"subject{subject}"] = (count > 0).astype(int)
        repeats |= {f"subject{subject}_rep{repeat}": trials[:, repeat] for repeat in range(REPEATS)}
    with atomic_path(root / keys.STIMULUS_INFO) as temporary:
        pd.concat([table, pd.DataFrame(repeats)], axis=1).to_csv(temporary)


def write_behaviour(
    root: Path, subject: int, pictures: np.ndarray, slots: np.ndarray, pattern: np.ndarray, seed: int
) -> None:
    """Write a subject's ``responses.tsv``: 19 columns, one row a trial.

    Parameters
    ----------
    root
        Folder of the simulated NSD.
    subject
        1 to 8.
    pictures, slots
        int [trials], nsd_id and slot of each trial, from 0.
    pattern
        bool [sessions, 12, 75], of the subject's sessions.
    seed
        Of the simulation.
    """
    rng = np.random.default_rng([seed, subject, 71])
    session, run, place = np.nonzero(pattern)
    n = len(pictures)
    trial_in_run = pd.Series(session * 100 + run).groupby(session * 100 + run).cumcount().to_numpy() + 1
    last, first = np.full(n, np.nan), np.full(n, np.nan)
    old, old_now = np.zeros(n, bool), np.zeros(n, bool)
    seen: dict[int, tuple[int, int]] = {}
    for trial, picture in enumerate(pictures.tolist()):
        if picture in seen:
            earliest, latest = seen[picture]
            last[trial], first[trial], old[trial] = trial - latest, trial - earliest, True
            old_now[trial] = session[latest] == session[trial]
        seen[picture] = (seen.get(picture, (trial, trial))[0], trial)
    pressed = rng.random(n) >= _NO_PRESS
    says_old = rng.random(n) < np.where(old, _HIT, _FALSE_ALARM)
    changed = rng.random(n) < _CHANGE
    days = session * _DAYS_BETWEEN + _FIRST_RUN + run * _RUN_MINUTES / 1440 + place * SECONDS_PER_SLOT / _SECONDS_A_DAY

    def where_pressed(values: np.ndarray) -> np.ndarray:
        return np.where(pressed, values, np.nan)

    table = pd.DataFrame(
        {
            "SUBJECT": subject,
            "SESSION": session + 1,
            "RUN": run + 1,
            "TRIAL": trial_in_run,
            "73KID": pictures + 1,
            "10KID": slots + 1,
            "TIME": days.round(8),
            "ISOLD": old.astype(int),
            "ISCORRECT": where_pressed(says_old == old),
            "RT": where_pressed(rng.lognormal(np.log(_REACTION_MEAN), _REACTION_SPREAD, n).round(2)),
            "CHANGEMIND": where_pressed(changed),
            "MEMORYRECENT": last - 1,
            "MEMORYFIRST": first - 1,
            "ISOLDCURRENT": old_now.astype(int),
            "ISCORRECTCURRENT": where_pressed(says_old == old_now),
            "TOTAL1": (pressed & (~says_old | changed)).astype(int),
            "TOTAL2": (pressed & (says_old | changed)).astype(int),
            "BUTTON": where_pressed(says_old + 1),
            "MISSINGDATA": 0,
        }
    )
    with atomic_path(root / keys.behaviour(subject)) as temporary:
        table.to_csv(temporary, sep="\t", index=False, na_rep="NaN")
