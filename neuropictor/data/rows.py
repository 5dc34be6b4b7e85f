"""Reading of scattered rows from HDF5."""

from __future__ import annotations

import h5py
import numpy as np


def read_rows(dataset: h5py.Dataset, rows: np.ndarray) -> np.ndarray:
    """Read rows of a data set in any order, repeats allowed.

    Neighbouring rows are read at once: HDF5's own selection by a list of rows is many times slower.

    Parameters
    ----------
    dataset : h5py.Dataset [N, ...]
    rows : int array [n], each in 0..N-1

    Returns
    -------
    array [n, ...] of the data set's type
    """
    wanted, inverse = np.unique(rows, return_inverse=True)
    values = np.empty((len(wanted), *dataset.shape[1:]), dataset.dtype)
    for run in np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(wanted) > 1) + 1):
        if run.size:
            dataset.read_direct(values, np.s_[wanted[run[0]] : wanted[run[-1]] + 1], np.s_[run[0] : run[-1] + 1])
    return values[inverse]
