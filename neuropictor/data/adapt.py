"""Alignment of a new person, on whom nothing was trained, from few image-response pairs or none.

Not in the paper. All people lie on one mesh, so what other people's alignments have in common is a prior for a new
person's: a vertex's weights are the mean of theirs, scaled, plus a deviation whose variance is the mean square of
their weights at this vertex times the share of signal in the person's own trials. Few pairs then go a long way, and
none leave the mean. It is ridge regression with a mean and with a penalty for each vertex, in closed form; how far to
follow the mean, and the penalty, are chosen by leaving out one pair at a time.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuropictor.config.generalise import FEWEST_PAIRS
from neuropictor.data.alignment import (
    KINDS,
    ComponentSpace,
    check_images,
    explained,
    write_components,
)
from neuropictor.data.latents import LatentStore
from neuropictor.data.responses import ResponseStore, subject_number
from neuropictor.data.ridge import MOST_AMPLIFICATION
from neuropictor.data.rows import mean_over_repeats
from neuropictor.data.stores import expect, open_store, subject_of
from neuropictor.records.checksums import checksum
from neuropictor.records.record import RunRecord, record_path

if TYPE_CHECKING:
    from neuropictor.config import AlignConfig

log = logging.getLogger(__name__)

PENALTIES = np.geomspace(1e-3, 1e3, 25)
"""Penalties to choose among, relative to the mean squared length of the scaled responses."""

_GENERAL = ("general_weights", "general_offsets")
_TRIALS_AT_ONCE = 1024


@dataclass
class OtherPeople:
    """What other people's alignments have in common.

    Attributes
    ----------
    weights, offsets
        float32 [V, K] and [K]: means over people, of weights at the penalty that is best for others.
    squares
        dict of float32 array [V] by kind of component: mean over people of the squared weights, summed over components,
        each weighed by the variance of its axis.
    spread
        float32 [K]: standard deviation, over images, of the components that the networks know from them.
    subjects
        Their labels.
    """

    weights: np.ndarray
    offsets: np.ndarray
    squares: dict[str, np.ndarray]
    spread: np.ndarray
    subjects: list[str]

    @classmethod
    def read(
        cls, paths: Sequence[str | Path], space: str | Path, importance: dict[str, np.ndarray], store: ResponseStore
    ) -> "OtherPeople":
        """Average the files of other people's alignments, one in memory at a time.

        Parameters
        ----------
        paths
            Files of `neuropictor.data.alignment.align_subject`.
        space
            The shared space that they must be in.
        importance
            dict of float32 array [K of the kind]: variances of the axes, see `ComponentSpace.variances`.
        store
            Responses of the new person: of the same vertices, and of nobody among the others. Images that test this
            person do not count for `spread`.

        Raises
        ------
        ValueError
            If there is no file, or one holds no weights, is in another space, of other vertices, or of the person.
        """
        if not paths:
            raise ValueError("others: none given; allowed: at least one file of align, e.g. sub-01/components.h5")
        kinds, tested, subjects = _parts(importance), store.images("test"), []
        size = sum(map(len, importance.values()))
        weights, offsets, spread = (np.zeros(shape, np.float32) for shape in ((store.n_vertices, size), size, size))
        squares = {kind: np.zeros(store.n_vertices, np.float32) for kind in kinds}
        for path in paths:
            with open_store(path) as file:
                missing = [name for name in ("components", "nsd_id", "weights", *_GENERAL) if name not in file]
                if missing:
                    raise ValueError(f"{path}: {', '.join(missing)} missing; allowed: a file as stage align writes it")
                if file.attrs.get("space") != checksum(space):
                    raise ValueError(
                        f"{path}: aligned to another space than {space}; allowed: alignments to one space, for example "
                        "by running align with it again"
                    )
                expect(file, dict.fromkeys(("weights", _GENERAL[0]), ("f", (store.n_vertices, size))))
                expect(file, {_GENERAL[1]: ("f", (size,)), "components": ("f", (len(file["nsd_id"]), size))})
                subjects.append(subject_of(file))
                if subjects[-1] == store.subject:
                    raise ValueError(f"{path}: is of subject {store.subject}, who is new; allowed: other people's")
                theirs = file["weights"][:]
                components, nsd_id = file["components"][:], file["nsd_id"][:]
                weights += file[_GENERAL[0]][:] / len(paths)
                offsets += file[_GENERAL[1]][:] / len(paths)
            ids = np.setdiff1d(nsd_id, tested)
            means = mean_over_repeats(components, [np.flatnonzero(nsd_id == one) for one in ids])
            spread += means.std(0) / len(paths)
            for kind, part in kinds.items():
                squares[kind] += np.square(theirs[:, part]) @ importance[kind] / len(paths)
        return cls(weights, offsets, squares, spread, subjects)


def adapt_subject(
    responses: str | Path,
    space: str | Path,
    others: Sequence[str | Path],
    pairs: int | None,
    config: "AlignConfig",
    out: str | Path,
    latents: str | Path | None = None,
) -> None:
    """Align a person on whom nothing was trained, and write the same file as `align_subject`.

    Pairs are training images at random, with the mean response to each; a pair's own trials are predicted without it.
    Without pairs, components are brought to the spread over images that other people's have, since the networks were
    trained on those and a mean over people is weaker; what they spread is seen in all responses but those to test
    images, if there are some. With pairs, these tell how far to follow the mean.

    Parameters
    ----------
    responses
        The person's response file.
    space
        File of `make_space`, to which the others were aligned.
    others
        Files of `align_subject`, of other people. None of them may have trained on the person's test images.
    pairs
        Number of image-response pairs, 0 or `FEWEST_PAIRS` to the number of training images; 0 takes the mean of the
        others, None all training images.
    config
        Section of the configuration; its seed chooses the pairs.
    out
        HDF5 file for `ComponentStore`.
    latents
        Latents of the person's images; not needed for 0 pairs.

    Raises
    ------
    ValueError
        If there are fewer training images than `pairs`, no latents for them, or if `others` are not of this space, of
        these vertices, and other people's.
    """
    shared, store = ComponentSpace.load(space), ResponseStore(responses)
    train, validation = store.images("train"), store.images("validation")
    pairs = len(train) if pairs is None else pairs
    if pairs and not FEWEST_PAIRS <= pairs <= len(train):
        raise ValueError(
            f"pairs: {pairs} of {len(train)} training images in {responses}; allowed: 0, or {FEWEST_PAIRS} to "
            f"{len(train)}, for example --pairs 0"
        )
    if pairs and latents is None:
        raise ValueError(
            f"latents: none given, but {pairs} pairs; allowed: the file of cache-latents for these images, or --pairs 0"
        )
    files = [responses, space, *others, *([latents] if latents else [])]
    with RunRecord(record_path(out), "adapt", config=config, inputs=files, outputs=[out]) as record:
        importance = shared.variances
        kinds = _parts(importance)
        prior = OtherPeople.read(others, space, importance, store)
        weights, offsets = prior.weights.astype(np.float64), prior.offsets.astype(np.float64)
        random = np.random.default_rng([config.seed, subject_number(store.subject)])
        chosen = np.sort(random.permutation(train)[:pairs])
        images = None
        fits: dict[str, _Fit] = {}
        if pairs and latents:
            images = LatentStore(latents)
            check_images(images, latents, store)
            signal, targets = _signal(store, chosen), shared.components(images, chosen)
            described = images.described[images.rows(chosen)]
            for kind, part in kinds.items():
                used = described if kind == "text" else np.ones(pairs, bool)
                if used.any():
                    fits[kind] = _Fit.of(
                        chosen[used],
                        store.mean_response(chosen[used]),
                        targets[used, part].astype(np.float64) - offsets[part],
                        weights[:, part],
                        prior.squares[kind] * signal,
                        importance[kind],
                    )
                    weights[:, part] = fits[kind].weights
        known = np.concatenate([train, validation])
        matched = [part for kind, part in kinds.items() if kind not in fits and len(known) > 1]
        if matched:
            means = store.mean_response(known)
            for part in matched:
                predicted = means @ weights[:, part] + offsets[part]
                middle, spread = predicted.mean(0), predicted.std(0)
                ratio = np.divide(prior.spread[part], spread, out=np.ones_like(spread), where=spread > 0)
                ratio = ratio.clip(max=MOST_AMPLIFICATION)
                weights[:, part] *= ratio
                offsets[part] = middle + (offsets[part] - middle) * ratio
        components = np.empty((len(store), len(offsets)))
        for start in range(0, len(store), _TRIALS_AT_ONCE):
            trials = np.arange(start, min(start + _TRIALS_AT_ONCE, len(store)))
            values = store.responses(trials)
            components[trials] = values @ weights + offsets
            for kind, fit in fits.items():
                components[trials, kinds[kind]] += fit.without_own_pair(store.nsd_id[trials], values)
        write_components(out, store, checksum(space), components, weights, offsets)
        record.add(
            subject=store.subject,
            data=store.data,
            others=prior.subjects,
            pairs=pairs,
            followed={kind: round(fit.followed, 3) for kind, fit in fits.items()},
            penalties={kind: fit.penalty for kind, fit in fits.items()},
        )
        for split, shown in (("pairs", chosen), ("validation", validation)):
            if images and len(shown):
                record.add(**{f"{split}_explained": explained(store, components, shown, shared, images)})
    store.close()


def _parts(importance: dict[str, np.ndarray]) -> dict[str, slice]:
    """Return the components of each kind."""
    ends = np.cumsum([len(importance[kind]) for kind in KINDS]).tolist()
    return {kind: np.s_[end - len(importance[kind]) : end] for kind, end in zip(KINDS, ends, strict=True)}


def _signal(store: ResponseStore, nsd_ids: np.ndarray) -> np.ndarray:
    """Estimate the share of a single trial's variance that is signal, float64 [V]; 1 where no image has repeats."""
    trials = [store.trials(int(one)) for one in nsd_ids]
    repeated = [rows for rows in trials if len(rows) > 1]
    if len(repeated) < 2:
        return np.ones(store.n_vertices)
    within = np.zeros(store.n_vertices)
    for rows in repeated:
        within += store.responses(rows).var(0, dtype=np.float64) * len(rows)
    noise = within / sum(len(rows) - 1 for rows in repeated)
    between = mean_over_repeats(store.rows, repeated).var(0, ddof=1, dtype=np.float64)
    signal = np.maximum(between - noise * np.mean([1 / len(rows) for rows in repeated]), 0)
    return np.divide(signal, signal + noise, out=np.zeros_like(signal), where=signal > 0)


@dataclass
class _Fit:
    """Components of one kind: targets are `responses @ mean * followed + responses @ deviation`."""

    nsd_ids: np.ndarray
    scaled: np.ndarray  # responses to the pairs times the vertices' variances [n, V]
    inverse: np.ndarray  # of kernel and penalty [n, n]
    dual: np.ndarray  # [n, K]
    weights: np.ndarray  # [V, K]
    followed: float
    penalty: float

    @classmethod
    def of(
        cls,
        nsd_ids: np.ndarray,
        responses: np.ndarray,
        targets: np.ndarray,
        mean: np.ndarray,
        variances: np.ndarray,
        importance: np.ndarray,
    ) -> "_Fit":
        scaled = responses * variances
        kernel = scaled @ responses.T
        unit = np.trace(kernel) / len(kernel)
        scaled /= unit
        values, vectors = np.linalg.eigh(kernel / unit)
        parts = [vectors.T @ part for part in (targets, responses @ mean)]
        best = (np.inf, 0.0, 0.0)
        for penalty in PENALTIES:
            # The error of a pair that is left out is its dual coefficient over the inverse's diagonal, linear in the
            # targets, so that the best multiple of the mean is a regression of such errors on such errors.
            shrunk = vectors / (np.maximum(values, 0) + penalty)
            diagonal = (shrunk * vectors).sum(1)[:, None]
            error, explains = (shrunk @ part / diagonal * np.sqrt(importance) for part in parts)
            power = np.square(explains).sum()
            followed = max(0.0, float((error * explains).sum() / power)) if power else 0.0
            best = min(best, (float(np.square(error - followed * explains).sum()), float(penalty), followed))
        _, penalty, followed = best
        inverse = vectors / (np.maximum(values, 0) + penalty) @ vectors.T
        dual = inverse @ (targets - followed * (responses @ mean))
        return cls(nsd_ids, scaled, inverse, dual, followed * mean + scaled.T @ dual, followed, penalty)

    def without_own_pair(self, nsd_id: np.ndarray, responses: np.ndarray) -> np.ndarray:
        """Return what leaving out a trial's own pair changes in its components, [t, K]; 0 for other trials."""
        place = np.searchsorted(self.nsd_ids, nsd_id).clip(max=len(self.nsd_ids) - 1)
        own = np.flatnonzero(self.nsd_ids[place] == nsd_id)
        changed, place = np.zeros((len(nsd_id), self.dual.shape[1])), place[own]
        told = (responses[own] @ self.scaled.T * self.inverse[place]).sum(1) / self.inverse[place, place]
        changed[own] = -told[:, None] * self.dual[place]
        return changed
