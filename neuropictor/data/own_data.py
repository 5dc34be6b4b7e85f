"""A lab's own scans: betas on a surface with a table of trials, and images with a table of captions.

The formats are described in docs/own_data.md.
"""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from neuropictor.config import PreprocessConfig
from neuropictor.data.image_files import read_image
from neuropictor.data.labs.kinds import KINDS, open_files
from neuropictor.data.labs.reader import LabBetas
from neuropictor.data.preprocess import write_responses
from neuropictor.data.responses import SPLITS, subject_number
from neuropictor.data.stimuli import StimulusWriter, resize_images
from neuropictor.data.tables import IMAGE_COLUMNS, line_of, read_table, read_trials
from neuropictor.nsd.constants import CAPTIONS_PER_IMAGE
from neuropictor.nsd.design import LEFT_OUT, TEST, TRAIN, VALIDATION, choose_validation
from neuropictor.records.files import atomic_path, need
from neuropictor.records.record import RunRecord, record_path

CAPTION_SEPARATOR = "|"


def import_betas(
    table: Path | None,
    subject: str,
    config: PreprocessConfig,
    out: Path,
    betas: Path | None = None,
    kind: str = "",
    standardised: bool | None = None,
) -> None:
    """Write a response store from a lab's own betas.

    Parameters
    ----------
    table
        CSV with one row a trial: ``session``, ``trial`` (its place in the session's files, from 0), ``image`` (a
        number) and ``split`` (train, validation or test); None where the files name their trials themselves.
    subject
        Label to call the subject by, of letters and digits.
    config
        `clip`, `z_score`, `statistics` and `training_sessions` are used; `validation_images` only where no image has
        the split validation.
    out
        `responses.h5` to write; a record is written beside it.
    betas
        Folder (or file) of the betas; None: the table's folder.
    kind
        Of `neuropictor.data.labs.kinds.KINDS`; empty: as the files' names show.
    standardised
        Whether the responses are z-scores already, and only clipped; None: as is usual for the kind.

    Raises
    ------
    FileNotFoundError, ValueError
        For missing, damaged or inconsistent files, with the file's name, line and what is allowed.
    """
    if table is None and betas is None:
        raise ValueError(
            "neither table nor betas are given; allowed: one of them or both. Example: --betas scans/sub-01"
        )
    trials = None if table is None else read_trials(Path(table))
    folder = Path(table).parent if table is not None and betas is None else Path(betas or "")
    kind, files = open_files(folder, kind)
    if trials is None:
        if files.trials is None:
            raise ValueError(
                f"{folder}: files of the kind {kind} do not name their trials; allowed: a table of them. Example: "
                "--table trials.csv, with the columns session, trial, image, split"
            )
        trials = _named_trials(files.trials(), folder)
    codes = np.array([SPLITS.index(name) for name in trials["split"]])
    late = trials["session"].isin(trials["session"].unique()[config.training_sessions :])
    codes[late & (codes != TEST)] = LEFT_OUT
    if VALIDATION not in codes:
        private = np.unique(trials["nsd_id"][codes == TRAIN])
        chosen = choose_validation(subject_number(subject), private, config.validation_images, subject)
        codes[trials["nsd_id"].isin(chosen)] = VALIDATION
    sessions = sorted(int(session) for session in trials["session"].unique())
    reader = LabBetas(files, {session: trials["trial"][trials["session"] == session] for session in sessions})
    labels = {"subject": subject, "data": "own", "beta_version": "own", "mesh": reader.mesh}
    standardised = KINDS[kind].standardised if standardised is None else standardised
    sections = {"preprocess": config, "betas": {"kind": kind, "standardised": standardised}}
    inputs = [] if table is None else [Path(table)]
    write_responses(reader, sessions, trials, codes, config, labels, sections, inputs, out, standardised)


def _named_trials(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Trials that files name themselves, as `read_trials` returns those of a table."""
    table = table.sort_values(["session", "trial"], ignore_index=True)
    for split in ("train", "test"):
        if not (table["split"] == split).any():
            raise ValueError(
                f"{folder}: its files do not say which trials have the split {split}; allowed: at least one of train "
                "and one of test. Example: --table trials.csv, with the columns session, trial, image, split"
            )
    mixed = table.groupby("image")["split"].transform("nunique") > 1
    if mixed.any():
        raise ValueError(
            f"{folder}: image {table['image'][mixed].iloc[0]} is in more than one split; allowed: all trials of an "
            "image in one. Example: --table trials.csv, with the columns session, trial, image, split"
        )
    table["nsd_id"] = table["image"].map({name: image_number(name) for name in table["image"].unique()})
    if table["nsd_id"].nunique() != table["image"].nunique():
        raise ValueError(f"{folder}: two names of images have one number; allowed: a table of trials with numbers")
    table["repeat"] = table.groupby("nsd_id").cumcount()
    return table


def image_number(name: str) -> int:
    """Number of an image by its name: digits are the number itself, others one from 1,000,000 on by their SHA-256."""
    if name.isdecimal():
        return int(name)
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode()).digest()
    return 1_000_000 + int.from_bytes(digest[:6], "big")


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
