"""NSD-Imagery: eighteen targets that NSD's people saw and imagined, and which row of its betas is which trial.

Sources: cvnlab/nsddatapaper, ``main/nsdsetup.m`` (runs), ``main/export.m`` and GLMsingle's
``GLMestimatesingletrial.m`` (order of rows); NSD Data Manual, https://cvnlab.slite.page/p/oS386H_KfZF4-s (task).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from neuropictor.nsd import keys
from neuropictor.nsd.constants import SHARED_IMAGES
from neuropictor.nsd.design import LEFT_OUT, TEST, TRAIN, VALIDATION, Design

log = logging.getLogger(__name__)

#: Trials of a run: six targets, each eight times.
TARGETS_PER_RUN, REPEATS_PER_RUN = 6, 8
TRIALS_PER_RUN = TARGETS_PER_RUN * REPEATS_PER_RUN
#: The runs in the order in which they were scanned; ``vis``: seen, ``att``: attended, ``img``: imagined.
RUN_NAMES = ("visA", "attA", "imgA_1", "visB", "attB", "imgB_1", "visC", "attC", "imgC_1", "imgA_2", "imgB_2", "imgC_2")
#: Beginning of the names of the runs of each test set.
KINDS = MappingProxyType({"vision": "vis", "imagery": "img"})
#: Sets A and C by cue: bars and crosses on grey, and words, which name concepts and have no true image.
SET_A = MappingProxyType(
    {
        "H": "bar_000.0deg_450L_43W.png",
        "R": "bar_045.0deg_450L_43W.png",
        "V": "bar_090.0deg_450L_43W.png",
        "L": "bar_135.0deg_450L_43W.png",
        "P": "crs_000.0deg_450L_43W.png",
        "E": "crs_045.0deg_450L_43W.png",
    }
)
SET_C = MappingProxyType({"S": "stripes", "Z": "zebra", "M": "mammal", "Y": "yellow", "N": "banana", "F": "fruit"})
#: Set B by cue: number among NSD's shared images, and NSD's number, both from 1, of five; and an artwork.
SET_B = MappingProxyType(
    {"W": (385, 28752), "K": (413, 30857), "B": (741, 53882), "C": (842, 61178), "D": (907, 65873)}
)
ARTWORK_CUE, ARTWORK = "T", "shared0000_nsd00000.png"
_SHARED_NAME = "shared{:04d}_nsd{:05d}.png"


@dataclass(frozen=True)
class Run:
    """A run: its name, its beginning of `KINDS` or ``att``, its set A, B or C, and its rows of the betas, from 0."""

    name: str
    kind: str
    stimulus_set: str
    rows: range


def _list_runs() -> dict[str, Run]:
    runs, first = {}, 0
    for name in RUN_NAMES:
        # A trial of attention has two betas, of the cue and of the images that follow.
        count = TRIALS_PER_RUN * (2 if name.startswith("att") else 1)
        runs[name] = Run(name, name[:3], name[3], range(first, first + count))
        first += count
    return runs


RUNS: Mapping[str, Run] = MappingProxyType(_list_runs())
#: Rows of a person's betas.
ROWS = RUNS[RUN_NAMES[-1]].rows.stop


def runs_of(test_set: str) -> list[Run]:
    """Return the runs of a test set, ``vision`` or ``imagery``, in order."""
    return [run for run in RUNS.values() if run.kind == KINDS[test_set]]


def shared_keys() -> list[str]:
    """Return the keys of the target images that are no images of NSD's own."""
    return [*(keys.imagery_target("A", name) for name in SET_A.values()), keys.imagery_target("B", ARTWORK)]


def subject_keys(subject: int) -> list[str]:
    """Return the keys of the tables of a person's trials in all runs that belong to a test set."""
    return [keys.imagery_trials(subject, run.name) for test_set in KINDS for run in runs_of(test_set)]


def set_b_images(shared: np.ndarray) -> np.ndarray:
    """Return the nsd_ids of the five of NSD's images that are in set B, which must never train.

    Parameters
    ----------
    shared
        int [n]: nsd_ids of the shared images, ascending; of a simulated root with fewer than 1000, five evenly spaced
        ones are in set B.

    Raises
    ------
    ValueError
        If there are fewer than five.
    """
    if len(shared) < len(SET_B):
        raise ValueError(
            f"{len(shared)} shared images, but set B of NSD-Imagery has {len(SET_B)} of them; allowed: at least as"
            " many, e.g. simulate: {shared_images: 12}"
        )
    places = np.array([place - 1 for place, _ in SET_B.values()])
    if len(shared) != SHARED_IMAGES:
        places = np.linspace(0, len(shared) - 1, len(SET_B)).round().astype(int)
    return np.asarray(shared)[places]


def targets_of(design: Design) -> pd.DataFrame:
    """List the eighteen targets.

    Returns
    -------
    pandas.DataFrame
        Indexed by cue: stimulus_set (A, B or C), name (of the image's file, or the word), nsd_id (-1: none of NSD's).

    Raises
    ------
    ValueError
        If the shared images of NSD itself are not those that the names of set B say.
    """
    images = set_b_images(design.shared)
    rows = [(cue, "A", name, -1) for cue, name in SET_A.items()]
    for (cue, published), nsd_id in zip(SET_B.items(), images.tolist(), strict=True):
        numbers = int(np.searchsorted(design.shared, nsd_id)) + 1, nsd_id + 1
        if not keys.is_simulated(design.root) and numbers != published:
            raise ValueError(
                f"{design.root / keys.EXPERIMENT_DESIGN}: shared image {numbers[0]} is NSD's {numbers[1]} (from 1); "
                f"allowed: as in the name of set B's image, {_SHARED_NAME.format(*published)}. Fetch the file again"
            )
        rows.append((cue, "B", _SHARED_NAME.format(*numbers), nsd_id))
    rows.append((ARTWORK_CUE, "B", ARTWORK, -1))
    rows += [(cue, "C", word, -1) for cue, word in SET_C.items()]
    return pd.DataFrame(rows, columns=["cue", "stimulus_set", "name", "nsd_id"]).set_index("cue")


def read_trials(root: str | Path, subject: int, test_set: str, targets: pd.DataFrame) -> pd.DataFrame:
    """Say of each trial of a test set which target it is: the seen one, or that of the cue where nothing was seen.

    In vision runs the cue fits the image in only half of the trials; ``CONDITION`` is what was seen. Rows are
    chronological, as those of the tables (see `neuropictor.data.trial_order`).

    Parameters
    ----------
    root
        Folder in NSD's layout.
    subject
        1 to 8.
    test_set
        ``vision`` or ``imagery``.
    targets
        Of `targets_of`.

    Returns
    -------
    pandas.DataFrame
        row (of the betas, from 0), run (name), target (cue that belongs to it), cue (that was shown).

    Raises
    ------
    FileNotFoundError
        If a table is missing.
    ValueError
        If it has not 48 trials, eight of each target of its set; or names another image than its condition.
    """
    tables = []
    for run in runs_of(test_set):
        path = Path(root) / keys.imagery_trials(subject, run.name)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; fetch or simulate NSD-Imagery, or leave nsd.test_sets empty")
        try:
            table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
            column = "CONDITION" if test_set == "vision" else "CUE"
            target, cue = (table[name].str.strip() for name in (column, "CUE"))
        except (ValueError, KeyError) as error:  # pandas' own errors are ValueErrors
            raise ValueError(
                f"{path} cannot be read ({error}); allowed: NSD's table of {TRIALS_PER_RUN} trials, tab-separated, with"
                " the columns CONDITION, CUE and FRAMEFILE"
            ) from error
        expected = targets.index[targets["stimulus_set"] == run.stimulus_set]
        counts = target.value_counts()
        if set(counts.index) != set(expected) or (counts != REPEATS_PER_RUN).any():
            raise ValueError(
                f"{path}: {column} has {', '.join(f'{name} {count}' for name, count in sorted(counts.items()))} times; "
                f"allowed: each of {', '.join(expected)} {REPEATS_PER_RUN} times"
            )
        if test_set == "vision" and "FRAMEFILE" in table:
            _check_frames(path, table["FRAMEFILE"], target, targets)
        tables.append(pd.DataFrame({"row": list(run.rows), "run": run.name, "target": target, "cue": cue}))
    return pd.concat(tables, ignore_index=True)


def _check_frames(path: Path, frames: pd.Series, seen: pd.Series, targets: pd.DataFrame) -> None:
    """Refuse a table whose frames, where their names begin as a target's, are another target's than was seen."""
    beginnings = {cue: Path(name).stem for cue, name in targets["name"].items()}
    for line, (frame, cue) in enumerate(zip(frames, seen, strict=True), start=2):
        named = [other for other, beginning in beginnings.items() if Path(frame).name.startswith(beginning)]
        if named and cue not in named:
            raise ValueError(
                f"{path}, line {line}: CONDITION is {cue}, whose image is {beginnings[cue]}, but FRAMEFILE is {frame}; "
                "allowed: the image that was seen in both. Fetch the file again"
            )


def leave_out_of_training(split: np.ndarray, nsd_ids: np.ndarray, shared: np.ndarray, who: str) -> np.ndarray:
    """Take the images of set B out of training and validation.

    NSD's own people are tested on them anyway; people of other data sets may have seen them in training.

    Parameters
    ----------
    split
        int [trials], as of `Design.splits`.
    nsd_ids
        int [trials], in NSD's numbers.
    shared
        As for `set_b_images`.
    who
        Named in the log.

    Returns
    -------
    numpy.ndarray
        The split, with -1, left out, in their place.
    """
    out = _in_set_b(nsd_ids, shared) & (split != TEST)
    if out.any():
        images = np.unique(np.asarray(nsd_ids)[out])
        log.info("%s: images %s are left out, as they test NSD-Imagery", who, ", ".join(map(str, images)))
    return np.where(out, LEFT_OUT, split).astype(split.dtype)


def check_untrained(split: np.ndarray, nsd_ids: np.ndarray, shared: np.ndarray, where: str) -> None:
    """Make sure that no image of set B trains or validates; parameters as `leave_out_of_training`.

    Raises
    ------
    ValueError
        Naming `where`, and the first of them.
    """
    trained = np.isin(split, (TRAIN, VALIDATION)) & _in_set_b(nsd_ids, shared)
    if trained.any():
        raise ValueError(
            f"{where}: image {np.asarray(nsd_ids)[trained][0]} trains or validates, but it is in set B of NSD-Imagery, "
            "so scores there would say nothing; allowed: networks that never saw it. Prepare these responses again, "
            "with NSD's table of images, which leaves it out"
        )


def _in_set_b(nsd_ids: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Tell which images are of set B; none in a simulated root that is too small for one."""
    return np.isin(nsd_ids, set_b_images(shared) if len(shared) >= len(SET_B) else [])
