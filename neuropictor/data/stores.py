"""Opening prepared stores: data that are cut off, of a wrong shape or type, or not finite are refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np


@contextmanager
def open_store(path: str | Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading.

    Raises
    ------
    FileNotFoundError, ValueError
        If it is missing or cannot be read; with its name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; allowed: a store that a stage has written")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, AttributeError) as error:  # AttributeError: a group for a data set
        if str(path) in str(error):
            raise
        raise ValueError(
            f"{path} cannot be read ({error}): it is empty, cut off, damaged or no HDF5 file. Allowed: the file as its "
            "stage wrote it; remove it and run snakemake again"
        ) from error


def expect(file: h5py.File, expected: Mapping[str, tuple[str, Sequence[int | None]]]) -> None:
    """Make sure that data sets have their types and shapes.

    Parameters
    ----------
    file
        Open store.
    expected
        By data set: kinds of numpy types (``f``, ``iu``) and shape; None for any length.

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
        if not fits or dataset.dtype.kind not in kinds:
            types = {"f": "floating", "i": "integer", "u": "unsigned integer", "O": "text"}
            lengths = ", ".join("any" if length is None else str(length) for length in shape)
            raise ValueError(
                f"{file.filename}: {name} is {dataset.dtype} {dataset.shape}; allowed: "
                f"{' or '.join(types[kind] for kind in kinds)} numbers of shape ({lengths}). Remove the file and run "
                "snakemake again"
            )


def finite(values: np.ndarray, path: str | Path, name: str) -> np.ndarray:
    """Return `values` if all are finite; otherwise ValueError names file and data set."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ValueError(
            f"{path}: {count} of {values.size} values read of {name} are not finite; allowed: finite numbers only. "
            "Remove the file and run snakemake again"
        )
    return values
