"""Functional alignment: a linear map for each subject from responses to a space that all subjects share.

Not in the paper. The shared space has the principal components of the images' text features and latents as axes. Each
subject's map into it is a ridge regression, found in closed form on the subject's training images; its outcome, the
components, describes to the networks, in the same terms for every subject, what a linear decoder reads from a response.
Components of a training image come from a regression not fitted on it: otherwise they would be better in training
than they can be for new images.
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from neuropictor.data.latents import LatentStore
from neuropictor.data.responses import ResponseStore, subject_number
from neuropictor.data.ridge import Decomposition, Ridge
from neuropictor.data.rows import Rows, mean_over_repeats
from neuropictor.data.stores import expect, open_store, subject_of
from neuropictor.records.checksums import checksum, verify
from neuropictor.records.files import atomic_path
from neuropictor.records.progress import progress
from neuropictor.records.record import RunRecord, record_path

if TYPE_CHECKING:
    from neuropictor.config import AlignConfig

log = logging.getLogger(__name__)

KINDS = ("text", "latent")

IMAGES_FOR_AXES = 4096
"""Principal axes are fitted on at most this many images: memory for 77 x 1024 text features stays near one gigabyte."""

STIFFER = 10.0
"""Weights are kept at this many times the chosen penalty, too: they predict other people's components better than those
that are best for the person. Chosen on training images of simulated subjects 1, 2 and 5 (docs/new_person.md)."""

_TRIALS_AT_ONCE = 1024
_IMAGES_AT_ONCE = 256
_FEATURES_AT_ONCE = 8192


def text_features(latents: LatentStore, nsd_ids: np.ndarray) -> np.ndarray:
    """Return the mean of the captions' text features, float32 [n, L * D]."""
    return latents.text[latents.rows(nsd_ids)].astype(np.float32).reshape(len(nsd_ids), -1)


def latent_features(latents: LatentStore, nsd_ids: np.ndarray) -> np.ndarray:
    """Return the VAE's posterior means, float32 [n, C * h * w]."""
    return latents.mean[latents.rows(nsd_ids)].astype(np.float32).reshape(len(nsd_ids), -1)


_FEATURES = {"text": text_features, "latent": latent_features}


@dataclass(frozen=True)
class ComponentSpace:
    """The shared space.

    Attributes
    ----------
    mean
        dict of float32 array: "text" [L * D] and "latent" [C * h * w]: mean over images.
    axes
        dict of float32 array: "text" [Kt, L * D] and "latent" [Kl, C * h * w]: principal axes, divided by the standard
        deviation along them.
    """

    mean: dict[str, np.ndarray]
    axes: dict[str, np.ndarray]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of components of each kind."""
        return {kind: len(self.axes[kind]) for kind in KINDS}

    @property
    def variances(self) -> dict[str, np.ndarray]:
        """Variance of the features along each axis, float32 [Kt] and [Kl]."""
        return {kind: 1 / np.square(self.axes[kind]).sum(1) for kind in KINDS}

    @classmethod
    def fit(cls, latents: LatentStore, nsd_ids: np.ndarray, sizes: dict[str, int], seed: int) -> "ComponentSpace":
        """Find the principal axes of the images of `nsd_ids`, at most `IMAGES_FOR_AXES` of them at random.

        Raises
        ------
        ValueError
            If more components are asked for than there are images or features.
        """
        if len(nsd_ids) > IMAGES_FOR_AXES:
            nsd_ids = np.sort(np.random.default_rng(seed).choice(nsd_ids, IMAGES_FOR_AXES, replace=False))
        mean, axes = {}, {}
        for kind, size in sizes.items():
            # What says nothing would be an axis of its own.
            known = nsd_ids if kind == "latent" else nsd_ids[latents.described[latents.rows(nsd_ids)]]
            if not len(known):
                raise ValueError(
                    f"align.{kind}_components: {size}, but no training image has captions; allowed: captions, for "
                    "example by neuropictor import-images --captions MODEL, init: population, or align: {tokens: 0}"
                )
            features = _FEATURES[kind](latents, known)
            most = min(len(features) - 1, features.shape[1])
            if size > most:
                raise ValueError(
                    f"align.{kind}_components: {size} are more than {len(features)} training images and "
                    f"{features.shape[1]} features give; allowed: 1 to {most}, for example {kind}_components: {most}"
                )
            mean[kind] = features.mean(0)
            features -= mean[kind]
            values, vectors = torch.linalg.eigh(torch.from_numpy(_small_gram(features)))
            varied = int((values > 1e-9 * values[-1]).sum()) if values[-1] > 0 else 0
            if size > varied:
                raise ValueError(
                    f"align.{kind}_components: {size} are more than the {varied} directions in which the {kind} "
                    f"features of {len(features)} training images differ; allowed: 1 to {varied}, for example "
                    f"{kind}_components: {max(1, varied)}, or other images and captions: the backbone's text encoder "
                    "may not know their words"
                )
            # The smaller Gram matrix's eigenvectors give the axes either way; scaled to unit variance of components.
            values, vectors = values[-size:].flip(0).numpy(), vectors[:, -size:].flip(1).numpy()
            if len(features) < features.shape[1]:
                parts = [part.T.astype(np.float64) @ vectors for part in _feature_blocks(features)]
                directions = np.concatenate(parts) / values * np.sqrt(len(features))
            else:
                directions = vectors / np.sqrt(values / len(features))
            axes[kind] = np.ascontiguousarray(directions.T, np.float32)
        return cls(mean, axes)

    def components(self, latents: LatentStore, nsd_ids: np.ndarray) -> np.ndarray:
        """Return the components of images, float32 [n, Kt + Kl], about unit variance.

        Text components of images without captions are 0, the mean: those of the empty prompt would be a meaning of
        their own.
        """
        # Text features are 256 times as large as components: block by block, or they would take gigabytes.
        blocks = np.array_split(nsd_ids, -(-len(nsd_ids) // _IMAGES_AT_ONCE) or 1)
        components = np.concatenate(
            [
                np.concatenate(
                    [(_FEATURES[kind](latents, block) - self.mean[kind]) @ self.axes[kind].T for kind in KINDS], axis=1
                )
                for block in blocks
            ]
        )
        components[~latents.described[latents.rows(nsd_ids)], : self.sizes["text"]] = 0
        return components

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically; as float16, the precision of text features and latents themselves."""
        tensors = {
            f"{kind}.{name}": torch.from_numpy(values[kind]).half()
            for name, values in (("mean", self.mean), ("axes", self.axes))
            for kind in KINDS
        }
        with atomic_path(path) as temporary:
            save_file(tensors, temporary)

    @classmethod
    def load(cls, path: str | Path) -> "ComponentSpace":
        """Read a file of `save`."""
        with safe_open(path, framework="pt") as file:
            read = {name: file.get_tensor(name).float().numpy() for name in file.keys()}  # noqa: SIM118
        return cls({kind: read[f"{kind}.mean"] for kind in KINDS}, {kind: read[f"{kind}.axes"] for kind in KINDS})


def _small_gram(features: np.ndarray) -> np.ndarray:
    """Return X X' or X' X in float64, whichever is smaller; no float64 copy of all features is made."""
    if len(features) >= features.shape[1]:
        features = features.astype(np.float64)
        return features.T @ features
    gram = np.zeros((len(features), len(features)))
    for part in _feature_blocks(features):
        block = part.astype(np.float64)
        gram += block @ block.T
    return gram


def _feature_blocks(features: np.ndarray) -> list[np.ndarray]:
    return [features[:, start : start + _FEATURES_AT_ONCE] for start in range(0, features.shape[1], _FEATURES_AT_ONCE)]


def make_space(
    latents: Sequence[str | Path],
    responses: Sequence[str | Path],
    population: Path | None,
    config: "AlignConfig",
    out: str | Path,
) -> None:
    """Write the shared space: that of a population start, or one fitted on all subjects' training images.

    Parameters
    ----------
    latents
        Latents of the subjects' images, see `neuropictor.data.latents.cache_latents`.
    responses
        Response files of all subjects that train the shared networks.
    population
        Space that the population's networks were trained in; None to fit one.
    config
        Section of the configuration.
    out
        Safetensors file for `ComponentSpace.load`.
    """
    sizes = {"text": config.text_components, "latent": config.latent_components}
    with RunRecord(
        record_path(out), "align_space", config=config, inputs=[*latents, *responses], outputs=[out]
    ) as record:
        if population is not None:
            # Copied unchanged: the population's networks know their space by its checksum.
            space = ComponentSpace.load(population)
            if space.sizes != sizes:
                raise ValueError(
                    f"align: {sizes} components asked for, but the population start in {population} has "
                    f"{space.sizes}; allowed: its sizes, or calibrate and pretrain with init: scratch"
                )
        else:
            stores = [ResponseStore(path) for path in responses]
            trained, tested = (
                np.unique(np.concatenate([store.images(split) for store in stores])) for split in ("train", "test")
            )
            ids = np.setdiff1d(trained, tested)
            space = ComponentSpace.fit(LatentStore(*latents), ids, sizes, config.seed)
        if population is None:
            space.save(out)
        else:
            with atomic_path(out) as temporary:
                shutil.copyfile(population, temporary)
        record.add(components=space.sizes, start="population" if population else "scratch")


def align_subject(
    responses: str | Path, latents: str | Path, space: str | Path, config: "AlignConfig", out: str | Path
) -> None:
    """Predict the components of every trial of one subject.

    Trials of training images are predicted from the other folds of training images, all other trials from all
    training images. Penalties are chosen on the validation images, separately for text and latent components.

    Parameters
    ----------
    responses, latents, space
        The subject's response file, latents of its images, and the file of `make_space`.
    config
        Section of the configuration.
    out
        HDF5 file for `ComponentStore`.
    """
    verify(responses, latents, space)
    store, shared, images = ResponseStore(responses), ComponentSpace.load(space), LatentStore(latents)
    check_images(images, latents, store)
    with RunRecord(
        record_path(out), "align", config=config, inputs=[responses, latents, space], outputs=[out]
    ) as record:
        train, validation = store.fitting_images()
        if len(train) < 2 * config.folds or not len(validation):
            raise ValueError(
                f"align.folds: {config.folds} folds of {len(train)} training images ({len(validation)} for "
                f"validation) in {responses}; allowed: 2 to {max(2, len(train) // 2)} and at least one validation "
                "image, for example folds: 2"
            )
        targets = shared.components(images, train)
        groups = np.repeat([0, 1], list(shared.sizes.values()))
        means = store.mean_response(train)
        held = (store.mean_response(validation), shared.components(images, validation))
        random = np.random.default_rng([config.seed, subject_number(store.subject)])
        fold = random.permutation(len(train)) % config.folds
        place = np.searchsorted(train, store.nsd_id).clip(max=len(train) - 1)
        fold_of_trial = np.where(train[place] == store.nsd_id, fold[place], config.folds)
        components = np.empty((len(store), targets.shape[1]), np.float32)
        # The last round leaves nothing out: for images of validation and test.
        for left_out in progress(range(config.folds + 1), f"Aligning subject {store.subject}", unit="fold"):
            model = None  # the last round's: 1.3 GB at the paper's size
            kept = fold != left_out
            model = Ridge.fit(Decomposition.of(means[kept]), targets[kept], *held, groups, config.ridge_alphas)
            trials = np.flatnonzero(fold_of_trial == left_out)
            for part in np.array_split(trials, -(-len(trials) // _TRIALS_AT_ONCE) or 1):
                components[part] = model.predict(store.responses(part))
        # Weights are those of the last round, for the responses of controls, which are no trials.
        write_components(out, store, checksum(space), components, *model.weights(), general=model.weights(STIFFER))
        record.add(
            subject=store.subject, data=store.data, penalties=[float(model.penalty[0]), float(model.penalty[-1])]
        )
        for split, ids in (("train", train), ("validation", validation)):
            record.add(**{f"{split}_explained": explained(store, components, ids, shared, images)})
    store.close()


def align_test_set(responses: str | Path, components: str | Path, out: str | Path) -> None:
    """Predict the components of further trials of a subject, by the regression on all its training images.

    Parameters
    ----------
    responses
        Responses of the subject to images on which it was not trained.
    components
        File of `align_subject` or `neuropictor.data.adapt.adapt_subject`.
    out
        HDF5 file for `ComponentStore`, of these trials.

    Raises
    ------
    ValueError
        If the files are of two subjects, or the components hold no regression.
    """
    verify(responses, components)
    store = ResponseStore(responses)
    with (
        RunRecord(record_path(out), "align_test_set", inputs=[responses, components], outputs=[out]) as record,
        open_store(components) as file,
    ):
        if subject_of(file) != store.subject:
            raise ValueError(
                f"{components} is of subject {subject_of(file)}, {responses} of {store.subject}; allowed: both of one"
            )
        weights, offsets = read_regression(file)
        expect(file, {"weights": ("f", (store.n_vertices, None))})
        predicted = np.empty((len(store), len(offsets)), np.float32)
        for start in range(0, len(store), _TRIALS_AT_ONCE):
            part = np.arange(start, min(start + _TRIALS_AT_ONCE, len(store)))
            predicted[part] = store.responses(part) @ weights + offsets
        write_components(out, store, str(file.attrs["space"]), predicted, weights, offsets)
        record.add(subject=store.subject, data=store.data, trials=len(store))
    store.close()


def read_regression(file: h5py.File) -> tuple[np.ndarray, np.ndarray]:
    """Return weights [V, K] and offsets [K] of an open file of components; ValueError where it has none."""
    if "weights" not in file:
        raise ValueError(
            f"{file.filename}: holds no weights; allowed: a file with the regression that made its components, as "
            "stage align writes it, for example by running stage align again"
        )
    return file["weights"][:], file["offsets"][:]


def check_images(images: LatentStore, latents: str | Path, store: ResponseStore) -> None:
    """Make sure that `images`, read from the file `latents`, hold every image that a person saw.

    Raises
    ------
    ValueError
        If one is missing.
    """
    unknown = np.setdiff1d(store.nsd_id, images.nsd_id)
    if len(unknown):
        raise ValueError(
            f"{latents}: no image {unknown[0]} among {len(images.nsd_id)}, but {store.path} has a response to it; "
            "allowed: all images that were seen, counted alike in both tables"
        )


def write_components(
    out: str | Path,
    store: ResponseStore,
    space: str,
    components: np.ndarray,
    weights: np.ndarray,
    offsets: np.ndarray,
    general: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """Write a file for `ComponentStore`, atomically, as float32.

    Parameters
    ----------
    out
        HDF5 file.
    store
        Responses behind the components.
    space
        Checksum of the shared space.
    components
        [T, K], of each trial.
    weights, offsets
        [V, K] and [K]: the regression for all other responses.
    general
        The same for other people's.
    """
    with atomic_path(out) as temporary, h5py.File(temporary, "w") as file:
        file["components"], file["nsd_id"] = components.astype(np.float32), store.nsd_id
        file["weights"], file["offsets"] = weights.astype(np.float32), offsets.astype(np.float32)
        if general is not None:
            file["general_weights"], file["general_offsets"] = (part.astype(np.float32) for part in general)
        file.attrs.update(subject=store.subject, data=store.data, space=space)


def explained(
    store: ResponseStore, components: np.ndarray, nsd_ids: np.ndarray, space: ComponentSpace, latents: LatentStore
) -> dict[str, float | None]:
    """Share of the variance of true components that the mean over an image's repeats explains."""
    true = space.components(latents, nsd_ids)
    predicted = mean_over_repeats(components, [store.trials(int(nsd_id)) for nsd_id in nsd_ids])
    shares, start = {}, 0
    for kind, size in space.sizes.items():
        part = np.s_[:, start : start + size]
        # Components have unit variance; weigh each by the variance of its axis, as in the features themselves.
        weight = space.variances[kind]
        error = (np.square(predicted[part] - true[part]) * weight).sum()
        variance = (np.square(true[part] - true[part].mean(0)) * weight).sum()
        # Without captions, nothing varies.
        shares[kind] = round(float(1 - error / variance), 4) if variance else None
        start += size
    log.info("Subject %s: %s of variance explained", store.subject, shares)
    return shares


class ComponentStore:
    """Reader of one subject's components.

    Parameters
    ----------
    path
        File of `align_subject`.
    responses
        The response store that it was made from.

    Attributes
    ----------
    rows
        Components ``[T, K]`` of each trial of the response store.
    space
        Checksum of the shared space.
    """

    def __init__(self, path: str | Path, responses: ResponseStore):
        self.path = Path(path)
        with open_store(self.path) as file:
            if "components" not in file or "nsd_id" not in file or "space" not in file.attrs:
                raise ValueError(
                    f"{self.path}: found {sorted(file)} and {sorted(file.attrs)}; allowed: a file of stage align, with "
                    "components, nsd_id and the attribute space"
                )
            expect(file, {"components": ("f", (len(responses), None)), "nsd_id": ("iu", (len(responses),))})
            nsd_id, self.space = file["nsd_id"][:], str(file.attrs["space"])
        if not np.array_equal(nsd_id, responses.nsd_id):
            raise ValueError(
                f"{self.path}: made from other trials than those of {responses.path}; allowed: the file that stage "
                "align made from these responses"
            )
        self.rows = Rows(self.path, "components")

    @property
    def size(self) -> int:
        """Number of components K."""
        return self.rows.shape[1]

    def predict(self, responses: np.ndarray) -> np.ndarray:
        """Return components ``[n, K]`` of any responses ``[n, V]``, from the regression on all training images."""
        with open_store(self.path) as file:
            weights, offsets = read_regression(file)
        return responses @ weights + offsets
