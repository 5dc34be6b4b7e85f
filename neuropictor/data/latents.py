"""Latents and text features of every picture, computed once: the frozen backbone's share of a training step.

Without augmentation the VAE and the text tower give the same output for a picture in every epoch. The posterior's mean
and log variance are kept, not a sample, so that training draws the posterior noise anew as the official code does.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from neuropictor.checksums import verify
from neuropictor.data.rows import read_rows
from neuropictor.data.stimuli import CAPTIONS_PER_PICTURE, StimulusStore
from neuropictor.data.stores import expect, finite, open_store
from neuropictor.models.device import prepare_device
from neuropictor.runlog import RunRecord, atomic_path, progress, record_path

if TYPE_CHECKING:
    from neuropictor.config import RuntimeConfig

log = logging.getLogger(__name__)

#: Datasets up to this size are kept in memory, larger ones are read row by row.
MEMORY_LIMIT = 2**30


class Rows:
    """Rows of one HDF5 dataset: in memory where it is small, else read as they are asked for.

    Safe to use in data loader workers: each process opens its own handle.

    Parameters
    ----------
    path, name
        File and dataset.
    memory_limit
        Bytes up to which the dataset is read whole.
    """

    def __init__(self, path: str | Path, name: str, memory_limit: int = MEMORY_LIMIT):
        self.path, self.name = str(path), name
        self._file: h5py.File | None = None
        self._process = -1
        with open_store(self.path) as file:
            dataset = file[name]
            self.shape, self.dtype = dataset.shape, dataset.dtype
            self._array = finite(dataset[:], self.path, name) if dataset.nbytes <= memory_limit else None

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return ``[len(rows), ...]`` in the stored type; rows in any order, repeated or not."""
        if self._array is not None:
            return self._array[rows]
        return finite(read_rows(self._dataset(), rows), self.path, self.name)

    def one_of(self, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return ``[len(rows), ...]``: of each row the part at its place, and nothing else is read."""
        if self._array is not None:
            return self._array[rows, places]
        dataset, values = self._dataset(), np.empty((len(rows), *self.shape[2:]), self.dtype)
        for number, (row, place) in enumerate(zip(rows, places, strict=True)):
            dataset.read_direct(values, np.s_[row, place], np.s_[number])
        return values

    def _dataset(self) -> h5py.Dataset:
        if self._process != os.getpid():
            self._file, self._process = h5py.File(self.path), os.getpid()
        return self._file[self.name]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_file": None, "_process": -1}


class _Joined:
    """Rows of several files, one behind the other."""

    def __init__(self, parts: list[Rows]):
        self._parts = parts
        self._starts = np.cumsum([0, *(part.shape[0] for part in parts)])
        self.shape = (int(self._starts[-1]), *parts[0].shape[1:])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        if len(self._parts) == 1:
            return self._parts[0][rows]
        rows = np.asarray(rows)
        values = np.empty((len(rows), *self.shape[1:]), self._parts[0].dtype)
        for part, here, within in self._owners(rows):
            values[here] = part[within]
        return values

    def one_of(self, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows)
        values = np.empty((len(rows), *self.shape[2:]), self._parts[0].dtype)
        for part, here, within in self._owners(rows):
            values[here] = part.one_of(within, places[here])
        return values

    def _owners(self, rows: np.ndarray) -> Iterator[tuple[Rows, np.ndarray, np.ndarray]]:
        """Yield each part, which of the rows it has, and where in it they are."""
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(owner):
            here = owner == number
            yield self._parts[number], here, rows[here] - self._starts[number]


class LatentStore:
    """Reader of latents files, of which each subject has its own; a picture that several hold is read from the first.

    Parameters
    ----------
    paths
        Files written by `cache_latents`.
    memory_limit
        Bytes up to which a dataset is read whole, of all files together.

    Attributes
    ----------
    nsd_id
        ``[P]`` ascending.
    mean, logvar
        ``[rows, C, h, w]`` by rows of `rows`, unscaled moments of the VAE's posterior.
    text
        ``[rows, 5, L, D]``, the targets of the semantic loss of the five captions, see `Backbone.encode_target`.
    """

    def __init__(self, *paths: str | Path, memory_limit: int = MEMORY_LIMIT):
        self.paths = [Path(path) for path in paths]
        held = []
        for path in self.paths:
            with open_store(path) as file:
                missing = [name for name in ("nsd_id", "mean", "logvar", "text") if name not in file]
                if missing:
                    raise ValueError(
                        f"{path}: {', '.join(missing)} missing, found {sorted(file)}; allowed: a file that "
                        "cache_latents wrote, with nsd_id, mean, logvar and text"
                    )
                count = len(file["nsd_id"]) if file["nsd_id"].shape else None
                moments, text = ("f", (count, None, None, None)), ("f", (count, CAPTIONS_PER_PICTURE, None, None))
                expect(file, {"nsd_id": ("iu", (None,)), "mean": moments, "logvar": moments, "text": text})
                held.append(file["nsd_id"][:])
        self.nsd_id, self._row = np.unique(np.concatenate(held), return_index=True)
        self.mean, self.logvar, self.text = (
            _Joined([Rows(path, name, memory_limit // len(self.paths)) for path in self.paths])
            for name in ("mean", "logvar", "text")
        )

    def rows(self, nsd_ids: np.ndarray) -> np.ndarray:
        """Return the row of each picture; raise ``KeyError`` naming the first one that is missing."""
        places = np.searchsorted(self.nsd_id, nsd_ids).clip(max=len(self.nsd_id) - 1)
        missing = self.nsd_id[places] != nsd_ids
        if missing.any():
            where = ", ".join(map(str, self.paths))
            raise KeyError(
                f"{where}: nsd_id {np.asarray(nsd_ids)[missing][0]} is not among its {len(self.nsd_id)} pictures; "
                "allowed: pictures of the stimuli file that the latents were made from"
            )
        return self._row[places]


def _five(captions: list[str]) -> list[str]:
    """Repeat captions where a picture has fewer than five, so that any of the five rows may be drawn."""
    captions = captions or [""]
    return [captions[i % len(captions)] for i in range(CAPTIONS_PER_PICTURE)]


def cache_latents(
    stimuli: str | Path,
    backbone: str | Path,
    runtime: "RuntimeConfig",
    out: str | Path,
    batch_size: int = 64,
    target: str | Path | None = None,
) -> None:
    """Encode all pictures and captions of a stimuli file with a backbone.

    Parameters
    ----------
    stimuli
        Stimuli file.
    backbone
        Source of the backbone, see `Backbone.load`.
    runtime
        Device and threads.
    out
        HDF5 file: ``mean``, ``logvar`` f2 ``[P, C, h, w]``, ``text`` f2 ``[P, 5, L, D]``, ``nsd_id`` i4 ``[P]``.
    batch_size
        Pictures encoded at once.
    target
        Folder of the text tower that makes ``text``; None or empty: the backbone's own.
    """
    from neuropictor.models.backbone import Backbone  # takes seconds to load, and readers of latents do without

    device = prepare_device(runtime)
    verify(stimuli)
    store = StimulusStore(stimuli)
    model = Backbone.load(backbone, target).to(device)
    if store.size != model.image_size:
        raise ValueError(
            f"preprocess.picture_size: pictures in {stimuli} are {store.size} pixels wide, backbone {model.name} takes "
            f"{model.image_size}; allowed: the backbone's size, for example picture_size: {model.image_size}"
        )
    nsd_ids = store.nsd_id
    with RunRecord(record_path(out), stage="latents", inputs=[stimuli], outputs=[out]) as record:
        with atomic_path(out) as temporary, h5py.File(temporary, "w") as file:
            shape = (len(nsd_ids), *model.latent_shape)
            for name in ("mean", "logvar"):
                file.create_dataset(name, shape, "f2", chunks=(1, *shape[1:]))
            text_shape = (len(nsd_ids), CAPTIONS_PER_PICTURE, *model.context_shape)
            # A chunk a caption, as training reads one of them: 158 kB of the 789 kB of Stable Diffusion's five.
            text = file.create_dataset("text", text_shape, "f2", chunks=(1, 1, *text_shape[2:]))
            file["nsd_id"] = nsd_ids
            file.attrs.update(data=store.data, backbone=model.name)
            starts = range(0, len(nsd_ids), batch_size)
            for start in progress(starts, "Encoding pictures and captions", unit="batch"):
                part = slice(start, start + batch_size)
                mean, logvar = model.encode_pictures(store.pictures(nsd_ids[part]))
                file["mean"][part] = mean.float().cpu().numpy()
                file["logvar"][part] = logvar.float().cpu().numpy()
                captions = [caption for texts in store.captions(nsd_ids[part]) for caption in _five(texts)]
                text[part] = model.encode_target(captions).float().cpu().numpy().reshape(-1, *text_shape[1:])
        record.add(
            pictures=len(nsd_ids), latent_shape=list(model.latent_shape), context_shape=list(model.context_shape)
        )
