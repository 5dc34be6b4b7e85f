"""Choice of rows, and reading of scattered rows from HDF5."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np

from neuropictor.data.stores import finite, open_store


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """Return at most `most` of `count` rows, spread evenly from the first to the last, int [min(count, most)]."""
    return np.linspace(0, count - 1, min(count, most)).astype(int)


def read_rows(dataset: h5py.Dataset, rows: np.ndarray) -> np.ndarray:
    """Read rows of a data set in any order, repeats allowed.

    Neighbouring rows are read at once: HDF5's own selection by a list of rows is many times slower.

    Parameters
    ----------
    dataset
        H5py.Dataset [N, ...].
    rows
        int [n], each in 0..N-1.

    Returns
    -------
    array [n, ...] of the data set's type
    """
    unique, inverse = np.unique(rows, return_inverse=True)
    values = np.empty((len(unique), *dataset.shape[1:]), dataset.dtype)
    for run in np.split(np.arange(len(unique)), np.flatnonzero(np.diff(unique) > 1) + 1):
        if run.size:
            dataset.read_direct(values, np.s_[unique[run[0]] : unique[run[-1]] + 1], np.s_[run[0] : run[-1] + 1])
    return values[inverse]


def mean_over_repeats(rows: Rows | np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean over each group of rows.

    Parameters
    ----------
    rows
        Rows or [T, ...].
    groups
        sequence of int arrays: rows of each group, at least one each; read for 256 groups at a time.

    Returns
    -------
    float32 array [len(groups), ...]
    """
    means = np.empty((len(groups), *rows.shape[1:]), np.float32)
    for start in range(0, len(groups), 256):
        part = groups[start : start + 256]
        values = rows[np.concatenate(part)].astype(np.float32)
        for row, (first, last) in enumerate(pairwise(np.cumsum([0, *map(len, part)]))):
            means[start + row] = values[first:last].mean(0)
    return means


class Rows:
    """Rows of one HDF5 data set, read on demand.

    A data set in one piece, as the stages write it, is mapped into memory: all processes of a machine share the
    system's page cache, which makes way when memory is needed. A chunked one is read through HDF5. Safe in data loader
    workers: each process opens its own handle.

    Parameters
    ----------
    path, name
        File and data set.

    Attributes
    ----------
    shape, dtype
        Of the data set.
    """

    def __init__(self, path: str | Path, name: str):
        self.path, self.name = str(path), name
        with open_store(self.path) as file:
            dataset = file[name]
            self.shape, self.dtype = dataset.shape, dataset.dtype
            self._offset = dataset.id.get_offset() if dataset.size else None
        self._held: np.memmap | h5py.Dataset | None = None
        self._process = -1

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return ``[len(rows), ...]`` in the stored type; rows in any order, repeated or not."""
        held = self._open()
        if isinstance(held, h5py.Dataset):
            return finite(read_rows(held, rows), self.path, self.name)
        values = np.asarray(held[rows])
        # Else all that was ever read would count as this process's memory, as clusters do; the page cache keeps it.
        held._mmap.madvise(mmap.MADV_DONTNEED)  # pyright: ignore[reportAttributeAccessIssue] (numpy's types lack it)
        return finite(values, self.path, self.name)

    def first(self, rows: np.ndarray) -> np.ndarray:
        """Return the first part along the second axis of each row, ``[len(rows), 1, ...]``, for a look at many rows.

        It is read without mapping, which would take whole pages around it.
        """
        if self._offset is None:
            return self[rows][:, :1]
        values = np.empty((len(rows), 1, *self.shape[2:]), self.dtype)
        stride = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        with open(self.path, "rb", buffering=0) as file:
            for value, row in zip(values, rows, strict=True):
                # numpy's types do not tell that arrays are buffers
                buffer = memoryview(value).cast("B")  # pyright: ignore[reportArgumentType]
                os.preadv(file.fileno(), [buffer], self._offset + int(row) * stride)
        return finite(values, self.path, self.name)

    def _open(self) -> np.memmap | h5py.Dataset:
        if self._process != os.getpid():
            if self._offset is None:
                self._held = h5py.File(self.path, "r")[self.name]
            else:
                self._held = np.memmap(self.path, self.dtype, "r", self._offset, self.shape)
            self._process = os.getpid()
        return self._held

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._process == os.getpid() and isinstance(self._held, h5py.Dataset):
            self._held.file.close()  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess] (h5py has no types)
        self._held, self._process = None, -1

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_held": None, "_process": -1}
