"""Opening stores, the one place where HDF5 files of others are opened.

Data that are cut off, of a wrong shape or type, not finite, or elsewhere than in the file are refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from neuropictor.config.types import subject_label
from neuropictor.records.files import NotWrittenError

_MOST_COMPRESSED = 2000
"""Bytes of data for one in the file that are believed; deflate's best is 1032."""


@contextmanager
def open_store(path: str | Path, spread: bool = False) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading.

    Parameters
    ----------
    path
        The file.
    spread
        Whether data may lie in other files of its folder, as a simulated bank's images do.

    Raises
    ------
    FileNotFoundError, ValueError
        If it is missing, cannot be read, or does not hold its data itself; with its name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; allowed: a store that a stage has written")
    try:
        with h5py.File(path, "r") as file:
            check_contained(file, spread)
            yield file
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        if str(path) in str(error) or isinstance(error, NotWrittenError):
            raise
        raise ValueError(
            f"{path} cannot be read ({error}): it is empty, cut off, damaged or no HDF5 file. Allowed: the file as its "
            "stage wrote it; remove it and run snakemake again"
        ) from error


def check_contained(file: h5py.File, spread: bool = False) -> None:
    """Make sure that all data sets lie in an open file, and are as large as they say.

    HDF5 would follow links to any file, take any file's bytes for data, and make up what was never written.

    Raises
    ------
    ValueError
        Naming file and data set.
    """
    for name in file:
        if not linked(file, name) and not isinstance(file[name], h5py.Dataset):
            raise ValueError(f"{file.filename}: {name} is a group; allowed: data sets, as their stage wrote them")
        _check_dataset(file, name, spread)


def linked(file: h5py.File, name: str) -> bool:
    """Whether a name leads elsewhere than to what lies under it in the file, or nowhere."""
    return not isinstance(file.get(name, getlink=True), h5py.HardLink)


def _check_dataset(file: h5py.File, name: str, spread: bool = False) -> None:
    path = Path(file.filename)
    dataset: Any = None if linked(file, name) else file[name]
    sources = set()
    if dataset is not None and dataset.is_virtual:
        sources = {source.file_name for source in dataset.virtual_sources()} - {"."}
    apart = any(source != Path(source).name for source in sources)
    if dataset is None or dataset.external or (dataset.is_virtual and not spread) or apart:
        raise ValueError(
            f"{path}: {name} lies in another file or under another name; whoever made it may mean you to read, and "
            "show to others, what is not theirs. Allowed: a file that holds its data itself, as its stage wrote it"
        )
    if not dataset.is_virtual and dataset.nbytes > _MOST_COMPRESSED * dataset.id.get_storage_size():
        raise ValueError(
            f"{path}: {name} is said to be {dataset.dtype} {dataset.shape}, {dataset.nbytes:,} bytes, but the file "
            f"holds {dataset.id.get_storage_size():,} of it; allowed: the file as its stage wrote it"
        )
    for source in sources:
        if (beside := path.parent / source).is_file():
            with open_store(beside):
                pass


@contextmanager
def open_foreign(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file of another program, which may hold anything besides what `foreign_dataset` reads of it.

    Raises
    ------
    ValueError
        If it cannot be read; with its name.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): it is empty, cut off, damaged or no HDF5 file. Allowed: the whole file "
            "as its program wrote it"
        ) from error


def foreign_dataset(file: h5py.File, name: str) -> h5py.Dataset | None:
    """Return a data set that lies in the file itself, or None if there is none of this name, as ``opt/session``.

    Raises
    ------
    ValueError
        If it lies elsewhere, or is larger than the file can hold.
    """
    parts = name.split("/")
    for end in range(1, len(parts)):
        group = "/".join(parts[:end])
        if linked(file, group) or not isinstance(file[group], h5py.Group):
            return None
    if file.get(name, getlink=True) is None or (not linked(file, name) and not isinstance(file[name], h5py.Dataset)):
        return None
    _check_dataset(file, name)
    return file[name]


def expect(file: h5py.File, expected: Mapping[str, tuple[str, Sequence[int | None]]]) -> None:
    """Make sure that data sets have their types and shapes.

    Parameters
    ----------
    file
        Open store.
    expected
        By data set: kinds of numpy types (``f``, ``iu``; ``B``: uint8) and shape; None for any length.

    Raises
    ------
    ValueError
        Naming file and data set, the type and shape found, and those allowed.
    """
    for name, (kinds, shape) in expected.items():
        dataset = file[name]
        fits = len(dataset.shape) == len(shape) and all(
            length in (None, have) for length, have in zip(shape, dataset.shape, strict=True)
        )
        if not fits or not {dataset.dtype.kind, dataset.dtype.char} & set(kinds):
            types = {
                "f": "floating",
                "i": "integer",
                "u": "unsigned integer",
                "B": "uint8",
                "b": "boolean",
                "O": "text",
            }
            lengths = ", ".join("any" if length is None else str(length) for length in shape)
            raise ValueError(
                f"{file.filename}: {name} is {dataset.dtype} {dataset.shape}; allowed: "
                f"{' or '.join(types[kind] for kind in kinds)} numbers of shape ({lengths}). Remove the file and run "
                "snakemake again"
            )


def subject_of(file: h5py.File) -> str:
    """Return the label of the subject whose store is open; older stores hold the number of one of NSD's."""
    subject = file.attrs["subject"]
    return str(subject_label(subject if isinstance(subject, str) else int(subject)))


def finite(values: np.ndarray, path: str | Path, name: str) -> np.ndarray:
    """Return `values` if all are finite; otherwise ValueError names file and data set."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ValueError(
            f"{path}: {count} of {values.size} values read of {name} are not finite; allowed: finite numbers only. "
            "Remove the file and run snakemake again"
        )
    return values


def held(values: np.ndarray, kind: type[np.signedinteger]) -> np.ndarray:
    """Return whole numbers as `kind`, or as the smallest wider type that holds all: images' have up to 49 bits."""
    values = np.asarray(values)
    return values.astype(np.result_type(kind, np.min_scalar_type(-int(values.max(initial=0)) - 1)))
