"""A lab's own scans: betas on fsaverage with a table of trials, and images with a table of captions.

The formats are described in docs/own_data.md.
"""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pandas as pd
from nibabel.filebasedimages import ImageFileError
from PIL import Image, UnidentifiedImageError
from scipy import sparse

from neuropictor.config import PreprocessConfig
from neuropictor.data.preprocess import write_responses
from neuropictor.data.responses import SPLITS
from neuropictor.data.sessions import Resampler
from neuropictor.data.stimuli import StimulusWriter, resize_images
from neuropictor.nsd.constants import HEMISPHERES
from neuropictor.nsd.design import TRAIN, VALIDATION, choose_validation
from neuropictor.records.files import atomic_path
from neuropictor.records.record import RunRecord, record_path
from neuropictor.surface import load_geometry
from neuropictor.surface.atlas import MESH_VERTICES

log = logging.getLogger(__name__)

BETA_ENDINGS = (".mgh", ".mgz", ".func.gii", ".npy")
TRIAL_COLUMNS = ("session", "trial", "image", "split")
IMAGE_COLUMNS = ("image", "file", "captions")
CAPTION_SEPARATOR = "|"


def import_betas(table: Path, subject: int, config: PreprocessConfig, out: Path) -> None:
    """Write a response store from a lab's own betas.

    Parameters
    ----------
    table
        CSV with one row a trial: ``session``, ``trial`` (its place in the session's files, from 0), ``image`` (a
        number) and ``split`` (train, validation or test). The betas lie beside it: ``lh.session{session}`` and
        ``rh.session{session}`` with one of `BETA_ENDINGS`.
    subject
        A number 1..8 to call the subject by.
    config
        `clip`, `z_score` and `statistics` are used; `validation_images` only where no image has the split
        validation.
    out
        `responses.h5` to write; a record is written beside it.

    Raises
    ------
    FileNotFoundError, ValueError
        For missing or inconsistent files, with the file's name, row and what is allowed.
    """
    table = Path(table)
    trials = read_trials(table)
    codes = np.array([SPLITS.index(name) for name in trials["split"]])
    if VALIDATION not in codes:
        private = np.unique(trials["nsd_id"][codes == TRAIN])
        chosen = choose_validation(subject, private, config.validation_images)
        codes[trials["nsd_id"].isin(chosen)] = VALIDATION
    sessions = sorted(int(session) for session in trials["session"].unique())
    reader = OwnSessions(table.parent, {session: trials["trial"][trials["session"] == session] for session in sessions})
    labels = {"subject": subject, "data": "own", "beta_version": "own", "mesh": reader.mesh}
    write_responses(reader, sessions, trials, codes, config, labels, {"preprocess": config}, [table], out)


def read_trials(path: Path) -> pd.DataFrame:
    """Read and check a table of trials; returned session by session with ``nsd_id`` (the image) and ``repeat``."""
    table = _read_table(path, TRIAL_COLUMNS, numbers=("session", "trial", "image"))
    wrong = ~table["split"].isin(SPLITS)
    if wrong.any():
        raise ValueError(
            f"{path}, row {_row(wrong)}: split is {table['split'][wrong].iloc[0]!r}; allowed: {', '.join(SPLITS)}. "
            "Example: test"
        )
    twice = table.duplicated(["session", "trial"])
    if twice.any():
        raise ValueError(f"{path}, row {_row(twice)}: this session and trial come twice; allowed: once each")
    mixed = table.groupby("image")["split"].transform("nunique") > 1
    if mixed.any():
        raise ValueError(
            f"{path}: image {table['image'][mixed].iloc[0]} is in more than one split; allowed: all trials of an "
            "image in one, so that tests are on images never trained on"
        )
    for split in ("train", "test"):
        if not (table["split"] == split).any():
            raise ValueError(f"{path}: no trial has the split {split}; allowed: at least one of train and one of test")
    table = table.sort_values(["session", "trial"], ignore_index=True).rename(columns={"image": "nsd_id"})
    table["repeat"] = table.groupby("nsd_id").cumcount()
    return table


class OwnSessions:
    """Betas of a lab's own sessions on visual cortex.

    Parameters
    ----------
    folder
        Where the files lie.
    trials
        dict of int arrays: by session: rows to read from its files.
    """

    def __init__(self, folder: Path, trials: dict[int, pd.Series]):
        self.folder, self.trials = Path(folder), trials
        vertices = self._read(self.files([min(trials)])[0]).shape[1]
        meshes = {count: mesh for mesh, count in MESH_VERTICES.items()}
        if vertices not in meshes:
            known = ", ".join(f"{count} ({mesh})" for count, mesh in meshes.items())
            raise ValueError(f"{self.files([min(trials)])[0]} has {vertices} vertices; allowed: {known}")
        self.mesh = meshes[vertices]
        geometry = load_geometry()
        self._columns = geometry.columns(self.mesh)
        self._resample = Resampler(sparse.csr_array(geometry.resampler(self.mesh)[:, self._columns]))

    def check(self, sessions: list[int]) -> None:
        """Raise FileNotFoundError where a session lacks a file."""
        self.files(sessions)

    def files(self, sessions: list[int]) -> list[Path]:
        """Return the files of the sessions, left then right."""
        files = []
        for session in sessions:
            for side in HEMISPHERES:
                paths = [self.folder / f"{side}.session{session}{ending}" for ending in BETA_ENDINGS]
                existing = [path for path in paths if path.is_file()]
                if len(existing) != 1:
                    raise FileNotFoundError(
                        f"{self.folder} has {len(existing)} files {side}.session{session} with one of the endings "
                        f"{', '.join(BETA_ENDINGS)}; allowed: exactly one, e.g. {paths[0].name}"
                    )
                files += existing
        return files

    def betas(self, session: int) -> np.ndarray:
        """Return the betas of the trials in the table, float32 [T, V], NaN where missing."""
        trials = self.trials[session].to_numpy()
        paths = self.files([session])
        parts = [self._read(path) for path in paths]
        for path, part in zip(paths, parts, strict=True):
            if part.shape[1] != MESH_VERTICES[self.mesh]:
                raise ValueError(
                    f"{path} has {part.shape[1]} vertices; allowed: those of {self.mesh}, {MESH_VERTICES[self.mesh]}"
                )
            if trials.max() >= len(part):
                raise ValueError(
                    f"{path} has {len(part)} trials, but the table asks for trial {trials.max()} of session {session}; "
                    f"allowed: 0 to {len(part) - 1}"
                )
        split = int(np.searchsorted(self._columns, MESH_VERTICES[self.mesh]))
        left, right = self._columns[:split], self._columns[split:] - MESH_VERTICES[self.mesh]
        chosen = [part[np.ix_(trials, columns)] for part, columns in zip(parts, (left, right), strict=True)]
        return self._resample(np.concatenate(chosen, axis=1).astype(np.float32))

    @staticmethod
    def _read(path: Path) -> np.ndarray:
        """Read one file as [trials, vertices]."""
        try:
            if path.name.endswith(".npy"):
                values = np.load(path, mmap_mode="r", allow_pickle=False)
            elif path.name.endswith(".func.gii"):
                values = np.stack([array.data for array in nibabel.load(path).darrays])  # pyright: ignore[reportAttributeAccessIssue] (GiftiImage)
            else:
                values = np.asarray(nibabel.load(path).dataobj)  # pyright: ignore[reportAttributeAccessIssue] (DataobjImage)
                values = values.reshape(values.shape[0], -1).T
        except (ValueError, EOFError, ImageFileError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}); allowed: numbers without pickles, see docs/own_data.md"
            ) from None
        if values.ndim != 2 or values.dtype.kind not in "fiu":
            raise ValueError(
                f"{path} holds {values.dtype} {values.shape}; allowed: numbers [trials, vertices], e.g. float32 "
                "(750, 163842)"
            )
        return values


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
    images = _read_table(table, IMAGE_COLUMNS, numbers=("image",)).sort_values("image", ignore_index=True)
    twice = images.duplicated("image")
    if twice.any():
        raise ValueError(f"{table}: image {images['image'][twice].iloc[0]} comes twice; allowed: a row an image")
    captions = [[text.strip() for text in row.split(CAPTION_SEPARATOR) if text.strip()] for row in images["captions"]]
    bare = [number for number, texts in zip(images["image"], captions, strict=True) if not texts]
    if bare:
        raise ValueError(
            f"{table}: image {bare[0]} has no caption; allowed: one to five, e.g. a dog on a beach|a brown dog runs"
        )
    extra = {name: images[name] if name in images else [""] * len(images) for name in ("category", "background")}
    with (
        RunRecord(record_path(out), "import_images", config=config, inputs=[table], outputs=[out]) as record,
        atomic_path(out) as temporary,
        h5py.File(temporary, "w") as file,
    ):
        writer = StimulusWriter(file, images["image"].to_numpy(), config.image_size, "own")
        for name in images["file"]:
            writer.append(resize_images(_square(table.parent / name), config.image_size)[None])
        writer.finish(captions, extra["category"], extra["background"])
        record.add(images=len(images), data="own")


def _square(path: Path) -> np.ndarray:
    """Read an image and keep its middle square, uint8 [S, S, 3]."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; files in the table are relative to it")
    try:
        with Image.open(path) as image:
            values = np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        raise ValueError(f"{path} is no image; allowed: what Pillow reads, e.g. PNG or JPEG") from None
    height, width = values.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return values[top : top + side, left : left + side]


def _read_table(path: Path, columns: tuple[str, ...], numbers: tuple[str, ...]) -> pd.DataFrame:
    """Read a CSV table; `columns` must exist, and those of `numbers` be whole numbers from 0."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; expected a CSV table with the columns {', '.join(columns)}")
    table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    missing = [name for name in columns if name not in table]
    if missing or not len(table):
        raise ValueError(
            f"{path} has {len(table)} rows and the columns {', '.join(table)}; allowed: {', '.join(columns)}, and at "
            "least one row"
        )
    for name in numbers:
        wrong = ~table[name].str.fullmatch(r"\d{1,9}")
        if wrong.any():
            raise ValueError(
                f"{path}, row {_row(wrong)}: {name} is {table[name][wrong].iloc[0]!r}; allowed: whole numbers from 0. "
                "Example: 12"
            )
        table[name] = table[name].astype(np.int64)
    return table


def _row(wrong: pd.Series) -> int:
    """Line of the first wrong row in the file; the header is line 1."""
    return int(np.flatnonzero(wrong)[0]) + 2
