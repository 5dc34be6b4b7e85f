"""The preprocessed maps that NeuroPictor's authors published, written to the same store as NSD's own files.

Theirs are images of the whole flat cortex, one a subject and image; the store holds vertices of visual cortex. Both
show the nearest vertex of the same mesh on the same raster, so the pixel over a vertex holds the vertex's response.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scipy.io

from neuropictor.config import PreprocessConfig
from neuropictor.data.preprocess import count_splits
from neuropictor.data.responses import ResponseWriter, subject_number
from neuropictor.data.stores import open_store
from neuropictor.nsd.constants import IMAGES
from neuropictor.nsd.design import TEST, TRAIN, VALIDATION, choose_validation
from neuropictor.records.files import atomic_path, need
from neuropictor.records.progress import progress
from neuropictor.records.record import RunRecord, record_path
from neuropictor.surface import Geometry, load_geometry
from neuropictor.surface.atlas import CROP_COLUMNS, CROP_ROWS, PLANE_SHAPE

log = logging.getLogger(__name__)

MAP_SHAPE = (PLANE_SHAPE[0] - 1, PLANE_SHAPE[1] - 1)
"""Rows and columns of their maps: 1023 x 2514."""

LEAST_OVERLAP = 0.99
"""Least overlap (intersection over union) of both images of visual cortex; with the authors' own file it is 0.9977."""

_PIXEL_MM = 0.356


def import_maps(maps: Path, mask: Path, test_images: Path, subject: str, config: PreprocessConfig, out: Path) -> None:
    """Write a response store from the authors' files of one subject; nothing is unpickled.

    Their maps are normalised already and means over an image's repeats, so responses are only clipped, every image
    has one trial, and the noise ceiling is unknown (NaN).

    Parameters
    ----------
    maps
        ``{subject}_norm.h5``: ``images`` [N, 1023, 2514] and ``labels`` [N], NSD's image numbers from 0.
    mask
        ``vc_roi.npz``: ``images`` [1, 1023, 2514], 1 in visual cortex, -1 in other cortex, 0 beside it.
    test_images
        ``sub1257_shared_triallabel.npy`` (their 982 test images), or NSD's ``nsd_expdesign.mat`` (all 1000).
    subject
        Label of the subject; NSD's are 01 to 08.
    config
        `clip` and `validation_images` are used.
    out
        `responses.h5` to write; a record is written beside it.

    Raises
    ------
    FileNotFoundError, ValueError
        For missing or wrong files, with the file's name.
    """
    geometry = load_geometry()
    rows, columns = vertex_pixels(geometry, read_mask(mask))
    shared = read_test_images(test_images)
    inputs = [Path(path) for path in (maps, mask, test_images)]
    need(maps, f"expected the authors' {subject}_norm.h5")
    nsd_id = _read_labels(inputs[0])
    _check_labels(nsd_id, shared, inputs[0], inputs[2])
    with (
        RunRecord(record_path(out), "import_maps", config=config, inputs=inputs, outputs=[out]) as record,
        closing(_read_maps(inputs[0], rows, columns)) as every,
        atomic_path(out) as temporary,
        h5py.File(temporary, "w") as file,
    ):
        labels = {"subject": subject, "data": "nsd", "beta_version": "neuropictor_maps", "mesh": "fs_LR_32k"}
        writer = ResponseWriter(file, len(nsd_id), geometry.n_vertices, **labels)
        missing, first, varies = 0, None, False
        seen = np.zeros(geometry.n_vertices, bool)
        for number in progress(range(len(nsd_id)), f"Importing subject {subject}", unit="image"):
            responses = next(every)
            finite = np.isfinite(responses)
            if not finite.any():
                raise ValueError(f"{maps}: map {number} has no finite number in visual cortex; allowed: responses")
            missing += finite.size - int(finite.sum())
            seen |= finite.reshape(-1)
            responses = np.where(finite, np.clip(responses, -config.clip, config.clip), 0).astype(np.float16)
            first = responses if first is None else first
            varies |= not np.array_equal(responses, first)
            writer.append(responses[None])
        if not varies:
            raise ValueError(f"{maps}: all maps are the same in visual cortex; allowed: a response to each image")
        private = np.setdiff1d(nsd_id, shared)
        chosen = choose_validation(subject_number(subject), private, config.validation_images, subject)
        split = np.select([np.isin(nsd_id, shared), np.isin(nsd_id, chosen)], [TEST, VALIDATION], TRAIN)
        writer.finish(
            ncsnr=np.full(geometry.n_vertices, np.nan),
            missing=~seen,
            nsd_id=nsd_id,
            session=np.ones_like(nsd_id),
            repeat=pd.Series(nsd_id).groupby(nsd_id).cumcount().to_numpy(),
            split=split,
        )
        counts = count_splits(nsd_id, split)
        record.add(**labels, splits=counts, values_missing=missing)
    if missing:
        log.warning("%s: %d values are not finite; stored as 0, the mean", maps, missing)
    log.info("Subject %s: %s", subject, ", ".join(f"{c['images']:,} {name} images" for name, c in counts.items()))


def read_mask(path: Path) -> np.ndarray:
    """Read ``vc_roi.npz``: int [1023, 2514], 1 in visual cortex, -1 in other cortex, 0 beside it.

    Raises
    ------
    FileNotFoundError, ValueError
        If it is missing, holds something else, or differs in visual cortex from the shipped geometry.
    """
    expected = f"expected vc_roi.npz with images {(1, *MAP_SHAPE)}, 1 in visual cortex, -1 in other cortex and 0 beside"
    need(path, expected)
    try:
        with np.load(path, allow_pickle=False) as file:
            mask = file["images"].reshape(-1, *MAP_SHAPE)[0]
    except Exception as error:  # numpy and zipfile raise errors of many kinds
        raise ValueError(f"{path} cannot be used ({error}); {expected}") from error
    visual = np.zeros(MAP_SHAPE, bool)
    visual[CROP_ROWS, CROP_COLUMNS] = load_geometry().raster >= 0
    overlap = (visual & (mask == 1)).sum() / max(1, (visual | (mask == 1)).sum())
    if overlap < LEAST_OVERLAP:
        raise ValueError(
            f"{path}: its visual cortex and the shipped one overlap by {overlap:.4f}; allowed: at least "
            f"{LEAST_OVERLAP}, as the authors' file does (0.9977)"
        )
    return mask


def vertex_pixels(geometry: Geometry, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column within the crop [714, 719] of the pixel that lies best over each vertex, int [V] each.

    It is the one nearest to the vertex among the pixels that show it and lie in the authors' visual cortex, so that
    the few pixels on borders in which both rasters differ (0.16 %) do not matter.
    """
    height, width = geometry.raster.shape
    rows, columns = np.nonzero(geometry.raster >= 0)
    vertex = geometry.raster[rows, columns]
    # The raster is affine in the flat coordinates: fitted, to avoid writing its constants twice.
    x = np.polynomial.Polynomial.fit(columns, geometry.xy[vertex, 0], 1)(columns)
    y = np.polynomial.Polynomial.fit(rows, geometry.xy[vertex, 1], 1)(rows)
    distance = np.hypot(geometry.xy[vertex, 0] - x, geometry.xy[vertex, 1] - y)
    distance += height * width * _PIXEL_MM * (mask[CROP_ROWS, CROP_COLUMNS][rows, columns] != 1)
    best = pd.Series(distance).groupby(vertex).idxmin().to_numpy()
    return rows[best], columns[best]


def read_test_images(path: Path) -> np.ndarray:
    """Read the numbers of the test images, from 0: a ``.npy`` list, or the shared images of NSD's design."""
    path = Path(path)
    expected = "expected sub1257_shared_triallabel.npy or nsd_expdesign.mat"
    need(path, expected)
    try:
        if path.suffix == ".mat":
            numbers = scipy.io.loadmat(path, variable_names=["sharedix"])["sharedix"].ravel() - 1
        else:
            numbers = np.load(path, allow_pickle=False).ravel()
        numbers = numbers.astype(np.float64)
    except Exception as error:  # numpy and scipy raise errors of many kinds
        raise ValueError(f"{path} cannot be used without unpickling or is damaged ({error}); {expected}") from error
    return np.unique(_whole(numbers, path))


def _read_labels(path: Path) -> np.ndarray:
    with open_store(path) as source:
        held = {name: item for name, item in source.items() if isinstance(item, h5py.Dataset)}
        shapes = {name: item.shape for name, item in held.items() if item.dtype.kind in "fiu"}
        images, labels = shapes.get("images", ()), shapes.get("labels", ())
        if images[1:] != MAP_SHAPE or np.prod(labels, dtype=int) != images[0]:
            raise ValueError(
                f"{path} holds {shapes}; allowed: images [N, {MAP_SHAPE[0]}, {MAP_SHAPE[1]}] and labels [N], for "
                f"example images {(9841, *MAP_SHAPE)} and labels (9841,)"
            )
        return _whole(held["labels"][:].ravel(), path)


def _read_maps(path: Path, rows: np.ndarray, columns: np.ndarray) -> Generator[np.ndarray]:
    """Yield the responses to each image, float32 [V]."""
    with open_store(path) as source:
        for number in range(len(source["images"])):
            yield source["images"][number, CROP_ROWS, CROP_COLUMNS][rows, columns].astype(np.float32)


def _check_labels(nsd_id: np.ndarray, shared: np.ndarray, maps: Path, test_images: Path) -> None:
    """Refuse labels that are counted from elsewhere than the list of test images, or are of other images."""
    tested = {first: int(np.isin(shared, nsd_id - first).sum()) for first in (0, 1, -1)}
    if not tested[0] or tested[0] < max(tested.values()) or np.isin(nsd_id, shared).all():
        raise ValueError(
            f"{maps}: of the {len(shared)} test images in {test_images}, {tested[0]} are among the {len(nsd_id)} "
            f"labels, and {tested[1]} if the labels are counted from 1; allowed: labels counted from 0, like the list, "
            "of test images and of others"
        )


def _whole(numbers: np.ndarray, path: Path) -> np.ndarray:
    """Return image numbers as int64; ValueError if they are none of NSD's."""
    if not ((numbers % 1 == 0) & (numbers >= 0) & (numbers < IMAGES)).all():
        raise ValueError(
            f"{path} holds image numbers {numbers.min():.10g} to {numbers.max():.10g}; allowed: NSD's, counted from 0, "
            f"0 to {IMAGES - 1}"
        )
    return numbers.astype(np.int64)
