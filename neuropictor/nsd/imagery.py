"""NSD-Imagery: eighteen targets that NSD's people saw and imagined, and which row of its betas is which trial.

Sources: cvnlab/nsddatapaper, ``main/nsdsetup.m`` (runs), ``main/export.m`` and GLMsingle's
``GLMestimatesingletrial.m`` (order of rows); NSD Data Manual, https://cvnlab.slite.page/p/oS386H_KfZF4-s (task).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from neuropictor.nsd import keys
from neuropictor.nsd.design import Design
from neuropictor.nsd.set_b import SET_B, set_b_images

#: Trials of a run: six targets, each eight times.
TARGETS_PER_RUN, REPEATS_PER_RUN = 6, 8
TRIALS_PER_RUN = TARGETS_PER_RUN * REPEATS_PER_RUN
#: The runs in the order in which they were scanned; ``vis``: seen, ``att``: attended, ``img``: imagined.
RUN_NAMES = ("visA", "attA", "imgA_1", "visB", "attB", "imgB_1", "visC", "attC", "imgC_1", "imgA_2", "imgB_2", "imgC_2")
#: Beginning of the names of the runs of each test set.
KINDS = MappingProxyType({"vision": "vis", "imagery": "img"})
#: Sets A and C by cue: bars and crosses on grey, and words, which name concepts and have no true image; of these, only
#: N was seen with its word, and the others are matched by their initials.
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
#: The sixth image of set B, an artwork.
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
    """Refuse a table whose frames, where their names begin as a true image's, are another's than was seen."""
    beginnings = {cue: Path(name).stem for cue, name in targets["name"][targets["stimulus_set"] != "C"].items()}
    for line, (frame, cue) in enumerate(zip(frames, seen, strict=True), start=2):
        named = [other for other, beginning in beginnings.items() if Path(frame).name.startswith(beginning)]
        if named and cue not in named:
            raise ValueError(
                f"{path}, line {line}: CONDITION is {cue}, whose target is {targets['name'][cue]}, but FRAMEFILE is "
                f"{frame}; allowed: the image that was seen in both. Fetch the file again"
            )
