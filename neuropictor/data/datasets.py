"""Training batches as pure functions of the step number.

Everything random in a batch (which images, how many repeats, posterior noise, diffusion noise and time steps) follows
from the seed and the step, so that batches do not depend on workers or on the number of devices, and a resumed training
sees what an uninterrupted one would have seen.
"""

import logging
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from neuropictor.data.alignment import ComponentStore
from neuropictor.data.latents import LatentStore
from neuropictor.data.responses import SPLITS, ResponseStore
from neuropictor.data.rows import evenly_spaced, mean_over_repeats
from neuropictor.data.stimuli import CAPTIONS_PER_IMAGE

log = logging.getLogger(__name__)

TrialAveraging = Literal["random", "mean", "single"]
_VALIDATION_STREAM = 2**32  # entropy word that keeps validation's random numbers apart from those of any training step


class ImageResponses:
    """Responses of the images of one split, over one or more subjects; an item is an image of a subject.

    An image that tests one of the subjects trains and validates none of them: such items are left out.

    Parameters
    ----------
    paths
        Response files, one a subject.
    split
        ``train``, ``validation`` or ``test``.
    components
        Component files of the same subjects in the same order; None for none.

    Attributes
    ----------
    nsd_id
        ``[N]`` image of each item.
    subject
        ``[N]`` label of each item's subject.
    data
        ``simulated``, ``nsd`` or ``own``.
    left_out
        Number of items left out.
    space
        Checksum of the shared space of the components; None without components.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        split: str,
        components: Sequence[str | Path] | None = None,
    ):
        stores = [ResponseStore(path) for path in paths]
        self._rows = {"responses": [store.rows for store in stores]}
        self.space = None
        if components is not None:
            aligned = [ComponentStore(path, store) for path, store in zip(components, stores, strict=True)]
            self.space = aligned[0].space
            self._rows["components"] = [store.rows for store in aligned]
        tested = np.concatenate([store.images("test") for store in stores]) if split != "test" else []
        tables, nsd_ids, self.left_out = [], [], 0
        for store in stores:
            trials = np.flatnonzero(store.split == SPLITS.index(split))
            kept = trials[~np.isin(store.nsd_id[trials], tested)]
            tables.append(_groups(store, kept))
            nsd_ids.append(np.unique(store.nsd_id[kept]))
            self.left_out += len(store.images(split)) - len(nsd_ids[-1])
        if self.left_out:
            log.info("%d images of split %s are left out, since they test another subject", self.left_out, split)
        repeats = max((len(trials) for table in tables for trials in table), default=0)
        if not repeats and split != "validation":  # validation may have none
            raise ValueError(
                f"responses: no image of split {split!r} in {', '.join(map(str, paths))}; at least one is needed"
            )
        self.data = "simulated" if any(store.data == "simulated" for store in stores) else stores[0].data
        self.nsd_id = np.concatenate(nsd_ids)
        self.subject = np.repeat([store.subject for store in stores], [len(ids) for ids in nsd_ids])
        self._file = np.repeat(np.arange(len(stores)), [len(ids) for ids in nsd_ids])
        self._trials = np.full((len(self.nsd_id), repeats), -1, dtype=np.int64)
        for item, trials in enumerate(trials for table in tables for trials in table):
            self._trials[item, : len(trials)] = trials

    def __len__(self) -> int:
        return len(self.nsd_id)

    def choose(self, items: np.ndarray, averaging: TrialAveraging, random: np.random.Generator) -> list[np.ndarray]:
        """Choose the trials to average for each item: one random repeat, all, or a random number of random ones."""
        order = random.random((len(items), self._trials.shape[1]))
        share = random.random(len(items))
        trials = self._trials[items]
        order[trials < 0] = np.inf
        available = (trials >= 0).sum(1)
        count = {"single": np.ones_like(available), "mean": available}.get(
            averaging, 1 + (share * available).astype(int)
        )
        ranked = np.take_along_axis(trials, order.argsort(1), 1)
        return [np.sort(row[:n]) for row, n in zip(ranked, count, strict=True)]

    def read(self, items: np.ndarray, chosen: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Return means over the chosen trials of each item, float32: ``responses [n, V]``, ``components [n, K]``."""
        files = self._file[items]
        read = {}
        for name, rows in self._rows.items():
            read[name] = np.empty((len(items), rows[0].shape[1]), np.float32)
            for file in np.unique(files):
                places = np.flatnonzero(files == file)
                read[name][places] = mean_over_repeats(rows[file], [chosen[place] for place in places])
        return read


def _groups(store: ResponseStore, trials: np.ndarray) -> list[np.ndarray]:
    """Group trial numbers by image, images ascending."""
    if not len(trials):
        return []
    order = trials[np.argsort(store.nsd_id[trials], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(store.nsd_id[order])) + 1)


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Let a loader worker live through signals to its whole process group, as Slurm sends them at the time limit.

    The trainer then saves and closes its workers itself; it would fail if one had been killed before.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class TrainingBatches(Dataset):
    """Batches by step number; use through `loader`.

    A batch is a dictionary: ``responses`` f4 ``[B, V]``; with an alignment ``components`` f4 ``[B, K]``; with latents
    also ``latents`` ``[B, C, h, w]`` drawn from the VAE's posterior and scaled, ``noise`` as the latents, ``timesteps``
    ``[B]``, and ``uniform`` ``[B]`` in 0..1, to be compared with the share of contexts to drop; and of the captions, by
    `captions`, ``text`` f2 ``[B, L, D]`` or ``caption`` i8 ``[B, L]``; where some images have none, also ``described``
    f4 ``[B]``, 1 for those that have.

    Parameters
    ----------
    responses
        The images to draw from.
    batch_size
        Images a step, over all devices together.
    averaging
        How an image's repeats become one response.
    seed
        Seed of everything.
    latents
        Latents of the images; None for training without the backbone (calibrate).
    scaling_factor
        The VAE's, from its configuration.
    n_timesteps
        Training time steps of the scheduler.
    captions
        ``mean``: the mean text features of an image's captions; ``random``: the tokens of one of them;
        None: neither is read.
    share
        ``(rank, count)`` of the devices: this process gets every ``count``-th row of a batch.
    """

    def __init__(
        self,
        responses: ImageResponses,
        batch_size: int,
        averaging: TrialAveraging,
        seed: int,
        latents: LatentStore | None = None,
        scaling_factor: float = 1.0,
        n_timesteps: int = 1000,
        captions: Literal["mean", "random"] | None = "mean",
        share: tuple[int, int] = (0, 1),
    ):
        self.captions = captions
        self.responses, self.batch_size, self.seed = responses, batch_size, seed
        self.averaging: TrialAveraging = averaging
        self.latents, self.scaling_factor, self.n_timesteps = latents, scaling_factor, n_timesteps
        self.rows = slice(share[0], None, share[1])
        self._latent_rows = latents.rows(responses.nsd_id) if latents is not None else np.empty(0, np.int64)
        self._all_described = latents is None or bool(latents.described[self._latent_rows].all())
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))

    def _items(self, step: int) -> np.ndarray:
        """Return the items of a step: a running walk through one random order an epoch."""
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, offsets = np.divmod(places, len(self.responses))
        items = np.empty(self.batch_size, dtype=np.int64)
        for epoch in np.unique(epochs):
            if self._order[0] != epoch:
                self._order = (epoch, np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.responses)))
            items[epochs == epoch] = self._order[1][offsets[epochs == epoch]]
        return items

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        random = np.random.default_rng([self.seed, 1, step])
        items = self._items(step)
        timesteps = random.integers(0, self.n_timesteps, len(items))
        return self._batch(items, self.averaging, random, timesteps)

    def _batch(
        self, items: np.ndarray, averaging: TrialAveraging, random: np.random.Generator, timesteps: np.ndarray
    ) -> dict[str, torch.Tensor]:
        chosen = self.responses.choose(items, averaging, random)[self.rows]
        mine = items[self.rows]
        batch = self.responses.read(mine, chosen)
        if self.latents is not None:
            rows = self._latent_rows[mine]
            shape = (2, len(items), *self.latents.mean.shape[1:])
            posterior, noise = random.standard_normal(shape, dtype=np.float32)[:, self.rows]
            caption = random.integers(0, CAPTIONS_PER_IMAGE, len(items))[self.rows]
            if self.captions == "mean":
                batch["text"] = self.latents.target[rows]
            elif self.captions == "random":
                tokens = self.latents.caption_tokens[rows]
                batch["caption"] = tokens[np.arange(len(rows)), caption].astype(np.int64)
            if self.captions and not self._all_described:
                batch["described"] = self.latents.described[rows].astype(np.float32)
            mean, logvar = (store[rows].astype(np.float32) for store in (self.latents.mean, self.latents.logvar))
            batch |= {
                "latents": np.float32(self.scaling_factor) * (mean + np.exp(0.5 * logvar) * posterior),
                "noise": noise,
                "timesteps": timesteps[self.rows],
                "uniform": random.random(len(items), dtype=np.float32)[self.rows],
            }
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in batch.items()}

    def loader(self, start: int, stop: int, workers: int = 0, pinned: bool = False) -> DataLoader:
        """Return an iterable over the batches of steps ``start`` to ``stop - 1``, in order, with any number of workers.

        With `pinned`, batches lie in memory from which they are copied to a GPU while it computes.
        """
        return DataLoader(
            self,
            batch_size=None,
            sampler=range(start, stop),
            num_workers=workers,
            pin_memory=pinned,
            worker_init_fn=_leave_signals_to_the_trainer,
            # By default a loader draws from torch's global generator, which would then differ after a resume.
            generator=torch.Generator(),
        )

    def fixed(self, limit: int = 256) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the batches of a validation: the first `limit` items, mean of all repeats, the same noise every time.

        Time steps are spread evenly over the noise schedule, so that the loss has little variance.
        """
        items = evenly_spaced(len(self.responses), limit)  # over the subjects, which follow each other
        spread = np.random.default_rng([0, _VALIDATION_STREAM]).permutation(len(items))
        timesteps = ((spread + 0.5) / len(items) * self.n_timesteps).astype(np.int64)
        for start in range(0, len(items), self.batch_size):
            part = slice(start, start + self.batch_size)
            random = np.random.default_rng([0, _VALIDATION_STREAM, start])
            yield self._batch(items[part], "mean", random, timesteps[part])
