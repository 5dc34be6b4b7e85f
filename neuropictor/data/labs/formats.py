"""Files of numbers on surface meshes, in the formats that labs have.

The formats are described in docs/own_data.md.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.cifti2 import BrainModelAxis, LabelAxis, ParcelsAxis
from nibabel.freesurfer import MGHImage
from nibabel.gifti.parse_gifti_fast import GiftiImageParser

from neuropictor.data.stores import foreign_dataset, open_foreign
from neuropictor.records.files import need
from neuropictor.surface import load_geometry
from neuropictor.surface.atlas import FS_LR_VERTICES, MESH_VERTICES

MESHES = MESH_VERTICES | {"fs_LR_32k": FS_LR_VERTICES}
"""Vertices of one hemisphere of each mesh that responses may lie on."""

_OTHER_SIDE = {"lh": "CortexRight", "rh": "CortexLeft"}  # AnatomicalStructurePrimary of GIFTI
_CIFTI_SIDES = {"CIFTI_STRUCTURE_CORTEX_LEFT": 0, "CIFTI_STRUCTURE_CORTEX_RIGHT": 1}
_OTHER_MESHES = {163_842: "164k", 59_292: "59k"}
_BLOCK = 2**25  # bytes read of an HDF5 file at a time


@dataclass(frozen=True)
class Numbers:
    """Numbers of trials on a mesh.

    Attributes
    ----------
    shape
        Trials and columns.
    take
        Reads the numbers [t, c] of t trials and c columns, both ascending.
    place
        int [n]: the column of each vertex of the mesh, of one hemisphere or of left and right, -1 where it has none;
        None if a column is a vertex.
    """

    shape: tuple[int, int]
    take: Callable[[np.ndarray, np.ndarray], np.ndarray]
    place: np.ndarray | None = None

    @property
    def vertices(self) -> int:
        """Vertices of the mesh, of one hemisphere or both."""
        return self.shape[1] if self.place is None else len(self.place)

    def at(self, trials: np.ndarray, vertices: np.ndarray) -> np.ndarray:
        """Return the numbers [trials, vertices], NaN where a vertex has no column."""
        if self.place is None:
            return self.take(trials, vertices)
        columns, place = np.unique(self.place[vertices], return_inverse=True)
        if columns[0] >= 0:
            return self.take(trials, columns)[:, place]
        values = self.take(trials, columns[1:])
        missing = np.full((len(trials), 1), np.nan, np.result_type(values.dtype, np.float32))
        return np.concatenate([missing, values], axis=1)[:, place]


def of_array(values: np.ndarray, place: np.ndarray | None = None) -> Numbers:
    """Numbers that lie in an array or memory map [trials, columns]."""
    return Numbers(values.shape, lambda trials, columns: values[np.ix_(trials, columns)], place)


def read(path: Path, side: str) -> Numbers:
    """Read a file of a hemisphere, "lh" or "rh", or of both, "".

    Raises
    ------
    FileNotFoundError, ValueError
        If it is missing, damaged, of another mesh or parcellated, or holds no numbers.
    """
    ending = next(ending for ending in FORMATS if path.name.endswith(ending))
    return _read(path, side, FORMATS[ending])


def read_hdf5(path: Path, side: str, names: tuple[str, ...] = ("betas",)) -> Numbers:
    """Read one of the data sets `names` of an HDF5 file: [trials, vertices], or turned, with axes of 1 between."""
    return _read(path, side, lambda path, side: _hdf5(path, side, names))


def _read(path: Path, side: str, function: Callable[[Path, str], Numbers]) -> Numbers:
    need(path, "expected betas")
    try:
        return _on_mesh(function(path, side), path, side)
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise _unreadable(path, error) from error
    except Exception as error:  # nibabel, expat and zlib raise errors of all kinds
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} cannot be read ({error}); allowed: whole files of numbers without pickles, see docs/own_data.md"
    )


def sizes(side: str) -> dict[int, str]:
    """Columns that a file may have, with the name of each."""
    if side:
        return {count: mesh for mesh, count in MESHES.items()}
    both = {2 * count: f"{mesh}, left then right" for mesh, count in MESHES.items()}
    return both | {
        59_412: "fs_LR_32k without the medial wall",
        91_282: "grayordinates",
        load_geometry().n_vertices: "visual cortex as this project has it",
    }


def _listed(side: str) -> str:
    """Sizes for messages."""
    return ", ".join(f"{count} ({name})" for count, name in sizes(side).items())


def _on_mesh(numbers: Numbers, path: Path, side: str) -> Numbers:
    """Numbers whose columns are vertices of a mesh."""
    if numbers.place is not None:
        return numbers
    if numbers.shape[1] not in sizes(side):
        raise ValueError(f"{path} has {numbers.shape[1]} vertices; allowed: {_listed(side)}")
    geometry = load_geometry()
    place = np.full(2 * FS_LR_VERTICES, -1)
    if numbers.shape[1] == geometry.n_vertices and not side:
        place[geometry.vertex + FS_LR_VERTICES * geometry.hemisphere] = np.arange(geometry.n_vertices)
    elif numbers.shape[1] in (59_412, 91_282):
        place = grayordinates()
    else:
        return numbers
    return replace(numbers, place=place)


def grayordinates() -> np.ndarray:
    """Place of each fs_LR 32k vertex, left then right, among the HCP's grayordinates; -1 on the medial wall."""
    cortex = load_geometry().cortex.ravel()
    return np.where(cortex, np.cumsum(cortex) - 1, -1)


def _turned(shape: tuple[int, ...], path: Path, side: str) -> bool:
    """Whether the vertices of [trials, vertices] stand on the first axis."""
    first, last = (length in sizes(side) for length in shape)
    if first and last:
        raise ValueError(
            f"{path} holds {shape}, which looks transposed or not, as both are numbers of vertices; allowed: "
            "[trials, vertices] with another number of trials"
        )
    return first


def _array(path: Path, side: str) -> Numbers:
    try:
        values = np.lib.format.open_memmap(path, "r")
    except ValueError as error:
        if "Python objects" in str(error):
            raise ValueError("it holds a pickle, which can run code and is never opened") from error
        raise
    _check_numbers(values, path)
    return of_array(values.T if _turned(values.shape, path, side) else values)


def _check_numbers(values: Any, path: Path) -> None:
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise ValueError(
            f"{path} holds {values.dtype} {values.shape}; allowed: numbers [trials, vertices], e.g. float32 "
            "(750, 163842)"
        )


def _hdf5(path: Path, side: str, names: tuple[str, ...]) -> Numbers:
    with open_foreign(path) as file:
        datasets = {name: foreign_dataset(file, name) for name in names}
        name = next((name for name, dataset in datasets.items() if dataset is not None), None)
        if name is None:
            raise ValueError(f"{path} holds {', '.join(file) or 'nothing'}; allowed: a data set {' or '.join(names)}")
        dataset: Any = datasets[name]
        shape, kind = dataset.shape, dataset.dtype
        if len(shape) == 4 and shape[1:3] == (1, 1):
            shape = (shape[0], shape[3])
        if len(shape) != 2 or kind.kind not in "fiu":
            raise ValueError(
                f"{path}: {name} is {kind} {dataset.shape}; allowed: numbers of trials and vertices, e.g. float32 "
                "(163842, 1, 1, 750). Volumes are sampled on a surface first, see docs/own_data.md"
            )
        turn = _turned(shape, path, side)
        high = dataset.chunks[0] if dataset.chunks else 1
    step = -(-max(1, _BLOCK // max(1, shape[1] * kind.itemsize)) // high) * high

    def take(trials: np.ndarray, columns: np.ndarray) -> np.ndarray:
        rows, others = (columns, trials) if turn else (trials, columns)
        lowest, highest = (int(others[0]), int(others[-1]) + 1) if len(others) else (0, 0)
        values = np.empty((len(rows), len(others)), kind)
        with open_foreign(path) as file:
            dataset: Any = foreign_dataset(file, name)
            for start in range(0, shape[0], step):
                first, last = np.searchsorted(rows, [start, start + step])
                if first < last:
                    block = dataset[start : start + step, ..., lowest:highest].reshape(-1, highest - lowest)
                    values[first:last] = block[rows[first:last] - start][:, others - lowest]
        return values.T if turn else values

    return Numbers(shape[::-1] if turn else shape, take)


class _Parser(GiftiImageParser):
    """Reads a GIFTI file, and no other file that it names."""

    def StartElementHandler(self, name: str, attrs: dict[str, str]) -> None:
        if attrs.get("ExternalFileName"):
            raise ValueError(f"its numbers lie in another file, {attrs['ExternalFileName']!r}")
        if name == "DataArray" and int(attrs["Dim0"]) not in MESHES.values():
            raise ValueError(f"an array has {attrs['Dim0']} numbers, not one for each vertex of a mesh")
        super().StartElementHandler(name, attrs)


def _gifti(path: Path, side: str) -> Numbers:
    with open(path, "rb") as file:
        parser = _Parser()
        parser.parse(fptr=file)
    image = parser.img
    if image is None:
        raise ValueError("it holds no GIFTI element")
    structures = {part.meta.get("AnatomicalStructurePrimary") for part in (image, *image.darrays)}
    if _OTHER_SIDE[side] in structures:
        raise ValueError(f"it is of {_OTHER_SIDE[side]}, by its AnatomicalStructurePrimary")
    values = np.stack([array.data for array in image.darrays])
    _check_numbers(values, path)
    return of_array(values)


def _mgh(path: Path, side: str) -> Numbers:
    with gzip.open(path) if path.suffix == ".mgz" else open(path, "rb") as file:
        image = MGHImage.from_stream(file)
        vertices, *others = shape = tuple(map(int, image.shape))
        if vertices not in MESHES.values() or np.prod(others) != max(others):
            raise ValueError(f"it holds {shape}, not vertices x 1 x 1 x trials")
        values = np.asarray(image.dataobj)
        while file.read(2**20):
            pass  # at the end, gzip compares its checksum
    return of_array(values.reshape(vertices, -1).T)


def _cifti(path: Path, side: str) -> Numbers:
    image = nibabel.Cifti2Image.from_filename(path)
    axes = [image.header.get_axis(number) for number in range(image.ndim)]
    if any(isinstance(axis, LabelAxis) for axis in axes):
        raise ValueError("it holds labels (dlabel), not responses")
    if any(isinstance(axis, ParcelsAxis) for axis in axes):
        raise ValueError("it is parcellated, one number an area; allowed: one number a vertex, as before parcellation")
    if len(axes) != 2 or not isinstance(axes[1], BrainModelAxis) or isinstance(axes[0], BrainModelAxis):
        raise ValueError("its axes are not trials and grayordinates; allowed: dscalar or dtseries, a map a trial")
    place = np.full(2 * FS_LR_VERTICES, -1)
    every: Any = axes[1].iter_structures()
    for structure, part, model in every:
        if structure not in _CIFTI_SIDES:
            continue
        vertices = axes[1].nvertices[structure]
        if vertices != FS_LR_VERTICES:
            raise ValueError(
                f"{structure} is on the {_OTHER_MESHES.get(vertices, 'unknown')} mesh, of {vertices} vertices; "
                f"allowed: fs_LR 32k, {FS_LR_VERTICES}, e.g. after wb_command -cifti-resample"
            )
        place[FS_LR_VERTICES * _CIFTI_SIDES[structure] + model.vertex] = np.arange(len(axes[1]))[part]
    if place.max() < 0:
        raise ValueError(f"it has none of the structures {', '.join(_CIFTI_SIDES)}")
    values = np.asarray(image.dataobj)
    _check_numbers(values, path)
    return of_array(values, place)


FORMATS: dict[str, Callable[[Path, str], Numbers]] = {
    ".mgh": _mgh,
    ".mgz": _mgh,
    ".func.gii": _gifti,
    ".npy": _array,
    ".h5": lambda path, side: _hdf5(path, side, ("betas",)),
    ".hdf5": lambda path, side: _hdf5(path, side, ("betas",)),
    ".dscalar.nii": _cifti,
    ".dtseries.nii": _cifti,
}
"""Function of each ending; it takes the file and the side, "lh", "rh" or "" for both."""

HEMISPHERE_ENDINGS = (".mgh", ".mgz", ".func.gii", ".npy", ".h5", ".hdf5")
BRAIN_ENDINGS = (".dscalar.nii", ".dtseries.nii", ".npy", ".h5", ".hdf5")
