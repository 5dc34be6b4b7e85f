"""Files named by session, and where useful by run: one of both hemispheres, or one a hemisphere."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from neuropictor.data.labs.formats import BRAIN_ENDINGS, HEMISPHERE_ENDINGS, read
from neuropictor.data.labs.reader import Files, Run
from neuropictor.nsd.constants import HEMISPHERES

_PART = r"(?:^|[._-]){}[-_]?0*(\d{{1,9}})(?![0-9A-Za-z])"
_SESSION, _RUN = re.compile(_PART.format("ses(?:sion)?")), re.compile(_PART.format("run"))
_SIDE = re.compile(r"(?:^|[._-])(?:(lh|rh)|hemi-([LR]))(?![0-9A-Za-z])")
_FOREIGN = {
    ".dlabel.nii": "labels, not responses",
    ".pscalar.nii": "parcellated, one number an area",
    ".ptseries.nii": "parcellated, one number an area",
    ".plabel.nii": "parcellated labels",
    ".dconn.nii": "connections of vertices, not responses",
    **{f"{ending}.gz": "packed, which CIFTI's programs do not read: gunzip it" for ending in BRAIN_ENDINGS[:2]},
}


def session_of(name: str) -> int | None:
    """Session in a name, e.g. 3 in ``lh.session3.mgh`` and ``sub-01_ses-03_hemi-L_betas.func.gii``."""
    match = _SESSION.search(name)
    return int(match[1]) if match else None


def side_of(name: str) -> str:
    """Hemisphere in a name: "lh", "rh" or "" ."""
    match = _SIDE.search(name)
    return "" if match is None else match[1] or {"L": "lh", "R": "rh"}[match[2]]


def hemispheres(folder: Path) -> Files | None:
    """Files of one hemisphere each, ``lh.session1.mgh`` and ``rh.session1.mgh``."""
    return _files(folder, HEMISPHERE_ENDINGS, HEMISPHERES)


def brain(folder: Path) -> Files | None:
    """Files of both hemispheres, ``session1.dscalar.nii``."""
    return _files(folder, BRAIN_ENDINGS, ("",))


def _files(folder: Path, endings: tuple[str, ...], sides: tuple[str, ...]) -> Files | None:
    if not folder.is_dir():
        return None
    every: dict[tuple[int, int, str], list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        session, side = session_of(path.name), side_of(path.name)
        if session is None or side not in sides:
            continue
        for ending, what in _FOREIGN.items():
            if path.name.endswith(ending):
                raise ValueError(f"{path} is {what}; allowed: {', '.join(endings)}, a number a vertex and trial")
        if path.name.endswith(endings):
            if "_bold." in path.name:
                raise ValueError(
                    f"{path} is a time series, by its name; allowed: a response a trial, as GLMsingle makes them of it"
                )
            run = _RUN.search(path.name)
            every[session, int(run[1]) if run else 0, side].append(path)
    if not every:
        return None

    def runs(session: int) -> list[Run]:
        numbers = sorted({run for have, run, _ in every if have == session}) or [0]
        return [
            Run(tuple(_only(folder, every[session, run, side], session, side, endings) for side in sides))
            for run in numbers
        ]

    return Files(runs, read)


def _only(folder: Path, paths: list[Path], session: int, side: str, endings: tuple[str, ...]) -> Path:
    name = f"{side}.session{session}".lstrip(".")
    if len(paths) != 1:
        raise FileNotFoundError(
            f"{folder} has {len(paths)} files {name} with one of the endings {', '.join(endings)}; allowed: exactly "
            f"one, or one a run, e.g. {name}{endings[0]}"
        )
    if {side, side_of(paths[0].resolve().name)} == set(HEMISPHERES):
        raise ValueError(f"{paths[0]} is a link to {paths[0].resolve()}, a file of the other hemisphere")
    return paths[0]
