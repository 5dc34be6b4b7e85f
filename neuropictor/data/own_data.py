"""A lab's own scans: betas on fsaverage with a table of trials, and images with a table of captions.

The formats are described in docs/own_data.md.
"""

from __future__ import annotations

import csv
import gzip
import io
import logging
import unicodedata
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from nibabel.freesurfer import MGHImage
from nibabel.gifti.parse_gifti_fast import GiftiImageParser
from scipy import sparse

from neuropictor.config import PreprocessConfig
from neuropictor.data.image_files import read_image
from neuropictor.data.preprocess import write_responses
from neuropictor.data.responses import SPLITS
from neuropictor.data.sessions import Resampler
from neuropictor.data.stimuli import StimulusWriter, resize_images
from neuropictor.nsd.constants import CAPTIONS_PER_IMAGE, HEMISPHERES
from neuropictor.nsd.design import TRAIN, VALIDATION, choose_validation
from neuropictor.records.files import atomic_path, need
from neuropictor.records.record import RunRecord, record_path
from neuropictor.surface import load_geometry
from neuropictor.surface.atlas import MESH_VERTICES

log = logging.getLogger(__name__)

BETA_ENDINGS = (".mgh", ".mgz", ".func.gii", ".npy")
TRIAL_COLUMNS = ("session", "trial", "image", "split")
IMAGE_COLUMNS = ("image", "file", "captions")
CAPTION_SEPARATOR = "|"
_OTHER_SIDE = {"lh": "CortexRight", "rh": "CortexLeft"}  # AnatomicalStructurePrimary of GIFTI
_LARGEST = 1e6  # times the usual size of a beta: no measured one, and it would hide all others of its vertex


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
        For missing, damaged or inconsistent files, with the file's name, line and what is allowed.
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
            f"{path}, line {_line(wrong)}: split is {table['split'][wrong].iloc[0]!r}; allowed: {', '.join(SPLITS)}. "
            "Example: test"
        )
    twice = table.duplicated(["session", "trial"])
    if twice.any():
        raise ValueError(f"{path}, line {_line(twice)}: this session and trial come twice; allowed: once each")
    mixed = table.groupby("image")["split"].transform("nunique") > 1
    if mixed.any():
        raise ValueError(
            f"{path}, line {_line(mixed)}: image {table['image'][mixed].iloc[0]} is in more than one split; allowed: "
            "all trials of an image in one, so that tests are on images never trained on"
        )
    for split in ("train", "test"):
        if not (table["split"] == split).any():
            raise ValueError(f"{path}: no trial has the split {split}; allowed: at least one of train and one of test")
    if table["trial"].min() > 0:
        log.warning("%s: no row has trial 0; trials are counted from 0, the first in a session's files", path)
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
                existing = [path for path in paths if path.is_file() or path.is_symlink()]
                if len(existing) != 1:
                    raise FileNotFoundError(
                        f"{self.folder} has {len(existing)} files {side}.session{session} with one of the endings "
                        f"{', '.join(BETA_ENDINGS)}; allowed: exactly one, e.g. {paths[0].name}"
                    )
                other = HEMISPHERES[side == HEMISPHERES[0]]
                if existing[0].resolve().name.startswith(f"{other}."):
                    raise ValueError(
                        f"{existing[0]} is a link to {existing[0].resolve()}, a file of the other hemisphere"
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
        betas = np.concatenate(chosen, axis=1)
        sizes = [np.where(np.isfinite(part), np.abs(part.astype(np.float64)), 0) for part in chosen]
        largest = np.stack([part.max(1) for part in sizes])
        usual = np.median(np.concatenate([part[part > 0] for part in sizes])) if largest.any() else 0
        # A hemisphere may be missing in all trials, and is counted as missing.
        wrong = np.argwhere(
            (largest == 0) & (largest.any(1, keepdims=True) | ~largest.any(0)) | (largest > _LARGEST * usual)
        )
        for side, trial in wrong[:1]:
            raise ValueError(
                f"{paths[side]}, trial {trials[trial]}: the largest beta is {largest[side, trial]:.3g}, the usual size "
                f"in session {session} {usual:.3g}; allowed: betas of one unit, NaN where a value is missing, and no "
                "row in the table for a trial that is missing"
            )
        if np.array_equal(parts[0], parts[1]):
            raise ValueError(f"{paths[0]} and {paths[1].name} hold the same numbers; allowed: a hemisphere each")
        return self._resample(betas.astype(np.float32))

    @staticmethod
    def _read(path: Path) -> np.ndarray:
        """Read one file as [trials, vertices]."""
        need(path, "expected a hemisphere's betas")
        read = {".npy": lambda path: np.lib.format.open_memmap(path, "r"), ".gii": _read_gifti}.get(
            path.suffix, _read_mgh
        )
        try:
            values = read(path)
        except Exception as error:  # nibabel, expat and zlib raise errors of all kinds
            raise ValueError(
                f"{path} cannot be read ({error}); allowed: whole files of numbers without pickles, see "
                "docs/own_data.md"
            ) from error
        if values.ndim != 2 or values.dtype.kind not in "fiu":
            raise ValueError(
                f"{path} holds {values.dtype} {values.shape}; allowed: numbers [trials, vertices], e.g. float32 "
                "(750, 163842)"
            )
        return values


class _Parser(GiftiImageParser):
    """Reads a GIFTI file, and no other file that it names."""

    def StartElementHandler(self, name: str, attrs: dict[str, str]) -> None:
        if attrs.get("ExternalFileName"):
            raise ValueError(f"its numbers lie in another file, {attrs['ExternalFileName']!r}")
        if name == "DataArray" and int(attrs["Dim0"]) not in MESH_VERTICES.values():
            raise ValueError(f"an array has {attrs['Dim0']} numbers, not one for each vertex of a mesh")
        super().StartElementHandler(name, attrs)


def _read_gifti(path: Path) -> np.ndarray:
    with open(path, "rb") as file:
        parser = _Parser()
        parser.parse(fptr=file)
    image = parser.img
    if image is None:
        raise ValueError("it holds no GIFTI element")
    structures = {part.meta.get("AnatomicalStructurePrimary") for part in (image, *image.darrays)}
    if _OTHER_SIDE[path.name[:2]] in structures:
        raise ValueError(f"it is of {_OTHER_SIDE[path.name[:2]]}, by its AnatomicalStructurePrimary")
    return np.stack([array.data for array in image.darrays])


def _read_mgh(path: Path) -> np.ndarray:
    with gzip.open(path) if path.suffix == ".mgz" else open(path, "rb") as file:
        image = MGHImage.from_stream(file)
        vertices, *others = image.shape
        if vertices not in MESH_VERTICES.values() or np.prod(others) != max(others):
            raise ValueError(f"it holds {image.shape}, not vertices x 1 x 1 x trials")
        values = np.asarray(image.dataobj)
        while file.read(2**20):
            pass  # at the end, gzip compares its checksum
    return values.reshape(vertices, -1).T


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
    images = _read_table(table, IMAGE_COLUMNS, numbers=("image",), optional=("category", "background"))
    twice = images.duplicated("image")
    if twice.any():
        raise ValueError(
            f"{table}, line {_line(twice)}: image {images['image'][twice].iloc[0]} comes twice; allowed: a row an image"
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


def _read_table(
    path: Path, columns: tuple[str, ...], numbers: tuple[str, ...], optional: tuple[str, ...] = ()
) -> pd.DataFrame:
    """Read a CSV table, indexed by the lines of its file.

    `columns` must exist, those of `numbers` be whole numbers from 0; those of `optional` are empty where they do not
    exist, and others are left out.
    """
    need(path, f"expected a CSV table with the columns {', '.join(columns)}")
    data = path.read_bytes()
    place = data.find(b"\0")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        text, place = "", error.start
    if place >= 0:
        line = data[:place].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: no UTF-8 text; allowed: UTF-8, in a spreadsheet's words CSV UTF-8")
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    rows, line = {}, 1
    try:
        for row in reader:
            if any(field.strip() for field in row):
                rows[line] = row
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {line}: {error}; allowed: quotes around a whole field and closed, and doubled inside one. "
            'Example: 12,dog.png,"a dog, on a beach"'
        ) from error
    header = [name.strip() for name in rows.pop(min(rows))] if rows else []
    if any(header.count(name) != 1 for name in columns) or any(header.count(name) > 1 for name in optional) or not rows:
        raise ValueError(
            f"{path} has {len(rows)} rows and the columns {', '.join(header[:20])}; allowed: {', '.join(columns)}, "
            "once each, and at least one row"
        )
    for line, row in rows.items():
        if len(row) != len(header):
            raise ValueError(
                f"{path}, line {line}: {len(row)} fields, but {len(header)} columns; allowed: as many, and quotes "
                'around a field with a comma. Example: 12,dog.png,"a dog, on a beach"'
            )
    used = [*columns, *(name for name in optional if name in header)]
    places = [header.index(name) for name in used]
    table = pd.DataFrame([[row[place] for place in places] for row in rows.values()], list(rows), used)
    for name in set(optional).difference(used):
        table[name] = ""
    for name in numbers:
        wrong = ~table[name].str.fullmatch(r"0*\d{1,9}")
        if wrong.any():
            raise ValueError(
                f"{path}, line {_line(wrong)}: {name} is {table[name][wrong].iloc[0]!r}; allowed: whole numbers from "
                "0. Example: 12"
            )
        table[name] = table[name].astype(np.int64)
    return table


def _line(wrong: pd.Series) -> int:
    """Line of the first wrong row in the file."""
    return wrong.index[wrong][0]
