"""Betas of a person's sessions on visual cortex, from files of any kind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from neuropictor.data.labs.formats import MESHES, Numbers
from neuropictor.data.sessions import Resampler
from neuropictor.nsd.constants import HEMISPHERES
from neuropictor.records.progress import progress
from neuropictor.surface import load_geometry
from neuropictor.surface.atlas import FS_LR_VERTICES, MESH_VERTICES

log = logging.getLogger(__name__)

_LARGEST = 1e6  # times the usual size of a beta: no measured one, and it would hide all others of its vertex
_TRIALS_AT_ONCE = 2048  # 73 MB of visual cortex; checks take a few times as much
_COMPARED, _COMPARED_VERTICES = 8, 10_242  # trials and vertices in which hemispheres are compared


@dataclass(frozen=True)
class Run:
    """Trials that lie in one file of both hemispheres, or in two, left and right; `rows` of them, default all."""

    paths: tuple[Path, ...]
    rows: tuple[int, int] | None = None


@dataclass(frozen=True)
class Files:
    """A person's files.

    Attributes
    ----------
    runs
        Returns the runs of a session, in order; raises FileNotFoundError or ValueError for wrong files.
    read
        Reads a file of a side: "lh", "rh" or "" for both.
    trials
        Where the files name their trials, a table of them: ``session``, ``trial`` (place in the session, from 0),
        ``image`` (name or number as text) and ``split`` (or ""); None where they do not.
    facts
        What the files say of the person and how they were made, for the record; None: nothing.
    """

    runs: Callable[[int], list[Run]]
    read: Callable[[Path, str], Numbers]
    trials: Callable[[], pd.DataFrame] | None = None
    facts: Callable[[], dict[str, str | float]] | None = None


class LabBetas:
    """Betas of a lab's own sessions on visual cortex.

    Parameters
    ----------
    files
        Of a kind in `neuropictor.data.labs.kinds`.
    trials
        dict of int arrays: by session: places of the trials to read, ascending.

    Attributes
    ----------
    mesh
        Name of the mesh that the first session lies on; all must.
    """

    def __init__(self, files: Files, trials: Mapping[int, np.ndarray | pd.Series]):
        self._files, self.trials = files, {session: np.asarray(rows) for session, rows in trials.items()}
        paths = self._files.runs(min(trials))[0].paths
        vertices = files.read(paths[0], _sides(paths)[0]).vertices * len(paths)
        self.mesh = next(mesh for mesh, count in MESHES.items() if 2 * count == vertices)
        geometry = load_geometry()
        if self.mesh in MESH_VERTICES:
            self._columns = geometry.columns(self.mesh)
            self._resample = Resampler(sparse.csr_array(geometry.resampler(self.mesh)[:, self._columns]))
        else:
            self._columns = geometry.vertex + FS_LR_VERTICES * geometry.hemisphere
            self._resample = None

    def check(self, sessions: list[int]) -> None:
        """Raise FileNotFoundError where a session lacks a file."""
        self.files(sessions)

    def files(self, sessions: list[int]) -> list[Path]:
        """Return the files of the sessions, left then right."""
        return list(
            dict.fromkeys(path for session in sessions for run in self._files.runs(session) for path in run.paths)
        )

    def betas(self, session: int) -> np.ndarray:
        """Return the betas of the session's trials, float32 [T, V], NaN where missing."""
        asked, start, runs = self.trials[session], 0, self._files.runs(session)
        betas = np.empty((len(asked), load_geometry().n_vertices), np.float32)
        for run in runs:
            numbers = [self._files.read(path, side) for path, side in zip(run.paths, _sides(run.paths), strict=True)]
            for path, part in zip(run.paths, numbers, strict=True):
                allowed = 2 * MESHES[self.mesh] // len(run.paths)
                if part.vertices != allowed:
                    raise ValueError(f"{path} has {part.vertices} vertices; allowed: those of {self.mesh}, {allowed}")
                if part.shape[0] != numbers[0].shape[0]:
                    raise ValueError(
                        f"{path} has {part.shape[0]} trials, but {run.paths[0].name} {numbers[0].shape[0]}; allowed: "
                        "as many"
                    )
            first, last = run.rows or (0, numbers[0].shape[0])
            inside = np.flatnonzero((asked >= start) & (asked < start + last - first))
            blocks = [inside[row : row + _TRIALS_AT_ONCE] for row in range(0, len(inside), _TRIALS_AT_ONCE)]
            shown = f"Reading trials of session {session}"
            for rows in progress(blocks, shown, unit="block") if len(blocks) > 1 else blocks:
                betas[rows] = self._on_cortex(run, numbers, asked[rows] - start + first, session)
            start += last - first
        if asked[-1] >= start:
            told = runs[0].paths[0] if len(runs) == 1 else f"the {len(runs)} runs of {runs[0].paths[0].parent}"
            raise ValueError(
                f"{told} has {start} trials, but the table asks for trial {asked[-1]} of session {session}; allowed: "
                f"0 to {start - 1}"
            )
        if start > len(asked):
            log.warning("Session %d: %d of %d trials have no row and are not used", session, start - len(asked), start)
        return betas

    def _on_cortex(self, run: Run, numbers: list[Numbers], trials: np.ndarray, session: int) -> np.ndarray:
        half = MESHES[self.mesh]
        split = int(np.searchsorted(self._columns, half))
        if len(numbers) == 1:
            values = numbers[0].at(trials, self._columns)
            parts = [values[:, :split], values[:, split:]]
        else:
            parts = [numbers[0].at(trials, self._columns[:split]), numbers[1].at(trials, self._columns[split:] - half)]
        self._check_sizes(run, parts, trials, session)
        self._check_sides(run, numbers, trials[:_COMPARED])
        betas = np.concatenate(parts, axis=1).astype(np.float32)
        if self._resample is not None:
            return self._resample(betas)
        betas[~np.isfinite(betas)] = np.nan
        return betas

    @staticmethod
    def _check_sizes(run: Run, parts: list[np.ndarray], trials: np.ndarray, session: int) -> None:
        sizes = [np.where(np.isfinite(part), np.abs(part.astype(np.float64)), 0) for part in parts]
        largest = np.stack([part.max(1) for part in sizes])
        usual = np.median(np.concatenate([part[part > 0] for part in sizes])) if largest.any() else 0
        # A hemisphere may be missing in all trials, and is counted as missing.
        wrong = np.argwhere(
            (largest == 0) & (largest.any(1, keepdims=True) | ~largest.any(0)) | (largest > _LARGEST * usual)
        )
        for side, trial in wrong[:1]:
            raise ValueError(
                f"{run.paths[side % len(run.paths)]}, trial {trials[trial]}: the largest beta is "
                f"{largest[side, trial]:.3g}, the usual size in session {session} {usual:.3g}; allowed: betas of one "
                "unit, NaN where a value is missing, and no row in the table for a trial that is missing"
            )

    def _check_sides(self, run: Run, numbers: list[Numbers], trials: np.ndarray) -> None:
        """Refuse hemispheres that are the same, or whose empty vertices are the other's medial wall."""
        half = MESHES[self.mesh]
        left, right = numbers[0], numbers[-1]
        names = " and ".join([str(run.paths[0]), *(path.name for path in run.paths[1:])])
        # On fsaverage the first vertices lie all over the sphere; on fs_LR the medial wall is looked at too.
        vertices = np.arange(half if half == FS_LR_VERTICES else min(half, _COMPARED_VERTICES))
        shift = half if len(numbers) == 1 else 0
        both = [left.at(trials, vertices), right.at(trials, vertices + shift)]
        if np.array_equal(both[0], both[1]):
            raise ValueError(f"{names} hold the same numbers; allowed: a hemisphere each")
        if half != FS_LR_VERTICES or left.place is not None:
            return
        empty = np.stack([(~np.isfinite(part) | (part == 0)).all(0) for part in both])
        wall = ~load_geometry().cortex
        if not np.array_equal(empty, wall) and np.array_equal(empty, wall[::-1]):
            raise ValueError(
                f"{names}: the hemispheres look swapped, as the vertices without numbers are the other one's medial "
                "wall; allowed: the left, then the right"
            )


def _sides(paths: tuple[Path, ...]) -> tuple[str, ...]:
    return HEMISPHERES if len(paths) == 2 else ("",)
