"""From NSD's files to the prepared stores: betas to z-scored responses, images to their working size."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import pandas as pd

from neuropictor.config import NsdConfig, PreprocessConfig
from neuropictor.config.types import subject_label
from neuropictor.data.responses import SPLITS, ResponseWriter
from neuropictor.data.rows import read_rows
from neuropictor.data.sessions import Sessions
from neuropictor.data.stimuli import StimulusWriter, frame_images
from neuropictor.data.stores import open_store
from neuropictor.data.z_scores import Statistics, checked_z_scores, noise_ceiling, z_score
from neuropictor.fetching import manifest
from neuropictor.nsd import keys
from neuropictor.nsd.annotations import load_annotations
from neuropictor.nsd.constants import IMAGE_DEGREES
from neuropictor.nsd.design import LEFT_OUT, TEST, load_design
from neuropictor.nsd.set_b import check_untrained
from neuropictor.records.files import atomic_path
from neuropictor.records.progress import progress
from neuropictor.records.record import RunRecord, record_path
from neuropictor.surface import load_geometry

log = logging.getLogger(__name__)

_IMAGES_AT_ONCE = 64
_HASH_LIMIT = 2**29  # bytes of a subject's betas up to which they are checksummed: above, it would double the time


def preprocess_subject(
    nsd_root: Path,
    subject: int,
    config: PreprocessConfig,
    nsd: NsdConfig,
    out: Path,
    kept: Sequence[Path] | None = None,
) -> None:
    """Prepare the responses of one subject.

    Session by session, both hemispheres' beta files are passed over once, reading only the source vertices that
    visual cortex needs; they are resampled, z-scored per vertex, clipped, and written as float16.

    Parameters
    ----------
    nsd_root
        Folder in NSD's layout, real or simulated.
    subject
        1..8.
    config
        All but `image_size` is used.
    nsd
        `beta_version`, `release` and `sessions` are used.
    out
        `responses.h5` to write; a record is written beside it.
    kept
        Files of `neuropictor.data.sessions.preprocess_session`, in order of sessions, instead of NSD's beta files.

    Raises
    ------
    FileNotFoundError, ValueError
        For missing, truncated or inconsistent files, with the file's name.
    """
    nsd_root, out = Path(nsd_root), Path(out)
    manifest.check(nsd_root, [nsd_root / keys.EXPERIMENT_DESIGN])
    design = load_design(nsd_root)
    counted = design.counted_sessions(subject, nsd.release, nsd.sessions)
    trials = design.trials(subject, counted)
    split = design.splits(subject, config.validation_images, counted, config.training_sessions)
    check_untrained(split, trials["nsd_id"].to_numpy(), design.shared, str(out))
    sessions = list(range(1, counted + 1))
    by_session = dict(enumerate(kept, start=1)) if kept else None
    reader = Sessions(nsd_root, subject, nsd.beta_version, design.trials_per_session, by_session)
    data = "simulated" if keys.is_simulated(nsd_root) else "nsd"
    # Of the section nsd only what is used: where the files came from does not matter here.
    sections = {"preprocess": config, "nsd": nsd.model_dump(include={"beta_version", "release", "sessions"})}
    labels = {"subject": subject_label(subject), "data": data, "beta_version": nsd.beta_version, "mesh": reader.mesh}
    inputs = [nsd_root / keys.EXPERIMENT_DESIGN]
    reader.check(sessions)
    if not kept:
        manifest.check(nsd_root, recorded([], reader.files(sessions)))
    write_responses(reader, sessions, trials, split, config, labels, sections, inputs, out)


class Reader(Protocol):
    """Source of a subject's betas on visual cortex."""

    def check(self, sessions: list[int]) -> None:
        """Raise an error if something is wrong with the files of the sessions."""
        ...

    def files(self, sessions: list[int]) -> list[Path]:
        """Return the files of the sessions."""
        ...

    def betas(self, session: int) -> np.ndarray:
        """Return betas float32 [T, V] of one session, NaN where missing."""
        ...


def write_responses(
    reader: Reader,
    sessions: list[int],
    trials: pd.DataFrame,
    split: np.ndarray,
    config: PreprocessConfig,
    labels: dict[str, Any],
    sections: dict[str, Any],
    inputs: list[Path],
    out: Path,
    standardised: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Z-score and clip a subject's betas, and write the store.

    Parameters
    ----------
    reader
        Betas, a session at a time.
    sessions
        Their numbers, ascending.
    trials
        ``session``, ``nsd_id`` and ``repeat`` of every trial, session by session.
    split
        int [trials], index into `SPLITS`, or -1 for trials that are not stored.
    config
        `clip`, `z_score` and `statistics` are used.
    labels
        Attributes of the store: ``subject``, ``data``, ``beta_version``, ``mesh``.
    sections, inputs
        For the record: settings, and files besides the reader's.
    out
        HDF5 file to write.
    standardised
        Whether the betas are z-scores already, which are only clipped.
    facts
        What else is known of the subject, for the record.
    """
    reader.check(sessions)
    # In sessions used for testing only, trials that are not stored still count towards mean and standard deviation.
    known = split != TEST if config.statistics == "non_test" else np.ones(len(split), bool)
    rows = [np.flatnonzero(trials["session"] == session) for session in sessions]
    stored = split != LEFT_OUT
    final, kept_split = trials[stored], split[stored]
    files = reader.files(sessions)
    absent = np.zeros((len(sessions), load_geometry().n_vertices), bool)
    incomplete = absent[0].copy()
    name = f"subject {labels['subject']}"
    with (
        RunRecord(
            record_path(out), "preprocess", config=sections, inputs=recorded(inputs, files), outputs=[out]
        ) as record,
        atomic_path(out) as temporary,
        h5py.File(temporary, "w") as file,
    ):
        writer = ResponseWriter(file, len(final), absent.shape[1], **labels)
        overall, missing = None, 0
        if config.z_score == "subject" and not standardised:
            every = progress(list(zip(sessions, rows, strict=True)), f"Statistics of {name}", unit="session")
            overall = Statistics.joined(
                Statistics.of(reader.betas(session), known[trial_rows]) for session, trial_rows in every
            )
        for row, session in enumerate(progress(sessions, f"Preprocessing {name}", unit="session")):
            trial_rows, where = rows[row], f"{name}, session {session}"
            betas = reader.betas(session)
            statistics = overall or Statistics.of(betas, known[trial_rows])
            responses = (
                checked_z_scores(betas, statistics, where) if standardised else z_score(betas, statistics, where)
            )
            finite = np.isfinite(responses)
            if not finite.any():
                raise ValueError(
                    f"{where}: the betas do not vary over trials at any vertex; allowed: a response of each trial, in "
                    f"{files[0].parent}"
                )
            missing += finite.size - int(finite.sum())
            absent[row] = ~finite.any(0)
            incomplete |= ~finite.all(0)
            np.clip(responses, -config.clip, config.clip, out=responses)
            if not finite.all():
                np.nan_to_num(responses, copy=False)
            writer.append(responses if stored[trial_rows].all() else responses[stored[trial_rows]])
        session_row = np.searchsorted(sessions, final["session"].to_numpy())
        nsd_id = final["nsd_id"].to_numpy()
        ncsnr = noise_ceiling(file["responses"], nsd_id, kept_split != TEST, absent, session_row)
        fields = {field: final[field].to_numpy() for field in ("nsd_id", "session", "repeat")}
        writer.finish(ncsnr=ncsnr, missing=np.all(absent, axis=0), split=kept_split, **fields)
        counts = count_splits(nsd_id, kept_split)
        record.add(
            **labels,
            **(facts or {}),
            sessions=len(sessions),
            splits=counts,
            trials_left_out=int((~stored).sum()),
            standardised_before=standardised,
            vertices=absent.shape[1],
            vertices_missing=int(absent.all(0).sum()),
            vertices_missing_in_a_session=int(absent.any(0).sum()),
            vertices_missing_in_a_trial=int(incomplete.sum()),
            values_missing=missing,
            ncsnr_median=None if np.isnan(ncsnr).all() else round(float(np.nanmedian(ncsnr)), 4),
            beta_bytes=sum(path.stat().st_size for path in files),
        )
    summary = ", ".join(f"{c['images']:,} {part} images ({c['trials']:,} trials)" for part, c in counts.items())
    log.info("%s, %d sessions: %s", name.capitalize(), len(sessions), summary)
    if missing:
        share = 100 * missing / len(split) / absent.shape[1]
        log.info(
            "%s: %.2f %% of the values are missing or of vertices that do not vary; stored as 0, the mean.", name, share
        )


def count_splits(nsd_id: np.ndarray, split: np.ndarray) -> dict[str, dict[str, int]]:
    """Count trials and images of each split."""
    return {
        name: {"trials": int((split == code).sum()), "images": len(np.unique(nsd_id[split == code]))}
        for code, name in enumerate(SPLITS)
    }


def recorded(inputs: list[Path], files: list[Path]) -> list[Path]:
    """Choose the inputs to checksum: full-size betas are not read again for it; fetching has checked them."""
    if sum(path.stat().st_size for path in files) <= _HASH_LIMIT:
        inputs = [*inputs, *files]
    return inputs


def preprocess_stimuli(
    nsd_root: Path, subjects: list[int], config: PreprocessConfig, nsd: NsdConfig, out: Path
) -> None:
    """Prepare the images that the given subjects saw, with captions, main category and background kind.

    Parameters
    ----------
    nsd_root
        Folder in NSD's layout, real or simulated, with COCO's annotation files.
    subjects
        1..8; the union of their images is written.
    config
        `image_size` and `visual_angle` are used: images are cut or framed, and shrunk by area averaging.
    nsd
        `release` and `sessions` are used: what was seen in sessions that do not count is left out.
    out
        `stimuli.h5` to write; a record is written beside it.

    Raises
    ------
    FileNotFoundError, ValueError
        For missing or inconsistent files, with the file's name.
    """
    nsd_root, out = Path(nsd_root), Path(out)
    of_subjects = [keys.own_stimuli(subject) for subject in subjects]
    texts = [keys.annotations(kind, split) for kind in keys.ANNOTATION_KINDS for split in keys.COCO_SPLITS]
    shared = (keys.EXPERIMENT_DESIGN, keys.STIMULUS_INFO, keys.STIMULI)
    manifest.check(nsd_root, [nsd_root / key for key in (*shared, *of_subjects, *texts)])
    design = load_design(nsd_root)
    nsd_ids = design.images(subjects, nsd.release, nsd.sessions)
    bank = nsd_root / keys.STIMULI
    if not bank.is_file():
        raise FileNotFoundError(f"{bank} is missing; fetch or simulate NSD's images first")
    share = (config.visual_angle or IMAGE_DEGREES) / IMAGE_DEGREES
    table: pd.DataFrame = load_annotations(nsd_root, design.stimulus_info, nsd_ids.tolist())
    data = "simulated" if keys.is_simulated(nsd_root) else "nsd"
    inputs = [bank, nsd_root / keys.STIMULUS_INFO]
    with (
        RunRecord(record_path(out), "preprocess", config=config, inputs=inputs, outputs=[out]) as record,
        open_store(bank, spread=True) as source,
        atomic_path(out) as temporary,
        h5py.File(temporary, "w") as file,
    ):
        bricks = source["imgBrick"]
        if bricks.ndim != 4 or bricks.shape[-1] != 3 or bricks.dtype != np.uint8 or len(bricks) <= nsd_ids[-1]:
            raise ValueError(
                f"{bank}: imgBrick is {bricks.dtype} {bricks.shape}, but image {nsd_ids[-1]} is needed; allowed is "
                "uint8 [images, rows, columns, 3], for example (73000, 425, 425, 3)"
            )
        writer = StimulusWriter(file, nsd_ids, config.image_size, data)
        with progress(len(nsd_ids), "Preprocessing images", unit="image") as bar:
            for start in range(0, len(nsd_ids), _IMAGES_AT_ONCE):
                images = read_rows(bricks, nsd_ids[start : start + _IMAGES_AT_ONCE])
                writer.append(frame_images(images, config.image_size, share))
                bar.advance(len(images))
        writer.finish(table["captions"].tolist(), table["category"].tolist(), table["background"].tolist())
        record.add(
            images=len(nsd_ids),
            subjects=list(subjects),
            data=data,
            visual_angle=IMAGE_DEGREES,
            categories=int(table["category"].nunique()),
            backgrounds=int(table["background"].nunique()),
        )
