"""CIFTI time series to frames, of which the encoder learns without images."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from neuropictor.config import PreprocessConfig
from neuropictor.data.frames import write_frames
from neuropictor.data.labs.formats import read
from neuropictor.data.preprocess import recorded
from neuropictor.data.rows import evenly_spaced
from neuropictor.data.z_scores import Statistics, z_score
from neuropictor.records.files import atomic_path, need
from neuropictor.records.progress import progress
from neuropictor.records.record import RunRecord, record_path
from neuropictor.surface import load_geometry
from neuropictor.surface.atlas import FS_LR_VERTICES

log = logging.getLogger(__name__)

_LEAST_FRAMES = 10  # of a run, below which z-scores mean little
_MOST_PROBLEMS = 20  # files that cannot be used, after which something must be wrong with all


def import_frames(files: Sequence[Path], frames: int, config: PreprocessConfig, out: Path) -> None:
    """Write a store of frames from CIFTI time series, one run at a time.

    What was read of each run is kept beside `out` until all are: an interrupted import goes on where it stopped, and
    reads only what is new where files are added or left out.

    Parameters
    ----------
    files
        ``.dtseries.nii`` on fs_LR 32k: 91,282 grayordinates, 59,412 of them on the cortex, all 64,984 vertices, or any
        others that their brain models name.
    frames
        Most frames that are taken of a run, evenly over its length.
    config
        `clip` is used.
    out
        HDF5 file to write; a record is written beside it.

    Raises
    ------
    ValueError
        If files are damaged, on another mesh, too short or do not vary, each by name; the others stay read.
    """
    out, files = Path(out), list(files)
    kept = out.with_suffix(".work")
    runs = _read_all(files, frames, config.clip, kept)
    settings = {"preprocess": {"clip": config.clip}, "frames": frames}
    with (
        RunRecord(
            record_path(out), "import_frames", config=settings, inputs=recorded([], files), outputs=[out]
        ) as record,
        atomic_path(out) as temporary,
        h5py.File(temporary, "w") as file,
    ):
        counts = [len(np.load(run, mmap_mode="r")) for run in runs]
        every = (np.load(run) for run in progress(runs, "Writing frames", unit="run"))
        results = write_frames(file, files, counts, every)
        record.add(runs=len(runs), series_bytes=sum(path.stat().st_size for path in files), **results)
    shutil.rmtree(kept)
    log.info(
        "%s frames of %s runs, of which %s lack vertices",
        *(f"{n:,}" for n in (results["frames"], len(runs), results["runs_lacking_vertices"])),
    )


def _read_all(files: Sequence[Path], frames: int, clip: float, kept: Path) -> list[Path]:
    """Return a file of each run's frames, float16 [n, V], NaN where missing; read what is not there yet."""
    runs, problems = [], []
    for path in progress(files, "Reading time series", unit="run"):
        try:
            need(path, "expected a time series")
            status = path.stat()
            key = f"{path.absolute()} {status.st_size} {status.st_mtime_ns} {frames} {clip}"
            run = kept / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
            values = None if run.is_file() else _read_run(path, frames, clip)
        except (OSError, ValueError) as error:
            log.warning("%s", error)
            problems.append(f"  - {error}")
            if len(problems) == _MOST_PROBLEMS:
                break
            continue
        if values is not None:
            with atomic_path(run) as temporary:
                np.save(temporary, values)
        runs.append(run)
    if problems:
        count = f"{_MOST_PROBLEMS} or more" if len(problems) == _MOST_PROBLEMS else len(problems)
        raise ValueError(
            f"{count} of {len(files)} time series cannot be used:\n"
            + "\n".join(problems)
            + f"\nAllowed: whole runs on fs_LR 32k, e.g. by a pattern that leaves these out; {len(runs)} that can be"
            f" used are kept in {kept}, and not read again"
        )
    return runs


def _read_run(path: Path, frames: int, clip: float) -> np.ndarray:
    """Return frames, evenly chosen among those with numbers and z-scored over all of them, float16 [n, V]."""
    numbers, geometry = read(path, ""), load_geometry()
    values = numbers.at(np.arange(numbers.shape[0]), geometry.vertex + FS_LR_VERTICES * geometry.hemisphere)
    values = values.astype(np.float32)
    values[~np.isfinite(values)] = np.nan
    values[~np.nan_to_num(values).any(1)] = np.nan  # censored
    held = np.flatnonzero(np.isfinite(values).any(1))
    if len(held) < _LEAST_FRAMES:
        raise ValueError(
            f"{path} has {len(held)} frames with numbers in visual cortex, of {len(values)}; allowed: at least "
            f"{_LEAST_FRAMES}, over which each vertex is z-scored"
        )
    statistics = Statistics.of(values, np.ones(len(values), bool))
    if np.isnan(statistics.spread).all():
        raise ValueError(
            f"{path} does not vary over time at any vertex of visual cortex; allowed: a time series, as it was measured"
        )
    chosen = values[held[evenly_spaced(len(held), frames)]]
    return np.clip(z_score(chosen, statistics, str(path)), -clip, clip).astype(np.float16)
