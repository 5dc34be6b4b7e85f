"""The prepared responses of one subject: an HDF5 file whose trials are read on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py
import numpy as np

from neuropictor.data.rows import Rows, mean_over_repeats
from neuropictor.data.stores import expect, held, open_store, subject_of

SPLITS = ("train", "validation", "test")
"""Names of the values 0, 1, 2 of the `split` data set."""

_TRIAL_FIELDS = {"nsd_id": np.int32, "session": np.int16, "repeat": np.int8, "split": np.int8}
_CHOOSING_SHARE = 20  # without validation images, one in this many training images chooses penalties,
_FEWEST_CHOOSING, _MOST_CHOOSING_SHARE = 10, 5  # but ten, or one in five
_ATTRIBUTES = ("subject", "data", "beta_version", "mesh")


def subject_number(label: str) -> int:
    """Return the number that stands for a subject in seeds: NSD's own of 01 to 08, else one made from the label."""
    if len(label) == 2 and label.isdigit():
        return int(label)
    return int.from_bytes(hashlib.sha256(label.encode()).digest()[:6], "big")


class ResponseStore:
    """Read access to a subject's `responses.h5`.

    A store may be handed to worker processes.

    Parameters
    ----------
    path
        File written by `neuropictor.data.preprocess.preprocess_subject`.

    Attributes
    ----------
    subject
        Label of the subject; NSD's are 01 to 08.
    data
        "simulated", "nsd" or "own".
    beta_version, mesh
        Where the responses come from.
    nsd_id, session, repeat, split
        int [T]: of each trial: 0-based image number, session (NSD's from 1), 0-based repeat, index into `SPLITS`.
    ncsnr
        float32 [V]: noise ceiling signal-to-noise ratio of each vertex, unitless.
    missing
        bool [V]: vertices that the subject lacks in all trials, where 0 is stored; none in stores of before they were.
    rows
        Responses of the trials [T, V] as stored, float16.

    Raises
    ------
    FileNotFoundError
        When there is no file.
    ValueError
        When the file lacks a data set or attribute.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"responses: no file {self.path}; the stage 'preprocess' writes it")
        with open_store(self.path) as file:
            missing = [name for name in ("responses", *_TRIAL_FIELDS, "ncsnr") if name not in file]
            missing += [name for name in _ATTRIBUTES if name not in file.attrs]
            if missing:
                raise ValueError(
                    f"{self.path}: {', '.join(missing)} missing, found {sorted(file)}; a response store holds "
                    f"responses, {', '.join(_TRIAL_FIELDS)}, ncsnr and the attributes {', '.join(_ATTRIBUTES)}"
                )
            trials, vertices = file["responses"].shape if len(file["responses"].shape) == 2 else (None, None)
            fields = dict.fromkeys(_TRIAL_FIELDS, ("iu", (trials,)))
            fields |= {"missing": ("b", (vertices,))} if "missing" in file else {}
            expect(file, {"responses": ("f", (trials, vertices)), "ncsnr": ("f", (vertices,)), **fields})
            self.shape: tuple[int, int] = file["responses"].shape
            self.nsd_id, self.session, self.repeat, self.split = (file[name][:] for name in _TRIAL_FIELDS)
            self.ncsnr = file["ncsnr"][:]
            self.missing = file["missing"][:] if "missing" in file else np.zeros(vertices or 0, bool)
            self.subject = subject_of(file)
            self.data, self.beta_version, self.mesh = (str(file.attrs[name]) for name in _ATTRIBUTES[1:])
        self.rows = Rows(self.path, "responses")
        self._order = np.argsort(self.nsd_id, kind="stable")
        self._sorted_ids = self.nsd_id[self._order]

    def __len__(self) -> int:
        """Return the number of trials."""
        return self.shape[0]

    @property
    def n_vertices(self) -> int:
        """Number of vertices V."""
        return self.shape[1]

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        self.rows.close()

    def responses(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read trials.

        Parameters
        ----------
        indices
            int [n]: trial numbers in any order, repeats allowed.

        Returns
        -------
        float32 array [n, V]
            Z-scored responses, unitless.
        """
        indices = np.asarray(indices, dtype=np.int64).reshape(-1)
        if indices.size and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(
                f"{self.path}: trial {indices.min() if indices.min() < 0 else indices.max()} does not exist; "
                f"allowed are 0..{len(self) - 1}"
            )
        return self.rows[indices].astype(np.float32)

    def images(self, split: str) -> np.ndarray:
        """Return the image numbers of a split ("train", "validation" or "test"), ascending and unique, int [n]."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r} does not exist; allowed are {', '.join(SPLITS)}, for example 'test'")
        return np.unique(self.nsd_id[self.split == SPLITS.index(split)])

    def fitting_images(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the images to fit on, and those on which a penalty is chosen, int [n] and [m].

        Training and validation images; without validation images, every twentieth training image is
        held out for the choice; of fewer than 200, ten are; of fewer than 50, every fifth.
        """
        train, validation = self.images("train"), self.images("validation")
        if len(validation):
            return train, validation
        count = max(len(train) / _CHOOSING_SHARE, min(_FEWEST_CHOOSING, len(train) / _MOST_CHOOSING_SHARE))
        chooses = np.zeros(len(train), bool)
        chooses[(np.arange(np.ceil(count)) * len(train) / np.ceil(count)).astype(int)] = True
        return train[~chooses], train[chooses]

    def trials(self, nsd_id: int) -> np.ndarray:
        """Return the trials in which an image was shown, in order, int64 [repeats]."""
        first, last = np.searchsorted(self._sorted_ids, [nsd_id, nsd_id + 1])
        if first == last:
            raise ValueError(f"{self.path}: subject {self.subject} never saw image {nsd_id} (nsd_id is 0-based)")
        return self._order[first:last]

    def mean_response(self, nsd_ids: Iterable[int], most: int | None = None) -> np.ndarray:
        """Average the repeats of each image.

        Parameters
        ----------
        nsd_ids
            0-based image numbers.
        most
            Average only the first `most` repeats; 1 gives single trials.

        Returns
        -------
        float32 array [n, V]
        """
        groups = [self.trials(int(nsd_id))[:most] for nsd_id in nsd_ids]
        return mean_over_repeats(self.rows, groups)


class ResponseWriter:
    """Write a response store session by session into an open, empty HDF5 file.

    Parameters
    ----------
    file
        Open for writing.
    trials, n_vertices
        Final numbers of rows and columns.
    subject
        Label of the subject.
    data
        "simulated", "nsd" or "own".
    beta_version, mesh
        Attributes of the file.
    """

    def __init__(
        self, file: h5py.File, trials: int, n_vertices: int, *, subject: str, data: str, beta_version: str, mesh: str
    ):
        self.dataset = file.create_dataset("responses", (trials, n_vertices), np.float16)
        self._file = file
        self._filled = 0
        file.attrs.update(subject=subject, data=data, beta_version=beta_version, mesh=mesh)

    def append(self, responses: np.ndarray) -> None:
        """Append trials [t, V]."""
        self.dataset[self._filled : self._filled + len(responses)] = responses.astype(np.float16)
        self._filled += len(responses)

    def finish(self, *, ncsnr: np.ndarray, missing: np.ndarray | None = None, **fields: np.ndarray) -> None:
        """Add `nsd_id`, `session`, `repeat`, `split` [T], `ncsnr` and `missing` [V], where None is none.

        Every trial must have been appended.
        """
        if self._filled != len(self.dataset):
            raise ValueError(f"responses: {self._filled} trials written of {len(self.dataset)} announced")
        for name, kind in _TRIAL_FIELDS.items():
            values = np.asarray(fields.pop(name))
            if values.shape != (self._filled,):
                raise ValueError(
                    f"{name}: shape {values.shape} found, allowed is one value per trial, ({self._filled},)"
                )
            # A session may be called by its date, and an image by a number of its name.
            self._file.create_dataset(name, data=held(values, kind))
        if fields:
            raise TypeError(f"unknown fields {sorted(fields)}; allowed are {', '.join(_TRIAL_FIELDS)}, ncsnr, missing")
        self._file.create_dataset("ncsnr", data=np.asarray(ncsnr, np.float32))
        self._file.create_dataset("missing", data=np.zeros(len(ncsnr), bool) if missing is None else missing)
