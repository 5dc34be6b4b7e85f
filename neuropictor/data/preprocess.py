"""From NSD's files to the prepared stores: betas to z-scored responses, pictures to their working size."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from neuropictor.config import NsdConfig, PreprocessConfig
from neuropictor.data.responses import SPLITS, ResponseWriter
from neuropictor.data.rows import read_rows
from neuropictor.data.sessions import Sessions
from neuropictor.data.stimuli import StimulusWriter, resize_pictures
from neuropictor.nsd import keys
from neuropictor.nsd.annotations import load_annotations
from neuropictor.nsd.constants import REPEATS
from neuropictor.nsd.design import LEFT_OUT, TEST, load_design
from neuropictor.runlog import RunRecord, atomic_path, progress, record_path
from neuropictor.surface import load_geometry

log = logging.getLogger(__name__)

_PICTURES_AT_ONCE = 64
_ROWS_AT_ONCE = 32  # trials: small enough to stay in cache, as fresh memory costs more than arithmetic
_HELD_LIMIT = 2**30  # bytes of responses held in memory at once; 40 sessions are 535 MB
_HASH_LIMIT = 2**29  # bytes of a subject's betas up to which they are checksummed: above, it would double the time


def preprocess_subject(
    nsd_root: Path,
    subject: int,
    config: PreprocessConfig,
    nsd: NsdConfig,
    out: Path,
    kept: Mapping[int, Path] | None = None,
) -> None:
    """Prepare the responses of one subject.

    Session by session, both hemispheres' beta files are passed over once, reading only the source vertices that
    visual cortex needs; they are resampled, z-scored per vertex, clipped, and written as float16.

    Parameters
    ----------
    nsd_root : Path
        Folder in NSD's layout, real or simulated.
    subject : int
        1..8.
    config : PreprocessConfig
        All but `picture_size` is used.
    nsd : NsdConfig
        `beta_version`, `release` and `sessions` are used.
    out : Path
        `responses.h5` to write; a record is written beside it.
    kept : mapping of int to Path, optional
        What `neuropictor.data.sessions.preprocess_session` kept of each session, instead of NSD's beta files.

    Raises
    ------
    FileNotFoundError, ValueError
        For missing, truncated or inconsistent files, with the file's name.
    """
    nsd_root, out = Path(nsd_root), Path(out)
    design = load_design(nsd_root)
    counted = design.counted_sessions(subject, nsd.release, nsd.sessions)
    trials = design.trials(subject, counted)
    split = design.splits(subject, config.validation_pictures, counted, config.training_sessions)
    sessions = list(range(1, counted + 1))
    reader = Sessions(nsd_root, subject, nsd.beta_version, design.trials_per_session, kept)
    reader.check(sessions)
    # Of a session that only tests, the subject's own pictures still take part in mean and standard deviation.
    known = split != TEST if config.statistics == "non_test" else np.ones(len(split), bool)
    rows = [np.flatnonzero(trials["session"] == session) for session in sessions]
    stored = split != LEFT_OUT
    final, kept_split = trials[stored], split[stored]
    data = "simulated" if keys.is_simulated(nsd_root) else "nsd"
    files = reader.files(sessions)
    absent = np.zeros((len(sessions), load_geometry().n_vertices), bool)
    sections = {"preprocess": config, "nsd": nsd}
    with (
        RunRecord(record_path(out), "preprocess", config=sections, inputs=_recorded(nsd_root, files)) as record,
        atomic_path(out) as temporary,
        h5py.File(temporary, "w") as file,
    ):
        writer = ResponseWriter(
            file,
            len(final),
            absent.shape[1],
            subject=subject,
            data=data,
            beta_version=nsd.beta_version,
            mesh=reader.mesh,
        )
        whole = None
        if config.z_score == "subject":
            every = progress(list(zip(sessions, rows, strict=True)), f"Statistics of subject {subject}", unit="session")
            whole = Statistics.joined(Statistics.of(reader.betas(session), known[here]) for session, here in every)
        for row, session in enumerate(progress(sessions, f"Preprocessing subject {subject}", unit="session")):
            here, where = rows[row], f"subject {subject}, session {session}"
            betas = reader.betas(session)
            responses = z_score(betas, whole or Statistics.of(betas, known[here]), where)
            finite = np.isfinite(responses)
            absent[row] = ~finite.any(0)
            np.clip(responses, -config.clip, config.clip, out=responses)
            if not finite.all():
                np.nan_to_num(responses, copy=False)
            writer.append(responses if stored[here].all() else responses[stored[here]])
        ncsnr = noise_ceiling(
            file["responses"], final["nsd_id"].to_numpy(), kept_split != TEST, absent, final["session"].to_numpy() - 1
        )
        writer.finish(
            ncsnr=ncsnr, split=kept_split, **{name: final[name].to_numpy() for name in ("nsd_id", "session", "repeat")}
        )
        counts = {
            name: {"trials": int((split == code).sum()), "pictures": int(trials["nsd_id"][split == code].nunique())}
            for code, name in enumerate(SPLITS)
        }
        record.add(
            subject=subject,
            data=data,
            mesh=reader.mesh,
            sessions=len(sessions),
            splits=counts,
            trials_left_out=int((~stored).sum()),
            vertices=absent.shape[1],
            vertices_missing_in_a_session=int(absent.any(0).sum()),
            ncsnr_median=None if np.isnan(ncsnr).all() else round(float(np.nanmedian(ncsnr)), 4),
            beta_bytes=sum(path.stat().st_size for path in files),
        )
    log.info(
        "Subject %d, %d sessions: %s",
        subject,
        counted,
        ", ".join(f"{c['pictures']:,} {name} pictures ({c['trials']:,} trials)" for name, c in counts.items()),
    )


def _recorded(nsd_root: Path, files: list[Path]) -> list[Path]:
    """Choose the inputs to checksum: full-size betas are not read again for it; fetching has checked them."""
    inputs = [nsd_root / keys.EXPERIMENT_DESIGN]
    present = [path for path in files if path.is_file()]
    if sum(path.stat().st_size for path in present) <= _HASH_LIMIT:
        inputs += present
    return [path for path in inputs if path.is_file()]


class Statistics:
    """Mean and spread of responses over trials, at each vertex.

    Attributes
    ----------
    trials : int
        Trials that they are taken over.
    number : int array [V]
        Those of them with a valid response.
    mean, squares : float64 array [V]
        Mean, and sum of squared deviations from it.
    """

    def __init__(self, trials: int, number: np.ndarray, mean: np.ndarray, squares: np.ndarray):
        self.trials, self.number, self.mean, self.squares = trials, number, mean, squares

    @classmethod
    def of(cls, responses: np.ndarray, counted: np.ndarray) -> Statistics:
        """Take them over the `counted` [T] of the trials of `responses` [T, V], which may hold NaN."""
        trials = np.flatnonzero(counted)
        blocks = [trials[start : start + _ROWS_AT_ONCE] for start in range(0, len(trials), _ROWS_AT_ONCE)]
        number = np.zeros(responses.shape[1], np.int64)
        total, squares = np.zeros(responses.shape[1]), np.zeros(responses.shape[1])
        with np.errstate(invalid="ignore", divide="ignore"):
            for rows in blocks:
                values = responses[rows]
                valid = np.isfinite(values)
                number += valid.sum(0)
                if not valid.all():
                    values[~valid] = 0
                total += values.sum(0, dtype=np.float64)
            mean = total / number
            near = mean.astype(np.float32)
            for rows in blocks:
                values = responses[rows]
                values -= near
                values[~np.isfinite(values)] = 0
                squares += np.square(values, out=values).sum(0, dtype=np.float64)
        return cls(len(trials), number, mean, squares)

    @classmethod
    def joined(cls, parts: Iterable[Statistics]) -> Statistics:
        """Join those of several sessions (Chan, Golub & LeVeque 1979)."""
        parts = list(parts)
        number = np.sum([part.number for part in parts], axis=0)
        means = np.nan_to_num([part.mean for part in parts])
        weights = np.array([part.number for part in parts])
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (means * weights).sum(0) / number
        squares = np.sum([part.squares for part in parts], axis=0) + (weights * np.square(means - mean)).sum(0)
        return cls(sum(part.trials for part in parts), number, mean, squares)

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation (with N - 1, as in NSD's own code); NaN where responses do not vary."""
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.sqrt(self.squares / (self.number - 1))
            spread[~(spread > 1e-6 * (1 + np.abs(self.mean)))] = np.nan
        return spread


def z_score(responses: np.ndarray, statistics: Statistics, where: str) -> np.ndarray:
    """Z-score every vertex, in place.

    Parameters
    ----------
    responses : float32 array [T, V]
        Percent signal change, NaN where missing; changed.
    statistics : Statistics
        Of this session, or of all of a subject's.
    where : str
        Named in the error.

    Returns
    -------
    float32 array [T, V]
        Unitless; NaN where missing, and at vertices that do not vary.
    """
    if statistics.trials < 2:
        raise ValueError(
            f"{where}: {statistics.trials} of {len(responses)} trials show no test picture, at least 2 are needed for "
            "mean and standard deviation; allowed is preprocess.statistics: all, or more trials a session, e.g. 750"
        )
    with np.errstate(invalid="ignore"):
        responses -= statistics.mean.astype(np.float32)
        responses /= statistics.spread.astype(np.float32)
    return responses


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
    # Scattered rows are slow to read one by one.
    held = dataset[:] if dataset.nbytes <= _HELD_LIMIT else dataset
    variance = np.zeros(dataset.shape[1])
    count = np.zeros(dataset.shape[1])
    for start in range(0, len(complete), _PICTURES_AT_ONCE):
        rows = order[first[complete[start : start + _PICTURES_AT_ONCE], None] + np.arange(REPEATS)]
        values = held[rows] if isinstance(held, np.ndarray) else read_rows(held, rows.ravel()).reshape(*rows.shape, -1)
        values = values.astype(np.float32)
        valid = ~absent[session_row[rows]].any(1)
        variance += np.where(valid, values.var(1, ddof=1), 0).sum(0)
        count += valid.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        noise = variance / count
        return (np.sqrt(np.maximum(0, 1 - noise)) / np.sqrt(noise)).astype(np.float32)


def preprocess_stimuli(
    nsd_root: Path, subjects: list[int], config: PreprocessConfig, nsd: NsdConfig, out: Path
) -> None:
    """Prepare the pictures that the given subjects saw, with captions, main category and background kind.

    Parameters
    ----------
    nsd_root : Path
        Folder in NSD's layout, real or simulated, with COCO's annotation files.
    subjects : list of int
        1..8; the union of their pictures is written.
    config : PreprocessConfig
        `picture_size` is used: pictures are reduced to it by area averaging.
    nsd : NsdConfig
        `release` and `sessions` are used: what was seen in sessions that do not count is left out.
    out : Path
        `stimuli.h5` to write; a record is written beside it.

    Raises
    ------
    FileNotFoundError, ValueError
        For missing or inconsistent files, with the file's name.
    """
    nsd_root, out = Path(nsd_root), Path(out)
    design = load_design(nsd_root)
    nsd_ids = design.pictures(subjects, nsd.release, nsd.sessions)
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
