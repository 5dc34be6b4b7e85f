"""Latents and text features of every image, computed once: the frozen backbone's share of a training step.

Without augmentation the VAE gives the same output for an image in every epoch. The posterior's mean and log variance
are kept, not a sample, so that training draws the posterior noise anew as the official code does. Of the captions,
the mean text features and the tokens are kept: features of all five would be 0.8 MB an image in Stable Diffusion,
63 GB for all of NSD, and the text tower costs 1.6 % of a training step.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from neuropictor.data.rows import Rows
from neuropictor.data.stimuli import CAPTIONS_PER_IMAGE, StimulusStore
from neuropictor.data.stores import expect, open_store
from neuropictor.models.device import prepare_device
from neuropictor.records.checksums import verify
from neuropictor.records.files import atomic_path
from neuropictor.records.progress import progress
from neuropictor.records.record import RunRecord, record_path

if TYPE_CHECKING:
    from neuropictor.config import RuntimeConfig

log = logging.getLogger(__name__)

_DATASETS = ("mean", "logvar", "text", "caption_tokens")
TARGET = "target"
DESCRIBED, OF_COCO = "described", "of_coco"
_COMPARED_AT_ONCE = 256
_SAME = 0.05  # share of their mean size by which latents of one image may differ


class _Joined:
    """Rows of several files, concatenated."""

    def __init__(self, parts: list[Rows]):
        self._parts = parts
        self._starts = np.cumsum([0, *(part.shape[0] for part in parts)])
        for part in parts:
            if part.shape[1:] != parts[0].shape[1:]:
                raise ValueError(
                    f"{part.path}: {part.name} is {part.shape[1:]} an image, but {parts[0].shape[1:]} in "
                    f"{parts[0].path}; allowed: latents of one backbone, for example by running cache_latents again"
                )
        self.shape = (int(self._starts[-1]), *parts[0].shape[1:])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        if len(self._parts) == 1:
            return self._parts[0][rows]
        return self._gathered(np.asarray(rows), self.shape[1:], Rows.__getitem__)

    def first(self, rows: np.ndarray) -> np.ndarray:
        """Return `Rows.first` of each row."""
        return self._gathered(rows, (1, *self.shape[2:]), Rows.first)

    def _gathered(self, rows: np.ndarray, shape: tuple[int, ...], read: Callable[[Rows, np.ndarray], np.ndarray]):
        values = np.empty((len(rows), *shape), self._parts[0].dtype)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(owner):
            in_part = owner == number
            values[in_part] = read(self._parts[number], rows[in_part] - self._starts[number])
        return values


class LatentStore:
    """Reader of latents files, one a subject; an image that several hold is read from the first, of NSD if one is.

    It must be the same image in all, but for images of COCO, of which data sets show different parts.

    Parameters
    ----------
    paths
        Files written by `cache_latents`.

    Attributes
    ----------
    nsd_id
        ``[P]`` ascending.
    mean, logvar
        ``[rows, C, h, w]`` by rows of `rows`, unscaled moments of the VAE's posterior.
    text
        ``[rows, L, D]``, the mean of the captions' text features as the UNet reads them.
    target
        The same of the semantic loss's own text tower; `text` where it has none.
    caption_tokens
        ``[rows, 5, L]``, token numbers of the captions, from which training makes the target of one of them.
    described
        bool ``[rows]``: which images have captions; texts of others are those of the empty prompt, and say nothing.
    """

    def __init__(self, *paths: str | Path):
        # Latents of NSD's images come first.
        self.paths = sorted(map(Path, paths), key=_of_own_images)
        held, described, cropped = [], [], []
        for path in self.paths:
            with open_store(path) as file:
                missing = [name for name in ("nsd_id", *_DATASETS) if name not in file]
                if missing:
                    raise ValueError(
                        f"{path}: {', '.join(missing)} missing, found {sorted(file)}; allowed: a file that "
                        f"cache_latents wrote, with nsd_id, {', '.join(_DATASETS)}"
                    )
                count = len(file["nsd_id"]) if file["nsd_id"].shape else None
                mean, text = ("f", (count, None, None, None)), ("f", (count, None, None))
                tokens = ("iu", (count, CAPTIONS_PER_IMAGE, None))
                expect(file, {"nsd_id": ("iu", (None,)), "mean": mean, "text": text, "caption_tokens": tokens})
                expect(file, {"logvar": ("f", file["mean"].shape)})
                held.append(file["nsd_id"][:])
                described.append(np.ones(count or 0, bool))
                if DESCRIBED in file:  # of images that all have captions, it is left out
                    expect(file, {DESCRIBED: ("b", (count,))})
                    described[-1] = file[DESCRIBED][:].astype(bool)
                cropped.append(np.zeros(count or 0, bool))
                if OF_COCO in file:  # of own images alone
                    expect(file, {OF_COCO: ("b", (count,))})
                    cropped[-1] = file[OF_COCO][:].astype(bool)
        self.described, self._cropped = np.concatenate(described), np.concatenate(cropped)
        self._of_nsd = np.repeat([not _of_own_images(path) for path in self.paths], [len(ids) for ids in held])
        numbers = np.concatenate(held)
        self.nsd_id, self._row, inverse = np.unique(numbers, return_index=True, return_inverse=True)
        self.mean, self.logvar, self.text, self.caption_tokens, self.target = (
            _Joined([Rows(path, name) for path in self.paths]) for name in (*_DATASETS, self._target())
        )
        again = np.flatnonzero(self._row[inverse] != np.arange(len(numbers)))
        for start in range(0, len(again), _COMPARED_AT_ONCE):
            self._compare(again[start : start + _COMPARED_AT_ONCE], numbers, self._row[inverse])

    def _compare(self, again: np.ndarray, numbers: np.ndarray, first: np.ndarray) -> None:
        """Refuse images whose numbers an earlier file gives to others."""
        before = first[again]
        # One channel tells images apart; the same image, encoded on another machine, differs in last digits.
        latents, earlier = (self.mean.first(rows).astype(np.float32) for rows in (again, before))
        differ = np.abs(latents - earlier).mean((1, 2, 3)) > _SAME * np.abs(earlier).mean((1, 2, 3))
        differ |= (self.caption_tokens[again] != self.caption_tokens[before]).any((1, 2))
        differ &= ~(self._cropped[again] & (self._cropped[before] | self._of_nsd[before]))
        if differ.any():
            raise ValueError(
                f"{', '.join(map(str, self.paths))}: number {numbers[again[differ]][0]} is of different images or "
                "captions; allowed: one image a number over all subjects, for example numbers from 73000 on beside "
                "NSD's 0 to 72999"
            )

    def _target(self) -> str:
        """Name the data set of the semantic loss's targets; all files have their own, or none."""
        kinds = set()
        for path in self.paths:
            with open_store(path) as file:
                kinds.add(TARGET if TARGET in file else "text")
        if len(kinds) > 1:
            raise ValueError(
                f"{', '.join(map(str, self.paths))}: made with different settings of backbone.target_text_encoder;"
                " allowed: one for all, for example by running stage cache_latents again"
            )
        return kinds.pop()

    def rows(self, nsd_ids: np.ndarray) -> np.ndarray:
        """Return the row of each image; raise ``ValueError`` naming the first one that is missing."""
        places = np.searchsorted(self.nsd_id, nsd_ids).clip(max=len(self.nsd_id) - 1)
        missing = self.nsd_id[places] != nsd_ids
        if missing.any():
            where = ", ".join(map(str, self.paths))
            raise ValueError(
                f"{where}: nsd_id {np.asarray(nsd_ids)[missing][0]} is not among its {len(self.nsd_id)} images; "
                "allowed: images of the stimuli file that the latents were made from"
            )
        return self._row[places]


def _of_own_images(path: Path) -> bool:
    with open_store(path) as file:
        return file.attrs.get("data") == "own"


def _five(captions: list[str]) -> list[str]:
    """Repeat captions where an image has fewer than five, so that any of the five rows may be drawn."""
    captions = captions or [""]
    return [captions[i % len(captions)] for i in range(CAPTIONS_PER_IMAGE)]


def cache_latents(
    stimuli: str | Path,
    backbone: str | Path,
    runtime: "RuntimeConfig",
    out: str | Path,
    batch_size: int = 64,
    target: str | Path | None = None,
) -> None:
    """Encode all images and captions of a stimuli file with a backbone.

    Parameters
    ----------
    stimuli
        Stimuli file.
    backbone
        Source of the backbone, see `Backbone.load`.
    runtime
        Device and threads.
    out
        HDF5 file: ``mean``, ``logvar`` f2 ``[P, C, h, w]``, ``text`` f2 ``[P, L, D]`` and, with `target`, ``target``
        as ``text``, ``caption_tokens`` i4 ``[P, 5, L]``, ``nsd_id`` i4 or i8 ``[P]`` and,
        where some images have no captions, ``described`` bool ``[P]``; of own images, ``of_coco`` bool ``[P]``; in one
        piece each, so that training
        maps them into memory.
    batch_size
        Images read at once; the VAE, in float32, takes as many of them at a time as ``runtime.decode_memory`` allows.
    target
        Folder of the semantic loss's own text tower; None or empty: the backbone's.
    """
    from neuropictor.models.backbone import Backbone

    device = prepare_device(runtime)
    verify(stimuli)
    store = StimulusStore(stimuli)
    model = Backbone.load(backbone, target).to(device)
    if store.size != model.image_size:
        raise ValueError(
            f"preprocess.image_size: images in {stimuli} are {store.size} pixels wide, backbone {model.name} takes "
            f"{model.image_size}; allowed: the backbone's size, for example image_size: {model.image_size}"
        )
    nsd_ids = store.nsd_id
    with RunRecord(record_path(out), stage="latents", inputs=[stimuli], outputs=[out]) as record:
        with atomic_path(out) as temporary, h5py.File(temporary, "w") as file:
            shape = (len(nsd_ids), *model.latent_shape)
            for name in ("mean", "logvar"):
                file.create_dataset(name, shape, "f2")
            length = model.context_shape[0]
            towers: dict[str, Any] = {"text": model.text_encoder}
            towers |= {TARGET: model.target_encoder} if model.target_encoder else {}
            for name in towers:
                file.create_dataset(name, (len(nsd_ids), *model.context_shape), "f2")
            tokens = file.create_dataset("caption_tokens", (len(nsd_ids), CAPTIONS_PER_IMAGE, length), "i4")
            file["nsd_id"] = nsd_ids
            described = np.array([bool(texts) for texts in store.captions(nsd_ids)])
            if not described.all():
                file[DESCRIBED] = described
            if store.data == "own":
                file[OF_COCO] = store.of_coco
            file.attrs.update(data=store.data, backbone=model.name)
            starts = range(0, len(nsd_ids), batch_size)
            for start in progress(starts, "Encoding images and captions", unit="batch"):
                part = slice(start, start + batch_size)
                mean, logvar = model.encode_images(store.images(nsd_ids[part]), runtime.decode_memory)
                file["mean"][part] = mean.float().cpu().numpy()
                file["logvar"][part] = logvar.float().cpu().numpy()
                captions = [caption for texts in store.captions(nsd_ids[part]) for caption in _five(texts)]
                numbers = model.tokens(captions)
                tokens[part] = numbers.cpu().numpy().reshape(-1, *tokens.shape[1:])
                for name, tower in towers.items():
                    features = tower(input_ids=numbers).last_hidden_state.unflatten(0, (-1, CAPTIONS_PER_IMAGE))
                    file[name][part] = features.mean(1).float().cpu().numpy()
        record.add(without_captions=int((~described).sum()))
        record.add(images=len(nsd_ids), latent_shape=list(model.latent_shape), context_shape=list(model.context_shape))
