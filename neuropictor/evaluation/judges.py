"""Who judges images, and what is judged: images read part by part, so that no set of them need be in memory whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from neuropictor.data.stimuli import StimulusStore, resize_pictures
from neuropictor.evaluation import measures
from neuropictor.evaluation.similarity import identification

if TYPE_CHECKING:
    import torch

    from neuropictor.models.backbone import Backbone

IMAGES_AT_ONCE = 32
"""Images that are looked at together: 100 MB of 512 pixels in float32."""


class Images(Protocol):
    """K samples of each of N images; `neuropictor.data.reconstructions.StoredReconstructions` are such."""

    samples: int

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
    store : StimulusStore
    nsd_ids : int array [N]
    change : callable, optional
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
        images = self.store.pictures(self.nsd_ids[rows])
        return images if self.change is None else self.change(images)


class Describer(Protocol):
    """A network with an image tower whose space categories have a place in: `Backbone` or `ClipDescriber`."""

    name: str
    image_size: int

    def image_features(self, pictures: np.ndarray) -> torch.Tensor:
        """Images uint8 [n, S, S, 3] of `image_size` -> unit vectors [n, E]."""
        ...

    def category_features(self, categories: list[str]) -> torch.Tensor:
        """Category names -> unit vectors [N, E]."""
        ...


def load_describer(networks: str, backbone: Backbone, weights: Path | None, device: torch.device) -> Describer:
    """Return who judges by the protocol `ours`, in the evaluation, in controls and where baselines choose.

    Parameters
    ----------
    networks : str
        `evaluate.networks`: "published" for CLIP ViT-L/14, "miniature" for the backbone's own image tower.
    backbone : Backbone
    weights : Path or None
        Folder of `fetch_weights`.
    device : torch.device

    Raises
    ------
    ValueError
        If there are no weights, or the backbone has no image tower.
    """
    if networks == "published":
        from neuropictor.evaluation.networks import ClipDescriber

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
    return describer.image_features(resize_pictures(images, describer.image_size)).float().cpu().numpy()


def blocks(count: int) -> Iterator[np.ndarray]:
    """Cut rows 0 to count - 1 into parts of `IMAGES_AT_ONCE`."""
    for start in range(0, count, IMAGES_AT_ONCE):
        yield np.arange(start, min(start + IMAGES_AT_ONCE, count))


def reduced(images: Images, rows: np.ndarray, side: int, sample: int = 0) -> np.ndarray:
    """Read one sample of some images and reduce them block by block to `side` pixels, uint8 [n, side, side, 3]."""
    parts = [resize_pictures(images.read(rows[part], sample), side) for part in blocks(len(rows))]
    return np.concatenate(parts) if parts else np.empty((0, side, side, 3), np.uint8)


class Judge:
    """Features of the seen images and of the categories, and what is scored against them.

    Parameters
    ----------
    describer : Describer
    seen : Images
        All test images, N.
    category, background : str arrays [N]
        Of the seen images; either may be empty.
    categories : list of str
        All main categories of the data set; may be empty.
    seed : int
        Of the pools of retrieval.

    Attributes
    ----------
    features : float32 array [N, E]
        Of the seen images.
    size : int
        Side of the seen images in pixels.
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
        index = {name: place for place, name in enumerate(categories)}
        self.main = np.array([index.get(name, -1) for name in category])
        kinds = {name: place for place, name in enumerate(sorted(set(background) - {""}))}
        self._backgrounds = np.array([kinds.get(name, -1) for name in background])
        self.prompts = describer.category_features(categories).float().cpu().numpy() if categories else None

    def describe(self, images: Images, sample: int = 0) -> np.ndarray:
        """Describe one sample of all images, float32 [N, E], unit norm."""
        return np.concatenate([look(self.describer, images.read(rows, sample)) for rows in blocks(len(images))])

    def groups(self, rows: np.ndarray) -> dict[str, np.ndarray | None]:
        """Which images are distractors of each other, for each score of `measures.IDENTIFICATION`."""
        return {
            "two_way": None,
            "two_way_hard": measures.groups_of(self._backgrounds[rows]),
            "two_way_category": measures.groups_of(self.main[rows]),
        }

    def score(self, features: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Score reconstructions by their features.

        Parameters
        ----------
        features : float array [n, K, E]
            Of K samples of each of n reconstructions.
        rows : int array [n]
            Rows of the seen images; distractors come from these rows too.

        Returns
        -------
        dict of float64 arrays [n]
            `measures.METRICS` and `FURTHER_METRICS` but for those of pixels and lpips, averaged over samples; NaN where
            an image has none.
        """
        known = self.features[rows]
        tables = measures.correlations(features, known)
        scores = {name: measures.two_way(features, known, groups, tables) for name, groups in self.groups(rows).items()}
        scores["distance"] = measures.distance(features, known)
        image, brain = measures.retrieval(features, known, self.seed)
        scores |= {"retrieval_image": image, "retrieval_brain": brain}
        scores["similarity"] = measures.similarity(features, known)
        if self.prompts is not None:
            scores["category"] = measures.category(features, self.prompts, self.main[rows])
        return {name: values.mean(1) for name, values in scores.items()}

    def tables(self, features: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Identification scores as if every image were the right one, [K, n, n] for each of `IDENTIFICATION`."""
        known = measures.correlations(features, self.features[rows])
        return {
            name: np.stack([identification(table, groups) for table in known])
            for name, groups in self.groups(rows).items()
        }
