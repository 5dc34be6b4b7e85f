"""Frames of time series, from which the encoder learns without images: an HDF5 file whose frames are read on demand.

A frame is one time point of a run on visual cortex, z-scored over its run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py
import numpy as np

from neuropictor.data.rows import Rows
from neuropictor.data.stores import expect, open_store
from neuropictor.surface import load_geometry


class FrameStore:
    """Read access to a store of frames; it may be handed to worker processes.

    Parameters
    ----------
    path
        File that `neuropictor.data.time_series.import_frames` has written.

    Attributes
    ----------
    run
        int32 [F]: the run of each frame, ascending.
    runs
        Number of runs R.
    rows
        Responses of the frames [F, V] as stored, float16, unitless.
    missing
        bool [R, V]: vertices that have no number in any frame of a run, or do not vary in it; 0 is stored there.
    lacking
        Whether any run lacks any vertex.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it is no store of frames.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with open_store(self.path) as file:
            absent = [name for name in ("responses", "run", "missing") if name not in file]
            if absent or "runs_lacking" not in file.attrs:
                raise ValueError(
                    f"{self.path}: {', '.join(absent) or 'runs_lacking'} missing, found {sorted(file)}; allowed: frames"
                    " as neuropictor import-frames writes them, or responses as import-betas does"
                )
            vertices = load_geometry().n_vertices
            expect(file, {"run": ("iu", (None,)), "missing": ("b", (None, vertices))})
            expect(file, {"responses": ("f", (len(file["run"]), vertices))})
            self.run: np.ndarray = file["run"][:]
            if len(self.run) and (self.run.min() < 0 or self.run.max() >= len(file["missing"])):
                raise ValueError(
                    f"{self.path}: run names runs {self.run.min()} to {self.run.max()}; allowed: 0 to "
                    f"{len(file['missing']) - 1}. Remove the file and import it again"
                )
            self.runs, self.lacking = len(file["missing"]), bool(file.attrs["runs_lacking"])
        self.rows, self.missing = Rows(self.path, "responses"), Rows(self.path, "missing")

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.run)


def is_frames(path: str | Path) -> bool:
    """Tell a store of frames from one of responses."""
    with open_store(path) as file:
        return "nsd_id" not in file


def write_frames(
    file: h5py.File, series: Sequence[Path], counts: Sequence[int], runs: Iterable[np.ndarray]
) -> dict[str, int]:
    """Write a store of frames into an open, empty HDF5 file.

    Parameters
    ----------
    file
        Open for writing.
    series
        File of each run, for those who look into the store.
    counts
        Frames of each run.
    runs
        Of each run float16 [n, V], NaN where missing.

    Returns
    -------
    dict
        Counts for the record: frames, runs that lack vertices, vertices that all runs lack, values missing.
    """
    total, vertices = sum(counts), load_geometry().n_vertices
    responses = file.create_dataset("responses", (total, vertices), np.float16)
    missing = file.create_dataset("missing", (len(counts), vertices), bool)
    lost, lacking, always, start = 0, 0, np.ones(vertices, bool), 0
    for row, values in enumerate(runs):
        nothing = np.isnan(values)
        absent = nothing.all(0)
        missing[row] = absent
        lost, lacking, always = lost + int(nothing.sum()), lacking + bool(absent.any()), always & absent
        responses[start : start + len(values)] = np.nan_to_num(values)
        start += len(values)
    file["run"] = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    file["series"] = [str(path) for path in series]
    file.attrs.update(mesh="fs_LR_32k", runs_lacking=lacking)
    return {
        "frames": total,
        "runs_lacking_vertices": lacking,
        "vertices_missing": int(always.sum()),
        "values_missing": lost,
    }
