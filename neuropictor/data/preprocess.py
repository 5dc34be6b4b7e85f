"""From NSD's files to the prepared stores: betas to z-scored responses, pictures to their working size."""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from neuropictor.config import PreprocessConfig
from neuropictor.data.responses import SPLITS, ResponseWriter
from neuropictor.data.rows import read_rows
from neuropictor.data.stimuli import StimulusWriter, resize_pictures
from neuropictor.nsd import keys
from neuropictor.nsd.annotations import load_annotations
from neuropictor.nsd.betas import mesh_of, read_session
from neuropictor.nsd.constants import HEMISPHERES, REPEATS
from neuropictor.nsd.design import TEST, load_design
from neuropictor.runlog import WHOLE_HASH_LIMIT, RunRecord, atomic_path, progress, record_path
from neuropictor.surface import load_geometry

log = logging.getLogger(__name__)

_PICTURES_AT_ONCE = 64
_LEAST_WEIGHT = 1e-3  # share of a vertex's resampling weights that must fall on valid source vertices


def preprocess_subject(nsd_root: Path, subject: int, config: PreprocessConfig, beta_version: str, out: Path) -> None:
    """Prepare the responses of one subject.

    Session by session, both hemispheres' beta files are passed over once, reading only the source vertices that
    visual cortex needs; they are resampled, z-scored per vertex and session, clipped, and written as float16.

    Parameters
    ----------
    nsd_root : Path
        Folder in NSD's layout, real or simulated.
    subject : int
        1..8.
    config : PreprocessConfig
        `clip`, `validation_pictures` and `statistics` are used.
    beta_version : str
        For example "betas_fithrf_GLMdenoise_RR".
    out : Path
        `responses.h5` to write; a record is written beside it.

    Raises
    ------
    FileNotFoundError, ValueError
        For missing, truncated or inconsistent files, with the file's name.
    """
    nsd_root, out = Path(nsd_root), Path(out)
    design = load_design(nsd_root)
    trials = design.trials(subject)
    split = design.splits(subject, config.validation_pictures)
    mesh = mesh_of(nsd_root, subject, beta_version)
    geometry = load_geometry()
    columns = geometry.columns(mesh)
    weights = sparse.csr_array(geometry.resampler(mesh)[:, columns])
    sessions = [int(session) for session in trials["session"].unique()]
    data = "simulated" if keys.is_simulated(nsd_root) else "nsd"
    files = [
        nsd_root / keys.betas(subject, session, side, beta_version) for session in sessions for side in HEMISPHERES
    ]
    absent = np.zeros((len(sessions), geometry.n_vertices), bool)
    with (
        RunRecord(record_path(out), "preprocess", config=config, inputs=_recorded(nsd_root, files)) as record,
        atomic_path(out) as temporary,
        h5py.File(temporary, "w") as file,
    ):
        writer = ResponseWriter(
            file, len(trials), geometry.n_vertices, subject=subject, data=data, beta_version=beta_version, mesh=mesh
        )
        for row, session in enumerate(progress(sessions, f"Preprocessing subject {subject}", unit="session")):
            here = (trials["session"] == session).to_numpy()
            betas = read_session(nsd_root, subject, session, columns, beta_version, mesh, int(here.sum()))
            counted = split[here] != TEST if config.statistics == "non_test" else np.ones(int(here.sum()), bool)
            responses = z_score(resample(betas, weights), counted, f"subject {subject}, session {session}")
            absent[row] = ~np.isfinite(responses).any(0)
            writer.append(np.nan_to_num(np.clip(responses, -config.clip, config.clip)))
        session_row = np.searchsorted(sessions, trials["session"].to_numpy())
        ncsnr = noise_ceiling(file["responses"], trials["nsd_id"].to_numpy(), split != TEST, absent, session_row)
        writer.finish(
            ncsnr=ncsnr, split=split, **{name: trials[name].to_numpy() for name in ("nsd_id", "session", "repeat")}
        )
        counts = {
            name: {"trials": int((split == code).sum()), "pictures": int(trials["nsd_id"][split == code].nunique())}
            for code, name in enumerate(SPLITS)
        }
        record.add(
            subject=subject,
            data=data,
            mesh=mesh,
            sessions=len(sessions),
            splits=counts,
            vertices=geometry.n_vertices,
            source_vertices=len(columns),
            vertices_missing_in_a_session=int(absent.any(0).sum()),
            ncsnr_median=None if np.isnan(ncsnr).all() else round(float(np.nanmedian(ncsnr)), 4),
            beta_bytes=sum(path.stat().st_size for path in files),
        )
    log.info("Subject %d: %s", subject, ", ".join(f"{c['pictures']} {name} pictures" for name, c in counts.items()))


def _recorded(nsd_root: Path, files: list[Path]) -> list[Path]:
    """Choose the inputs to checksum: above 4 GiB of betas, reading them all again would double the time."""
    inputs = [nsd_root / keys.EXPERIMENT_DESIGN]
    present = [path for path in files if path.is_file()]
    if sum(path.stat().st_size for path in present) <= WHOLE_HASH_LIMIT:
        inputs += present
    return [path for path in inputs if path.is_file()]


def resample(betas: np.ndarray, weights: sparse.csr_array) -> np.ndarray:
    """Resample betas to visual cortex; invalid source vertices are left out and the other weights scaled up.

    Parameters
    ----------
    betas : float32 array [T, n]
        Percent signal change at the n source vertices; NaN or infinite where invalid.
    weights : sparse array [V, n]
        Rows sum to one.

    Returns
    -------
    float32 array [T, V]
        NaN where no valid source vertex is left.
    """
    valid = np.isfinite(betas)
    if valid.all():
        return np.ascontiguousarray((weights @ betas.T).T)
    total = np.asarray(weights.sum(1)).reshape(-1, 1)
    values = weights @ np.where(valid, betas, 0).T
    # NSD's invalid vertices are invalid in a whole session: one trial then tells the share for all.
    constant = (valid == valid[0]).all()
    share = (weights @ (valid[:1] if constant else valid).T.astype(np.float32)) / total
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.where(share > _LEAST_WEIGHT, values / share, np.nan)
    return np.ascontiguousarray(values.T, dtype=np.float32)


def z_score(responses: np.ndarray, counted: np.ndarray, where: str) -> np.ndarray:
    """Z-score every vertex over the trials of one session.

    Parameters
    ----------
    responses : float32 array [T, V]
        Percent signal change, NaN where missing.
    counted : bool array [T]
        Trials that mean and standard deviation (with N - 1, as in NSD's own code) are taken over.
    where : str
        Named in the error.

    Returns
    -------
    float32 array [T, V]
        Unitless; NaN where missing, and at vertices that do not vary.
    """
    if counted.sum() < 2:
        raise ValueError(
            f"{where}: {int(counted.sum())} of {len(counted)} trials show no test picture, at least 2 are needed for "
            "mean and standard deviation; allowed is preprocess.statistics: all, or more trials a session, e.g. 750"
        )
    valid = np.isfinite(responses[counted])
    number = valid.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        chosen = np.where(valid, responses[counted], 0)
        mean = chosen.sum(0, dtype=np.float64) / number
        deviation = np.where(valid, responses[counted] - mean.astype(np.float32), 0)
        spread = np.sqrt(np.square(deviation).sum(0, dtype=np.float64) / (number - 1))
        spread[~(spread > 1e-6 * (1 + np.abs(mean)))] = np.nan
        return (responses - mean.astype(np.float32)) / spread.astype(np.float32)


def noise_ceiling(
    dataset: h5py.Dataset, nsd_id: np.ndarray, counted: np.ndarray, absent: np.ndarray, session_row: np.ndarray
) -> np.ndarray:
    """Noise ceiling signal-to-noise ratio (ncsnr) of z-scored responses.

    NSD's rule (nsddatapaper, `main/export_noiseceiling.m` and `main/translatevmetric.m`): of the pictures with three
    trials, the noise variance is the mean unbiased variance within a picture, and ncsnr = sqrt(max(0, 1 - noise)) /
    sqrt(noise). Test pictures are left out here, so that vertices may be chosen by it.

    Parameters
    ----------
    dataset : float16 data set [T, V]
        Responses.
    nsd_id : int array [T]
    counted : bool array [T]
        Trials of pictures that take part.
    absent : bool array [sessions, V]
        Vertices without data in a session (zero in the data set).
    session_row : int array [T]
        Row of `absent` for each trial.

    Returns
    -------
    float32 array [V]
        NaN where no picture has three valid trials.
    """
    order = np.argsort(nsd_id, kind="stable")
    order = order[counted[order]]
    _, first, number = np.unique(nsd_id[order], return_index=True, return_counts=True)
    complete = np.flatnonzero(number == REPEATS)
    if not len(complete):
        log.warning("No picture besides the test pictures was shown %d times: the noise ceiling is unknown.", REPEATS)
    variance = np.zeros(dataset.shape[1])
    count = np.zeros(dataset.shape[1])
    for start in range(0, len(complete), _PICTURES_AT_ONCE):
        rows = order[first[complete[start : start + _PICTURES_AT_ONCE], None] + np.arange(REPEATS)]
        values = read_rows(dataset, rows.reshape(-1)).astype(np.float32).reshape(*rows.shape, -1)
        valid = ~absent[session_row[rows]].any(1)
        variance += np.where(valid, values.var(1, ddof=1), 0).sum(0)
        count += valid.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        noise = variance / count
        return (np.sqrt(np.maximum(0, 1 - noise)) / np.sqrt(noise)).astype(np.float32)


def preprocess_stimuli(nsd_root: Path, subjects: list[int], config: PreprocessConfig, out: Path) -> None:
    """Prepare the pictures that the given subjects saw, with captions, main category and background kind.

    Parameters
    ----------
    nsd_root : Path
        Folder in NSD's layout, real or simulated, with COCO's annotation files.
    subjects : list of int
        1..8; the union of their pictures is written.
    config : PreprocessConfig
        `picture_size` is used: pictures are reduced to it by area averaging.
    out : Path
        `stimuli.h5` to write; a record is written beside it.

    Raises
    ------
    FileNotFoundError, ValueError
        For missing or inconsistent files, with the file's name.
    """
    nsd_root, out = Path(nsd_root), Path(out)
    design = load_design(nsd_root)
    nsd_ids = design.pictures(subjects)
    bank = nsd_root / keys.STIMULI
    if not bank.is_file():
        raise FileNotFoundError(f"{bank} is missing; fetch or simulate NSD's pictures first")
    texts: pd.DataFrame = load_annotations(nsd_root, design.stimulus_info, nsd_ids.tolist())
    data = "simulated" if keys.is_simulated(nsd_root) else "nsd"
    inputs = [bank, nsd_root / keys.STIMULUS_INFO]
    with (
        RunRecord(record_path(out), "preprocess", config=config, inputs=inputs) as record,
        h5py.File(bank, "r") as source,
        atomic_path(out) as temporary,
        h5py.File(temporary, "w") as file,
    ):
        bricks = source["imgBrick"]
        if bricks.ndim != 4 or bricks.shape[-1] != 3 or bricks.dtype != np.uint8 or len(bricks) <= nsd_ids[-1]:
            raise ValueError(
                f"{bank}: imgBrick is {bricks.dtype} {bricks.shape}, but picture {nsd_ids[-1]} is needed; allowed is "
                "uint8 [pictures, rows, columns, 3], for example (73000, 425, 425, 3)"
            )
        writer = StimulusWriter(file, nsd_ids, config.picture_size, data)
        with progress(len(nsd_ids), "Preprocessing pictures", unit="picture") as bar:
            for start in range(0, len(nsd_ids), _PICTURES_AT_ONCE):
                pictures = read_rows(bricks, nsd_ids[start : start + _PICTURES_AT_ONCE])
                writer.append(resize_pictures(pictures, config.picture_size))
                bar.advance(len(pictures))
        writer.finish(texts["captions"].tolist(), texts["category"].tolist(), texts["background"].tolist())
        record.add(
            pictures=len(nsd_ids),
            subjects=list(subjects),
            data=data,
            categories=int(texts["category"].nunique()),
            backgrounds=int(texts["background"].nunique()),
        )
