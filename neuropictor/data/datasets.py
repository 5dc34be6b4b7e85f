"""Training batches as pure functions of the step number.

Everything random in a batch (which images, how many repeats, posterior noise, diffusion noise and time steps) follows
from the seed and the step, so that batches do not depend on workers or on the number of devices, and a resumed training
sees what an uninterrupted one would have seen.
"""

import logging
import signal
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from neuropictor.data.alignment import ComponentStore
from neuropictor.data.frames import FrameStore, is_frames
from neuropictor.data.latents import LatentStore
from neuropictor.data.responses import SPLITS, ResponseStore
from neuropictor.data.rows import Rows, evenly_spaced, mean_over_repeats
from neuropictor.data.stimuli import CAPTIONS_PER_IMAGE

log = logging.getLogger(__name__)

Balance = Literal["images", "people", "data_sets"]
TrialAveraging = Literal["random", "mean", "single"]
_VALIDATION_STREAM = 2**32  # entropy word that keeps validation's random numbers apart from those of any training step


class _Source(NamedTuple):
    """What one file gives to training: items, each with the rows that may be averaged."""

    rows: Rows
    missing: np.ndarray | Rows  # bool [R, V] of subjects or runs
    lacking: bool  # whether any of them lacks a vertex
    images: np.ndarray  # [n], -1 for none
    trials: np.ndarray  # [n, r] rows of each item, ascending, with -1 after its last
    run: np.ndarray  # [n] row of `missing`, ascending
    labels: list[str]  # [R]
    left_out: int = 0  # images


def _of_subject(store: ResponseStore, split: str, tested: np.ndarray) -> _Source:
    """Return a split's images, ascending, without `tested` ones."""
    shown = np.flatnonzero(store.split == SPLITS.index(split))
    trials = shown[~np.isin(store.nsd_id[shown], tested)]
    trials = trials[np.argsort(store.nsd_id[trials], kind="stable")]
    images, first, count = np.unique(store.nsd_id[trials], return_index=True, return_counts=True)
    table = np.full((len(images), count.max(initial=0)), -1, dtype=np.int64)
    table[np.repeat(np.arange(len(images)), count), np.arange(len(trials)) - np.repeat(first, count)] = trials
    missing, run = store.missing[None], np.zeros(len(images), np.int32)
    left_out = len(store.images(split)) - len(images)
    return _Source(store.rows, missing, bool(missing.any()), images, table, run, [store.subject], left_out)


def _of_frames(store: FrameStore) -> _Source:
    """Return all frames."""
    none, rows = np.full(len(store), -1), np.arange(len(store))[:, None]
    return _Source(store.rows, store.missing, store.lacking, none, rows, store.run, [""] * store.runs)


class ImageResponses:
    """Responses of the images of one split, over one or more subjects; an item is an image of a subject.

    An image that tests one of the subjects trains and validates nobody: such items are left out.

    Parameters
    ----------
    paths
        Response files, one a subject.
    split
        ``train``, ``validation`` or ``test``.
    components
        Component files of the same subjects in the same order; None for none.
    data_sets
        Data set of each subject, by label; None: of no importance.
    extra
        Response files of further subjects, whose images of the split are items too, and files of frames, all of which
        are: without components, and tested by nobody.

    Attributes
    ----------
    nsd_id
        ``[N]`` image of each item; -1 of frames.
    subject
        ``[N]`` label of each item's subject; empty of frames.
    person
        ``[N]`` number of each item's subject, or of a frame's run, ascending.
    data_set
        Data set of each of these subjects and runs; empty of extra ones.
    data
        ``simulated``, ``nsd`` or ``own``.
    left_out
        Number of images left out.
    space
        Checksum of the shared space of the components; None without components.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        split: str,
        components: Sequence[str | Path] | None = None,
        data_sets: Mapping[str, str] | None = None,
        extra: Sequence[str | Path] = (),
    ):
        stores = [ResponseStore(path) for path in paths]
        others = [FrameStore(path) if is_frames(path) else ResponseStore(path) for path in extra]
        tested = np.concatenate([store.images("test") for store in stores]) if split != "test" else np.empty(0, int)
        sources = [
            _of_frames(store) if isinstance(store, FrameStore) else _of_subject(store, split, tested)
            for store in (*stores, *others)
        ]
        self._rows = {"responses": [source.rows for source in sources]}
        self.space = None
        if components is not None:
            aligned = [ComponentStore(path, store) for path, store in zip(components, stores, strict=True)]
            self.space = aligned[0].space
            self._rows["components"] = [store.rows for store in aligned]
        self.nsd_id = np.concatenate([source.images for source in sources])
        self.left_out = sum(source.left_out for source in sources)
        if self.left_out:
            log.info("%d images of split %s are left out, since they test another subject", self.left_out, split)
        if not len(self.nsd_id) and split != "validation":  # validation may have none
            raise ValueError(
                f"responses: no image of split {split!r} in {', '.join(map(str, paths))}; at least one is needed"
            )
        labels = [store.subject for store in stores]
        unknown = next((label for label in labels if data_sets is not None and label not in data_sets), None)
        if unknown is not None:
            raise ValueError(
                f"balance is data_sets, but nothing says of which data set subject {unknown} is; allowed: a table of "
                "people, subjects.table, that does (docs/own_data.md), or balance: people"
            )
        every = [label for source in sources for label in source.labels]
        names = [data_sets[label] if data_sets is not None else "" for label in labels]
        self.data_set = names + [""] * (len(every) - len(names))
        known = {store.data for store in stores} | {store.data for store in others if isinstance(store, ResponseStore)}
        self.data = "simulated" if "simulated" in known else stores[0].data
        counts = [len(source.images) for source in sources]
        self._file = np.repeat(np.arange(len(sources), dtype=np.int32), counts)
        self._missing, self.lacking = [source.missing for source in sources], any(s.lacking for s in sources)
        self._run = np.concatenate([source.run for source in sources])
        first = np.cumsum([0, *(len(source.labels) for source in sources[:-1])])
        self.person = first[self._file] + self._run
        self.subject = np.array(every)[self.person]
        repeats = max(source.trials.shape[1] for source in sources)
        self._trials = np.concatenate(
            [
                np.pad(source.trials, ((0, 0), (0, repeats - source.trials.shape[1])), constant_values=-1)
                for source in sources
            ]
        )

    def __len__(self) -> int:
        return len(self.nsd_id)

    def missing(self, items: np.ndarray) -> np.ndarray:
        """Return the vertices that each item's subject, or run, lacks throughout, bool ``[n, V]``."""
        files = self._file[items]
        missing = np.empty((len(items), self._missing[0].shape[1]), bool)
        for file in np.unique(files):
            missing[files == file] = self._missing[file][self._run[items[files == file]]]
        return missing

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


class _Walk:
    """An endless walk through parts: each round visits every part once, in a random order of its own.

    A part is an item or, among walks, a walk that goes a step further with each visit. So parts of a walk come equally
    often, however many items lie in them, and where a walk stands follows from the number of its steps alone.

    Parameters
    ----------
    parts
        int [n] items, or walks.
    seed
        Seed of the training.
    """

    def __init__(self, parts: "np.ndarray | Sequence[_Walk]", seed: int):
        self.parts, self.seed = parts, seed
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))

    def __call__(self, places: np.ndarray, path: tuple[int, ...] = ()) -> np.ndarray:
        """Return the items of steps ``[n]``, int ``[n]``; `path`: places of the walks around this one, from 1."""
        rounds, offsets = np.divmod(places, len(self.parts))
        chosen = np.empty(len(places), dtype=np.int64)
        for number in np.unique(rounds):
            if self._order[0] != number:
                # A path has no 0, which seeds would not tell from nothing.
                random = np.random.default_rng([self.seed, 0, number, *path])
                self._order = (number, random.permutation(len(self.parts)))
            chosen[rounds == number] = self._order[1][offsets[rounds == number]]
        if isinstance(self.parts, np.ndarray):
            return self.parts[chosen]
        items = np.empty_like(chosen)
        for part in np.unique(chosen):
            items[chosen == part] = self.parts[part](rounds[chosen == part], (*path, part + 1))
        return items


def _walk(responses: ImageResponses, balance: Balance, seed: int) -> _Walk:
    """Return the walk through all items."""
    items = np.arange(len(responses))
    if balance == "images" or not len(items):
        return _Walk(items, seed)
    data_sets: dict[str, list[_Walk]] = defaultdict(list)
    for own in np.split(items, np.flatnonzero(np.diff(responses.person)) + 1):
        name = responses.data_set[responses.person[own[0]]] if balance == "data_sets" else ""
        data_sets[name].append(_Walk(own, seed))
    walks = [_Walk(people, seed) for people in data_sets.values()]
    return _Walk(walks, seed) if balance == "data_sets" else walks[0]


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Let a loader worker live through signals to its whole process group, as Slurm sends them at the time limit.

    The trainer then saves and closes its workers itself; it would fail if one had been killed before.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class TrainingBatches(Dataset):
    """Batches by step number; use through `loader`.

    A batch is a dictionary: ``responses`` f4 ``[B, V]``; with an alignment ``components`` f4 ``[B, K]``; without
    latents, where anybody lacks vertices, ``missing`` b1 ``[B, V]``; with latents also ``latents`` ``[B, C, h, w]``
    drawn from the VAE's posterior and scaled, ``noise`` as the latents, ``timesteps`` ``[B]``, and ``uniform`` ``[B]``
    in 0..1, to be compared with the share of contexts to drop; and of the captions, by `captions`, ``text`` f2
    ``[B, L, D]`` or ``caption`` i8 ``[B, L]``; where some images have none, also ``described`` f4 ``[B]``, 1 for those
    that have.

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
    balance
        What comes equally often: every item; every person, and each one's items; or every data set, and each one's
        people, and theirs.
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
        balance: Balance = "images",
    ):
        self.captions = captions
        self.responses, self.batch_size, self.seed = responses, batch_size, seed
        self.averaging: TrialAveraging = averaging
        self.latents, self.scaling_factor, self.n_timesteps = latents, scaling_factor, n_timesteps
        self.rows = slice(share[0], None, share[1])
        self._latent_rows = latents.rows(responses.nsd_id) if latents is not None else np.empty(0, np.int64)
        self._all_described = latents is None or bool(latents.described[self._latent_rows].all())
        self._walk = _walk(responses, balance, seed)

    def _items(self, step: int) -> np.ndarray:
        """Return the items of a step."""
        return self._walk(np.arange(step * self.batch_size, (step + 1) * self.batch_size))

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
        if self.latents is None and self.responses.lacking:
            batch["missing"] = self.responses.missing(mine)
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
