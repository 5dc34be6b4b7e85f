"""The judge, and the images it judges: read part by part, so that no full set need be in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from neuropictor.data.stimuli import StimulusStore, resize_images
from neuropictor.evaluation.metrics import METRICS, Space

if TYPE_CHECKING:
    import torch

    from neuropictor.models.backbone import Backbone

IMAGES_AT_ONCE = 32
"""Images judged at a time: 100 MB of 512 pixels in float32."""


class Images(Protocol):
    """K samples of each of N images, for example `neuropictor.data.reconstructions.StoredReconstructions`."""

    @property
    def samples(self) -> int:
        """K."""
        ...

    def __len__(self) -> int:
        """Return N."""
        ...

    def read(self, rows: np.ndarray, sample: int = 0) -> np.ndarray:
        """Read one sample of some images, uint8 [n, S, S, 3]."""
        ...


class Held:
    """Images in memory, uint8 [N, K, S, S, 3]."""

    def __init__(self, images: np.ndarray):
        self.images, self.samples = images, images.shape[1]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, rows: np.ndarray, sample: int = 0) -> np.ndarray:
        """Read one sample of some images, uint8 [n, S, S, 3]."""
        return self.images[rows, sample]


class Seen:
    """Images of a stimulus store, or what a function makes of them.

    Parameters
    ----------
    store
        The seen images.
    nsd_ids
        int [N].
    change
        From uint8 [n, S, S, 3] to uint8 [n, s, s, 3].
    """

    samples = 1

    def __init__(
        self, store: StimulusStore, nsd_ids: np.ndarray, change: Callable[[np.ndarray], np.ndarray] | None = None
    ):
        self.store, self.nsd_ids, self.change = store, nsd_ids, change

    def __len__(self) -> int:
        return len(self.nsd_ids)

    def read(self, rows: np.ndarray, sample: int = 0) -> np.ndarray:
        """Read some images, uint8 [n, S, S, 3]."""
        images = self.store.images(self.nsd_ids[rows])
        return images if self.change is None else self.change(images)


class Describer(Protocol):
    """A network that maps images and category names into one space: `Backbone` or `ClipDescriber`."""

    name: str

    @property
    def image_size(self) -> int:
        """Side of the images that it takes."""
        ...

    def image_features(self, images: np.ndarray, /) -> torch.Tensor:
        """Images uint8 [n, S, S, 3] of `image_size` -> unit vectors [n, E]."""
        ...

    def category_features(self, categories: list[str]) -> torch.Tensor:
        """Category names -> unit vectors [N, E]."""
        ...


def load_describer(networks: str, backbone: Backbone, weights: Path | None, device: torch.device) -> Describer:
    """Return the judge of the protocol `ours`, for the evaluation, controls and the choices of baselines.

    Parameters
    ----------
    networks
        `evaluate.networks`: "published" for CLIP ViT-L/14, "miniature" for the backbone's own image tower.
    backbone
        Source of the backbone.
    weights
        Folder of `fetch_weights`.
    device
        Where it runs.

    Raises
    ------
    ValueError
        If there are no weights, or the backbone has no image tower.
    """
    if networks == "published":
        from neuropictor.evaluation.judging import ClipDescriber

        if weights is None:
            raise ValueError(
                "evaluate.networks is published, but no folder of weights was given; allowed: one that `neuropictor"
                " fetch-weights` filled, e.g. --weights data/weights"
            )
        return ClipDescriber(weights, device)
    if backbone.image_encoder is None:
        raise ValueError(
            f"evaluate.networks is miniature, but backbone {backbone.name} has no image_encoder/ folder that could"
            " judge images; allowed: evaluate: {networks: published}"
        )
    return backbone


def look(describer: Describer, images: np.ndarray) -> np.ndarray:
    """Describe images uint8 [n, S, S, 3] in the describer's image space, float32 [n, E], unit norm."""
    return describer.image_features(resize_images(images, describer.image_size)).float().cpu().numpy()


def blocks(count: int) -> Iterator[np.ndarray]:
    """Cut rows 0 to count - 1 into parts of `IMAGES_AT_ONCE`."""
    for start in range(0, count, IMAGES_AT_ONCE):
        yield np.arange(start, min(start + IMAGES_AT_ONCE, count))


def reduced(images: Images, rows: np.ndarray, side: int, sample: int = 0) -> np.ndarray:
    """Read one sample of some images and reduce them block by block to `side` pixels, uint8 [n, side, side, 3]."""
    parts = [resize_images(images.read(rows[part], sample), side) for part in blocks(len(rows))]
    return np.concatenate(parts) if parts else np.empty((0, side, side, 3), np.uint8)


class Judge:
    """Features of the seen images and of the categories, and what is scored against them.

    Parameters
    ----------
    describer
        Gives the features of images.
    seen
        All test images, N.
    category, background
        str [N]: of the seen images; either may be empty.
    categories
        All main categories of the data set; may be empty.
    seed
        Of the pools of retrieval.

    Attributes
    ----------
    features
        float32 [N, E]: of the seen images.
    size
        Side of the seen images in pixels.
    metrics
        Scores by the judge's features for which the images' labels are known.
    """

    def __init__(
        self,
        describer: Describer,
        seen: Images,
        category: np.ndarray,
        background: np.ndarray,
        categories: list[str],
        seed: int = 0,
    ):
        self.describer, self.seen, self.categories, self.seed = describer, seen, categories, seed
        self.size = seen.read(np.arange(1)).shape[1]
        self.features = self.describe(seen)
        self.main = _numbers(category, categories)
        self._backgrounds = _numbers(background, sorted(set(background) - {""}))
        self.prompts = describer.category_features(categories).float().cpu().numpy() if categories else None
        known = {"features": True, "category": bool(categories), "background": (self._backgrounds >= 0).any()}
        self.metrics = [metric for metric in METRICS.values() if known.get(metric.needs)]

    @classmethod
    def of_store(cls, describer: Describer, store: StimulusStore, nsd_ids: np.ndarray, seed: int = 0) -> Judge:
        """Judge images of a stimulus store."""
        labels = store.category(nsd_ids), store.background(nsd_ids)
        return cls(describer, Seen(store, nsd_ids), *labels, store.categories, seed)

    def describe(self, images: Images, sample: int = 0) -> np.ndarray:
        """Describe one sample of all images, float32 [N, E], unit norm."""
        return np.concatenate([look(self.describer, images.read(rows, sample)) for rows in blocks(len(images))])

    def space(self, features: np.ndarray, rows: np.ndarray) -> Space:
        """Pair reconstructions' features [n, K, E] with the seen images of `rows` [m]."""
        labels = self.main[rows], self._backgrounds[rows]
        return Space(features, self.features[rows], *labels, self.prompts, self.seed)

    def score(self, space: Space) -> dict[str, np.ndarray]:
        """Score reconstructions by `metrics`: float64 [n], averaged over samples, NaN where an image has no score."""
        return {metric.name: metric.function(space).mean(1) for metric in self.metrics}


def _numbers(names: np.ndarray, known: list[str]) -> np.ndarray:
    """Places of names among those that are known, int [N]; -1 for others."""
    places = {name: place for place, name in enumerate(known)}
    return np.array([places.get(name, -1) for name in names])
