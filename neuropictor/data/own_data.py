"""A lab's own scans: betas on a surface with a table of trials, and images with a table of captions.

The formats are described in docs/own_data.md.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

import h5py
import numpy as np

from neuropictor.config import PreprocessConfig
from neuropictor.data.beta_files import OwnSessions
from neuropictor.data.image_files import read_image
from neuropictor.data.preprocess import write_responses
from neuropictor.data.responses import SPLITS, subject_number
from neuropictor.data.stimuli import StimulusWriter, resize_images
from neuropictor.data.tables import IMAGE_COLUMNS, line_of, read_table, read_trials
from neuropictor.nsd.constants import CAPTIONS_PER_IMAGE
from neuropictor.nsd.design import LEFT_OUT, TEST, TRAIN, VALIDATION, choose_validation
from neuropictor.records.files import atomic_path, need
from neuropictor.records.record import RunRecord, record_path

CAPTION_SEPARATOR = "|"


def import_betas(table: Path, subject: str, config: PreprocessConfig, out: Path) -> None:
    """Write a response store from a lab's own betas.

    Parameters
    ----------
    table
        CSV with one row a trial: ``session``, ``trial`` (its place in the session's files, from 0), ``image`` (a
        number) and ``split`` (train, validation or test). The betas lie beside it: ``lh.session{session}`` and
        ``rh.session{session}`` with one of `neuropictor.data.beta_files.BETA_ENDINGS`.
    subject
        Label to call the subject by, of letters and digits.
    config
        `clip`, `z_score`, `statistics` and `training_sessions` are used; `validation_images` only where no image has
        the split validation.
    out
        `responses.h5` to write; a record is written beside it.

    Raises
    ------
    FileNotFoundError, ValueError
        For missing, damaged or inconsistent files, with the file's name, line and what is allowed.
    """
    table = Path(table)
    trials = read_trials(table)
    codes = np.array([SPLITS.index(name) for name in trials["split"]])
    late = trials["session"].isin(trials["session"].unique()[config.training_sessions :])
    codes[late & (codes != TEST)] = LEFT_OUT
    if VALIDATION not in codes:
        private = np.unique(trials["nsd_id"][codes == TRAIN])
        chosen = choose_validation(subject_number(subject), private, config.validation_images)
        codes[trials["nsd_id"].isin(chosen)] = VALIDATION
    sessions = sorted(int(session) for session in trials["session"].unique())
    reader = OwnSessions(table.parent, {session: trials["trial"][trials["session"] == session] for session in sessions})
    labels = {"subject": subject, "data": "own", "beta_version": "own", "mesh": reader.mesh}
    write_responses(reader, sessions, trials, codes, config, labels, {"preprocess": config}, [table], out)


def import_images(table: Path, config: PreprocessConfig, out: Path) -> None:
    """Write a stimulus store from a lab's own images.

    Parameters
    ----------
    table
        CSV with one row an image: ``image`` (its number), ``file`` (relative to the table), ``captions`` (up to
        five, separated by ``|``); where known ``category`` (main object) and ``background``.
    config
        `image_size` is used; images that are not square are cropped around their middle.
    out
        `stimuli.h5` to write; a record is written beside it.

    Raises
    ------
    FileNotFoundError, ValueError
        For missing or inconsistent files, with the file's name, row and what is allowed.
    """
    table = Path(table)
    images = read_table(table, IMAGE_COLUMNS, numbers=("image",), optional=("category", "background"))
    twice = images.duplicated("image")
    if twice.any():
        raise ValueError(
            f"{table}, line {line_of(twice)}: image {images['image'][twice].iloc[0]} comes twice; allowed: a row an "
            "image"
        )
    images = images.sort_values("image")
    captions = [[text.strip() for text in row.split(CAPTION_SEPARATOR) if text.strip()] for row in images["captions"]]
    for line, number, texts in zip(images.index, images["image"], captions, strict=True):
        if not 1 <= len(texts) <= CAPTIONS_PER_IMAGE:
            raise ValueError(
                f"{table}, line {line}: image {number} has {len(texts)} captions; allowed: one to "
                f"{CAPTIONS_PER_IMAGE}, e.g. a dog on a beach|a brown dog runs"
            )
    with (
        RunRecord(record_path(out), "import_images", config=config, inputs=[table], outputs=[out]) as record,
        atomic_path(out) as temporary,
        h5py.File(temporary, "w") as file,
    ):
        writer = StimulusWriter(file, images["image"].to_numpy(), config.image_size, "own")
        for line, name in images["file"].items():
            path = _existing(table.parent, name)
            need(path, f"{table}, line {line}, names it")
            writer.append(resize_images(_square(path), config.image_size)[None])
        writer.finish(captions, images["category"], images["background"])
        record.add(images=len(images), data="own")


def _existing(folder: Path, name: str) -> Path:
    """Path of an image, whose name may be written in another form of Unicode than the table's."""
    forms = [folder / unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    return next((path for path in forms if path.is_file()), folder / name)


def _square(path: Path) -> np.ndarray:
    """Read an image and keep its middle square, uint8 [S, S, 3]."""
    values = read_image(path)
    height, width = values.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return values[top : top + side, left : left + side]
