"""Reconstructed images of one subject by one model, as sampling and baselines write and evaluation reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from neuropictor.config.types import SUBJECT
from neuropictor.data.stores import expect, held, open_store, subject_of
from neuropictor.records.files import atomic_path


@dataclass(frozen=True)
class Reconstructions:
    """All reconstructions of one subject by one model.

    Attributes
    ----------
    images
        uint8 [N, K, S, S, 3]: K samples of each of N images.
    nsd_id
        int [N]: 0-based image numbers, ascending.
    model
        For example "refined".
    subject
        Label of the subject.
    data
        "simulated", "nsd" or "own".
    labels
        Of the K samples, where they differ in more than their noise, as in controls.
    others
        int [N, K] or None: other image whose response took part in a control's image; -1 where there is none.
    """

    images: np.ndarray
    nsd_id: np.ndarray
    model: str
    subject: str
    data: str
    labels: tuple[str, ...] = ()
    others: np.ndarray | None = None


class ReconstructionWriter:
    """Writes a file of reconstructions part by part, so that only one part is in memory.

    Parameters
    ----------
    file
        Open for writing, empty; `writing` opens one that gets its name only when it is whole.
    about
        All but the images, which are not used.
    samples
        K.
    """

    def __init__(self, file: h5py.File, about: Reconstructions, samples: int):
        self._file, self._count = file, (len(about.nsd_id), samples)
        file.create_dataset("nsd_id", data=held(about.nsd_id, np.int32))
        if about.labels:
            file.create_dataset("labels", data=np.asarray(about.labels, object), dtype=h5py.string_dtype())
        if about.others is not None:
            file.create_dataset("others", data=held(about.others, np.int32))
        file.attrs.update(model=about.model, subject=about.subject, data=about.data)

    def write(self, row: int, sample: int, images: np.ndarray) -> None:
        """Write images uint8 [n, k, S, S, 3] from this row and sample on; the first ones set the size."""
        if "images" not in self._file:
            # One chunk an image: readers ask for one sample of some images at a time.
            shape, chunk = (*self._count, *images.shape[2:]), (1, 1, *images.shape[2:])
            self._file.create_dataset("images", shape, np.uint8, chunks=chunk, compression="gzip")
        self._file["images"][row : row + len(images), sample : sample + images.shape[1]] = images


@contextmanager
def writing(path: Path, about: Reconstructions, samples: int) -> Iterator[ReconstructionWriter]:
    """Open a file for `ReconstructionWriter`; it appears whole or not at all."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        yield ReconstructionWriter(file, about, samples)


def write_reconstructions(path: Path, reconstructions: Reconstructions) -> None:
    """Write the file whole or not at all."""
    images = reconstructions.images
    if images.ndim != 5 or images.dtype != np.uint8 or len(images) != len(reconstructions.nsd_id):
        raise ValueError(
            f"reconstructions of shape {images.shape} and type {images.dtype} for {len(reconstructions.nsd_id)} "
            "images; allowed is uint8 [N, K, S, S, 3], for example (150, 1, 64, 64, 3)"
        )
    with writing(path, reconstructions, images.shape[1]) as writer:
        writer.write(0, 0, images)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as `numpy.save` does, whose own errors say how much could not be written, but not why."""
    array = np.ascontiguousarray(array)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


class StoredReconstructions:
    """A file of reconstructions, whose images are read when they are asked for.

    At 512 pixels, those of one subject and model take 0.8 GB: reading all files at once would take a server's memory.

    Parameters
    ----------
    path
        HDF5 file.

    Attributes
    ----------
    nsd_id, model, subject, data, labels, others
        As in `Reconstructions`.
    shape
        (N, K, S, S, 3) of the images.

    Raises
    ------
    FileNotFoundError, ValueError
        When the file or a part of it is missing.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(
                f"reconstructions: no file {self.path}; the stages 'sample' and 'evaluate' write it"
            )
        with open_store(self.path) as file:
            missing = [name for name in ("images", "nsd_id") if name not in file]
            missing += [name for name in ("model", "subject", "data") if name not in file.attrs]
            if missing:
                raise ValueError(
                    f"{self.path}: {', '.join(missing)} missing, found {sorted(file)} and {sorted(file.attrs)}"
                )
            count = len(file["images"]) if file["images"].shape else None
            expect(file, {"images": ("B", (count, None, None, None, 3)), "nsd_id": ("iu", (count,))})
            self.nsd_id, self.shape = file["nsd_id"][:], file["images"].shape
            self.model, self.data = str(file.attrs["model"]), str(file.attrs["data"])
            self.subject = subject_of(file)
            self.labels, self.others = (), None
            if "labels" in file:
                expect(file, {"labels": ("O", (self.samples,))})
                self.labels = tuple(file["labels"].asstr()[:])
            if "others" in file:
                expect(file, {"others": ("iu", self.shape[:2])})
                self.others = file["others"][:]

    def __len__(self) -> int:
        """Return the number of images N."""
        return self.shape[0]

    @property
    def samples(self) -> int:
        """Number of samples K of each image."""
        return self.shape[1]

    def read(self, rows: Sequence[int] | np.ndarray, sample: int = 0) -> np.ndarray:
        """Read one sample of some images, uint8 [n, S, S, 3]; rows in any order."""
        images = np.empty((len(rows), *self.shape[2:]), np.uint8)
        with open_store(self.path) as file:
            for place, row in enumerate(rows):
                file["images"].read_direct(images, np.s_[row, sample], np.s_[place])
        return images

    @property
    def images(self) -> np.ndarray:
        """Read all images, uint8 [N, K, S, S, 3]: gigabytes at 512 pixels."""
        with open_store(self.path) as file:
            return file["images"][:]


def read_reconstructions(path: Path) -> Reconstructions:
    """Read all of a file of reconstructions; FileNotFoundError or ValueError names what is missing."""
    stored = StoredReconstructions(path)
    labels = (stored.nsd_id, stored.model, stored.subject, stored.data, stored.labels, stored.others)
    return Reconstructions(stored.images, *labels)


def by_subject(files: Iterable[Path]) -> dict[str, dict[str, Path]]:
    """Sort files of reconstructions by the subject that their folder names (sub-01) and by model, their own name.

    Raises
    ------
    ValueError
        For a file in another folder.
    """
    paths: dict[str, dict[str, Path]] = {}
    for path in files:
        subject = re.fullmatch(rf"sub-({SUBJECT})", path.parent.name)
        if not subject:
            raise ValueError(f"{path} is not in a folder named after its subject; allowed: e.g. sub-01/refined.h5")
        paths.setdefault(subject[1], {})[path.stem] = path
    return paths
