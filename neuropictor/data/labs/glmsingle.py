"""Outputs of GLMsingle, of Python (HDF5) and MATLAB (v7.3), fitted on surfaces or grayordinates.

Names and keys: github.com/cvnlab/GLMsingle, ``glmsingle/glmsingle.py`` and ``matlab/GLMestimatesingletrial.m``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuropictor.data.labs.formats import Numbers, read_hdf5
from neuropictor.data.labs.reader import Files, Run
from neuropictor.data.labs.session_files import session_of, side_of
from neuropictor.data.stores import foreign_dataset, open_foreign
from neuropictor.nsd.constants import HEMISPHERES
from neuropictor.records.files import need

KEYS = ("betasmd", "modelmd")  # Python, MATLAB
_TYPES = ("TYPED_FITHRF_GLMDENOISE_RR", "TYPEC_FITHRF_GLMDENOISE", "TYPEB_FITHRF")  # the first that exists
_ENDINGS = (".hdf5", ".h5", ".mat", ".npy")  # the first that exists
_OLD_MATLAB = b"MATLAB 5.0 MAT-file"


def glmsingle(folder: Path) -> Files | None:
    """Read a folder that GLMsingle wrote, or several of them by session (ses-01) and hemisphere (lh, rh)."""
    if not folder.is_dir():
        return None
    outputs = [
        path
        for kind in _TYPES
        for path in sorted(folder.rglob(f"*{kind}*"))
        if path.name.endswith(tuple(kind + ending for ending in _ENDINGS))
    ]
    if not outputs:
        return None
    first = next(kind for kind in _TYPES if kind in outputs[0].name)
    every: dict[int, dict[str, Path]] = {}
    for ending in reversed(_ENDINGS):  # the best last, which replaces others
        chosen: dict[tuple[int, str], Path] = {}
        for path in outputs:
            if path.name.endswith(first + ending):
                name = "_".join(path.relative_to(folder).parts)
                place = (session_of(name) or 1, side_of(name))
                if place in chosen:
                    raise ValueError(
                        f"{path} and {chosen[place]} are of one session and hemisphere, by their names; allowed: a "
                        "person's outputs only, in folders as ses-01/lh and ses-01/rh"
                    )
                chosen[place] = path
        for (session, side), path in chosen.items():
            every.setdefault(session, {})[side] = path
    return _of_outputs(folder, every)


def _of_outputs(folder: Path, every: dict[int, dict[str, Path]]) -> Files:
    designs = {session: _design(sides) for session, sides in every.items()}
    # One fit over several sessions is divided as its option sessionindicator says.
    (whole, design), *others = designs.items()
    divided = {}
    if not others and design is not None and design["session"].nunique() > 1:
        divided = {int(session): part["row"].to_numpy() for session, part in design.groupby("session")}

    def runs(session: int) -> list[Run]:
        source, rows = session, None
        if session in divided:
            source, rows = whole, (int(divided[session][0]), int(divided[session][-1]) + 1)
        if source not in every:
            raise FileNotFoundError(
                f"{folder} has no output of GLMsingle of session {session}; allowed: "
                f"{sorted(divided or every)}, in folders as ses-01/lh"
            )
        sides = every[source]
        paths = tuple(sides[side] for side in (HEMISPHERES if len(sides) == 2 else ("",)) if side in sides)
        if len(paths) != len(sides) or not paths:
            raise FileNotFoundError(
                f"{folder}, session {session}, has outputs of {', '.join(side or 'both' for side in sides)}; allowed: "
                "one of both hemispheres, or one each in folders lh and rh"
            )
        return [Run(paths, rows)]

    def trials() -> pd.DataFrame:
        tables = []
        for session, design in designs.items():
            assert design is not None
            tables.append(design if divided else design.assign(session=session, trial=design["row"]))
            for side, path in every[session].items():
                count = _read(path, side).shape[0]
                if count != len(design):
                    raise ValueError(
                        f"{path} has {count} trials, but its DESIGNINFO {len(design)}; allowed: both of one fit"
                    )
        return pd.concat(tables, ignore_index=True)

    return Files(runs, _read, trials if all(design is not None for design in designs.values()) else None)


def _read(path: Path, side: str) -> Numbers:
    _refuse(path)
    return read_hdf5(path, side, KEYS)


def _design(sides: dict[str, Path]) -> pd.DataFrame | None:
    """Trials of one fit: ``session``, ``trial`` in it, ``row`` in the file, ``image`` (its condition, from 0)."""
    for beside in sides.values():
        for ending in _ENDINGS[:3]:
            path = beside.with_name(f"DESIGNINFO{ending}")
            if path.is_file():
                return _read_design(path)
    return None


def _read_design(path: Path) -> pd.DataFrame:
    _refuse(path)
    with open_foreign(path) as file:
        values: dict[str, Any] = {}
        for name in ("stimorder", "numtrialrun", "sessionindicator", "opt/sessionindicator"):
            if (dataset := foreign_dataset(file, name)) is not None:
                values[name.rpartition("/")[2]] = np.asarray(dataset, np.int64).ravel()
        matlab = foreign_dataset(file, "stimorder")
        if matlab is None:
            raise ValueError(f"{path} holds {', '.join(file) or 'nothing'}; allowed: stimorder, numtrialrun")
        from_one = "MATLAB_class" in matlab.attrs
    order = values["stimorder"] - from_one
    lengths = values.get("numtrialrun", np.array([len(order)]))
    sessions = values.get("sessionindicator", np.ones(len(lengths), np.int64))
    if lengths.sum() != len(order) or len(sessions) != len(lengths) or (np.diff(sessions) < 0).any() or order.min() < 0:
        raise ValueError(
            f"{path}: {len(order)} trials in stimorder from condition {order.min()} on, {lengths.sum()} in "
            f"numtrialrun, sessionindicator {sessions.tolist()}; allowed: as many trials, conditions from "
            f"{int(from_one)}, and a session a run, ascending"
        )
    table = pd.DataFrame({"session": np.repeat(sessions, lengths), "row": np.arange(len(order))})
    table["trial"] = table.groupby("session").cumcount()
    return table.assign(image=order.astype(str), split="")


def _refuse(path: Path) -> None:
    """Refuse pickles and old MATLAB files, with the line that converts them."""
    need(path, "expected an output of GLMsingle")
    if path.suffix == ".npy":
        raise ValueError(
            f"{path} is a pickle, which can run code and is never opened here; allowed: HDF5. On the computer that "
            f'made it, run in {path.parent}: python -c "import h5py, numpy; '
            f"h5py.File('{path.stem}.hdf5', 'w')['{KEYS[0]}'] = numpy.load('{path.name}', allow_pickle=True)"
            f".item()['{KEYS[0]}']\""
        )
    with open(path, "rb") as file:
        if file.read(len(_OLD_MATLAB)) == _OLD_MATLAB:
            raise ValueError(
                f"{path} is a MATLAB file below v7.3; allowed: v7.3. In MATLAB: s = load('{path.name}'); "
                f"save('{path.name}', '-struct', 's', '-v7.3')"
            )
