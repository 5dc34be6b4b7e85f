"""The prepared images with captions, main category and background kind."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from neuropictor.data.image_names import of_coco
from neuropictor.data.rows import read_rows
from neuropictor.data.stores import expect, held, open_store
from neuropictor.nsd.constants import CAPTIONS_PER_IMAGE, SCREEN_GREY

_COMPARED_AT_ONCE = 64
_CHECKSUM = "checksum"  # of each image, CRC-32: it tells images apart without reading them
_FIELDS = ("images", "nsd_id", "captions", "category", "background")


def resize_images(images: np.ndarray, size: int) -> np.ndarray:
    """Shrink images by area averaging, or enlarge them bilinearly.

    Parameters
    ----------
    images
        uint8 [..., S, S, 3].
    size
        New side in pixels.

    Returns
    -------
    uint8 array [..., size, size, 3]
        The same array where the size is right already.
    """
    side = images.shape[-2]
    if side == size and images.shape[-3] == size:
        return images
    filter_ = Image.Resampling.BOX if size < side else Image.Resampling.BILINEAR
    flat = images.reshape(-1, *images.shape[-3:])
    out = np.empty((len(flat), size, size, 3), np.uint8)
    for row, image in enumerate(flat):
        out[row] = np.asarray(Image.fromarray(image).resize((size, size), filter_))
    return out.reshape(*images.shape[:-3], size, size, 3)


def frame_images(images: np.ndarray, size: int, share: float) -> np.ndarray:
    """Resize images as `resize_images` so that they cover a share of their side.

    Parameters
    ----------
    images
        uint8 [..., S, S, 3].
    size
        New side in pixels.
    share
        Below 1: the middle alone; above 1: all of the image, on the grey of a screen; 1: `resize_images`.
    """
    if share <= 1:
        side = images.shape[-2]
        inner = max(1, round(side * share))
        start = (side - inner) // 2
        return resize_images(images[..., start : start + inner, start : start + inner, :], size)
    inner = max(1, round(size / share))
    start = (size - inner) // 2
    framed = np.full((*images.shape[:-3], size, size, 3), SCREEN_GREY, np.uint8)
    framed[..., start : start + inner, start : start + inner, :] = resize_images(images, inner)
    return framed


class StimulusStore:
    """Read access to `stimuli.h5`; images are read on demand, the rest is held in memory.

    Parameters
    ----------
    paths
        Files written by `neuropictor.data.preprocess.preprocess_stimuli`, one a subject; an image that several hold is
        read from the first, of NSD if one is, and must be the same in all. Only images of COCO, of which other data
        sets show other parts, may differ from NSD's and between those.

    Attributes
    ----------
    nsd_id
        int [P]: 0-based image numbers, ascending.
    size
        Side of the images in pixels.
    data
        "simulated" or "own" if any file's are, else "nsd".
    of_coco
        bool [P]: which are known to be of COCO: all of NSD's, others by their names.

    Raises
    ------
    FileNotFoundError, ValueError
        When a file or a part of it is missing, files differ in size of their images or are of the real and of a
        simulated NSD, or hold different images under one number.
    """

    def __init__(self, *paths: str | Path):
        parts = sorted((_read_table(Path(path)) for path in paths), key=lambda part: part["described"][0] == "own")
        self.paths = [part["path"] for part in parts]
        (self.data, self.size), *others = (part["described"] for part in parts)
        for path, (data, size) in zip(self.paths[1:], others, strict=True):
            if size != self.size or data not in (self.data, "own"):
                raise ValueError(
                    f"{path} holds {data} images of {size} pixels, {self.paths[0]} {self.data} images of {self.size}; "
                    "they cannot be used together: prepare both alike"
                )
        self._own = np.array([part["described"][0] == "own" for part in parts])
        if self.data == "nsd" and self._own.any():
            self.data = "own"
        numbers = np.concatenate([part["nsd_id"] for part in parts])
        self.nsd_id, self._first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
        texts = [np.concatenate([part[name] for part in parts]) for name in ("captions", "category", "background")]
        self._captions, self._category, self._background = (text[self._first] for text in texts)
        self._names = np.concatenate([part["name"] for part in parts])[self._first]
        self._sums = np.concatenate([part["checksum"] for part in parts])
        self._of_coco = np.concatenate([part["of_coco"] for part in parts])
        self.of_coco = self._of_coco[self._first]
        # Number of the file, and row in it, of each image of all files.
        counts = [len(part["nsd_id"]) for part in parts]
        self._file = np.repeat(np.arange(len(parts)), counts)
        self._row = np.concatenate([np.arange(count) for count in counts])
        again = np.flatnonzero(self._first[inverse] != np.arange(len(numbers)))
        self._compare(again, self._first[inverse[again]], np.column_stack(texts))

    def _compare(self, again: np.ndarray, before: np.ndarray, texts: np.ndarray) -> None:
        """Refuse an image whose number an earlier file gives to another one; NSD's numbers mean the same everywhere."""
        for start in range(0, len(again), _COMPARED_AT_ONCE):
            part = slice(start, start + _COMPARED_AT_ONCE)
            differ = (texts[again[part]] != texts[before[part]]).any(1)
            own = self._own[self._file[again[part]]]
            cropped = own & self._of_coco[again[part]] & self._of_coco[before[part]]
            looked = np.flatnonzero(own & ~cropped)
            if len(looked):
                sums = [self._checksums(rows[part][looked]) for rows in (again, before)]
                differ[looked] |= sums[0] != sums[1]
            differ &= ~cropped
            for place in np.flatnonzero(differ)[:1] + start:
                path, earlier = (self.paths[self._file[row]] for row in (again[place], before[place]))
                number = self.nsd_id[self._first == before[place]][0]
                raise ValueError(
                    f"image {number} of {path} is another, or has other texts, than image {number} of {earlier}; "
                    "allowed: one image a number over all subjects, for example numbers from 73000 on beside NSD's 0 "
                    "to 72999; where images have names, both imports with --data-set"
                )

    def _checksums(self, rows: np.ndarray) -> np.ndarray:
        """Return checksums of images, int64 [n]; those of older files, which hold none, are computed."""
        sums = self._sums[rows]
        unknown = np.flatnonzero(sums < 0)
        if len(unknown):
            sums[unknown] = _sums_of(self._read(rows[unknown]))
        return sums

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.nsd_id)

    @property
    def categories(self) -> list[str]:
        """The main categories that occur, sorted, without the empty name of images that have none."""
        return sorted(set(self._category) - {""})

    def rows(self, nsd_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the rows of the given images, int64 [n]; ValueError names the first that is missing."""
        nsd_ids = np.asarray(nsd_ids, dtype=np.int64).reshape(-1)
        rows = np.searchsorted(self.nsd_id, nsd_ids)
        present = self.nsd_id[np.minimum(rows, len(self) - 1)] == nsd_ids
        if not present.all():
            where = ", ".join(map(str, self.paths))
            raise ValueError(f"{where}: no image {nsd_ids[~present][0]} among {len(self)} (nsd_id is 0-based)")
        return rows

    def images(self, nsd_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read images, uint8 [n, S, S, 3], in the given order."""
        return self._read(self._first[self.rows(nsd_ids)])

    def _read(self, rows: np.ndarray) -> np.ndarray:
        images = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        for number in np.unique(self._file[rows]):
            in_file = self._file[rows] == number
            with open_store(self.paths[number]) as file:
                images[in_file] = read_rows(file["images"], self._row[rows[in_file]])
        return images

    def captions(self, nsd_ids: Sequence[int] | np.ndarray) -> list[list[str]]:
        """Return the captions of each image: n lists of at most five texts (COCO has images with fewer)."""
        return [[text for text in texts if text] for texts in self._captions[self.rows(nsd_ids)]]

    def category(self, nsd_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the category of each image's largest object, str [n]; empty where an image has no object."""
        return self._category[self.rows(nsd_ids)]

    def background(self, nsd_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the kind of background of each image, str [n]; empty where unknown."""
        return self._background[self.rows(nsd_ids)]

    def names(self, nsd_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the name that each image had when it was imported, str [n]; empty where there was none."""
        return self._names[self.rows(nsd_ids)]


def _read_table(path: Path) -> dict[str, Any]:
    """Read all but the images of a stimulus store; `described` is origin and size of the images."""
    if not path.is_file():
        raise FileNotFoundError(f"stimuli: no file {path}; the stage 'preprocess' writes it")
    with open_store(path) as file:
        missing = [name for name in _FIELDS if name not in file]
        missing += [name for name in ("data", "size") if name not in file.attrs]
        if missing:
            raise ValueError(
                f"{path}: {', '.join(missing)} missing, found {sorted(file)}; a stimulus store holds "
                f"{', '.join(_FIELDS)} and the attributes data, size"
            )
        count, size = len(file["images"]) if file["images"].shape else None, int(file.attrs["size"])
        texts = dict.fromkeys(("category", "background"), ("O", (count,))) | {"captions": ("O", (count, None))}
        expect(file, {"images": ("B", (count, size, size, 3)), "nsd_id": ("iu", (count,)), **texts})
        table = {name: file[name].asstr()[:].astype(str) for name in ("category", "background")}
        table["name"] = np.full(count or 0, "")
        if "name" in file:
            expect(file, {"name": ("O", (count,))})
            table["name"] = file["name"].asstr()[:].astype(str)
        table["checksum"] = np.full(count or 0, -1)
        if _CHECKSUM in file:
            expect(file, {_CHECKSUM: ("u", (count,))})
            table["checksum"] = file[_CHECKSUM][:].astype(np.int64)
        data = str(file.attrs["data"])
        table["of_coco"] = np.array([data != "own" or of_coco(name) for name in table["name"]], bool)
        captions = file["captions"].asstr()[:]
        return table | {"path": path, "captions": captions, "nsd_id": file["nsd_id"][:], "described": (data, size)}


def _sums_of(images: np.ndarray) -> list[int]:
    return [zlib.crc32(image.tobytes()) for image in images]


class StimulusWriter:
    """Write a stimulus store in blocks into an open, empty HDF5 file.

    Parameters
    ----------
    file
        Open for writing.
    nsd_id
        int [P]: 0-based image numbers, strictly ascending.
    size
        Side of the images in pixels.
    data
        "simulated", "nsd" or "own".
    """

    def __init__(self, file: h5py.File, nsd_id: np.ndarray, size: int, data: str):
        nsd_id = held(nsd_id, np.int32)
        if (np.diff(nsd_id) <= 0).any():
            raise ValueError("nsd_id must be strictly ascending, for example [3, 17, 2950]")
        block = max(1, min(len(nsd_id), 2**18 // (size * size * 3)))
        self.dataset = file.create_dataset(
            "images", (len(nsd_id), size, size, 3), np.uint8, chunks=(block, size, size, 3)
        )
        self._file = file
        self._filled = 0
        self._sums: list[int] = []
        file.create_dataset("nsd_id", data=nsd_id)
        file.attrs.update(data=data, size=size)

    def append(self, images: np.ndarray) -> None:
        """Append images uint8 [n, size, size, 3]."""
        self.dataset[self._filled : self._filled + len(images)] = images
        self._filled += len(images)
        self._sums += _sums_of(images)

    def finish(
        self,
        captions: Sequence[Sequence[str]],
        category: Sequence[str],
        background: Sequence[str],
        name: Sequence[str] | None = None,
    ) -> None:
        """Add the texts of all images; captions are cut or padded with empty texts to five."""
        if not self._filled == len(self.dataset) == len(captions) == len(category) == len(background):
            raise ValueError(
                f"stimuli: {self._filled} images, {len(captions)} caption lists, {len(category)} categories and "
                f"{len(background)} backgrounds found; {len(self.dataset)} of each are needed"
            )
        texts = np.full((len(captions), CAPTIONS_PER_IMAGE), "", dtype=object)
        for row, lines in enumerate(captions):
            kept = [" ".join(line.split()) for line in lines][:CAPTIONS_PER_IMAGE]
            texts[row, : len(kept)] = kept
        self._file.create_dataset(_CHECKSUM, data=np.array(self._sums, np.uint32))
        kind = h5py.string_dtype("utf-8")
        self._file.create_dataset("captions", data=texts, dtype=kind)
        self._file.create_dataset("category", data=np.asarray(list(category), object), dtype=kind)
        self._file.create_dataset("background", data=np.asarray(list(background), object), dtype=kind)
        if name is not None:
            self._file.create_dataset("name", data=np.asarray(list(name), object), dtype=kind)
