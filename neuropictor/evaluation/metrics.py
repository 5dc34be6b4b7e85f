"""The scores of reconstructed images. Each is one entry of `METRICS`: its name, what it computes, which way is better.

Tables, arrows, legends and pages follow from the entries; a new score needs its function and its entry here.
Definitions follow published evaluations (MindEye 1 and 2, NeuroPictor); docs/metrics.md has each with its source.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from neuropictor.evaluation.networks import NETWORKS
from neuropictor.evaluation.similarity import correlation_matrix, identification, identify, retrieve, unit_rows

LONG = 4096
"""Features longer than this are multiplied in float32; close decisions are repeated in float64."""

RETRIEVAL_POOL, RETRIEVAL_REPEATS = 300, 30
"""MindEye's retrieval: top-1 among 300 random test images, mean of 30 such pools (arXiv 2305.18274, section 3.1)."""

SSIM_SIGMA = 1.5
"""Standard deviation of the Gaussian window in pixels (Wang et al. 2004; MindEye's and NeuroPictor's evaluation)."""
_SSIM_RADIUS = 5  # pixels: scikit-image cuts the window at 3.5 sigma
_SSIM_PIXELS = 500_000  # gray pixels filtered at once: what stays in a processor's cache


def _check_pair(reconstructed: np.ndarray, seen: np.ndarray) -> None:
    if reconstructed.shape[0] != seen.shape[0] or reconstructed.shape[2:] != seen.shape[1:]:
        raise ValueError(
            f"reconstructed images of shape {reconstructed.shape} do not fit seen images of shape {seen.shape}: "
            "allowed are [N, K, ...] and [N, ...], for example (150, 1, 64, 64, 3) and (150, 64, 64, 3)"
        )


def pixcorr(reconstructed: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Pixel correlation of every sample with the seen image.

    Parameters
    ----------
    reconstructed
        uint8 [N, K, S, S, 3]: K samples per image.
    seen
        uint8 [N, S, S, 3].

    Returns
    -------
    float64 array [N, K]
        An image of a single value has no correlation; it scores 0.
    """
    _check_pair(reconstructed, seen)
    scores = np.empty(reconstructed.shape[:2])
    for row, (samples, one) in enumerate(zip(reconstructed, seen, strict=True)):  # one at a time stays in the cache
        scores[row] = unit_rows(samples.reshape(len(samples), -1)) @ unit_rows(one.ravel())
    return np.nan_to_num(scores)


def ssim(reconstructed: np.ndarray, seen: np.ndarray, reading: str = "2d") -> np.ndarray:
    """Structural similarity of the gray images at the images' own size.

    The gray value is scikit-image's `rgb2gray` (0.2125 R + 0.7154 G + 0.0721 B) of images in 0..1. The window is a
    Gaussian of sigma 1.5 pixels cut at 3.5 sigma (11 x 11 pixels), population covariances, K1 = 0.01, K2 = 0.03, data
    range 1: `structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)`
    on 2-D arrays. MindEye and NeuroPictor make the same call with `multichannel=True` at 425 x 425 pixels, so values at
    another size are not comparable with theirs.

    Parameters
    ----------
    reconstructed
        uint8 array or float array in 0..1, [N, K, S, S, 3].
    seen
        The same [N, S, S, 3].
    reading
        "2d" or "columns": what `multichannel=True` does to a gray image: scikit-image since 0.20 ignores it (2d); until
        0.19 it took the columns for channels, so that each column was a signal of its own (columns).

    Returns
    -------
    float64 array [N, K]
    """
    from skimage.color import rgb2gray

    _check_pair(reconstructed, seen)
    if reading not in {"2d", "columns"}:
        raise ValueError(f'reading is "{reading}"; allowed are 2d and columns, for example 2d')
    scores = np.empty(reconstructed.shape[:2])
    block = max(1, _SSIM_PIXELS // int(np.prod(seen.shape[1:3])))
    for start in range(0, len(seen), block):
        rows = slice(start, start + block)
        samples = rgb2gray(reconstructed[rows]).swapaxes(0, 1)
        scores[rows] = _ssim_gray(samples, rgb2gray(seen[rows]), reading == "columns").T
    return scores


def _ssim_gray(left: np.ndarray, right: np.ndarray, by_column: bool = False) -> np.ndarray:
    """scikit-image's `structural_similarity` of gray images [K, n, S, S] and [n, S, S], in both readings: [K, n]."""
    from scipy.ndimage import correlate1d

    offsets = np.arange(-_SSIM_RADIUS, _SSIM_RADIUS + 1)
    if min(right.shape[1:]) < len(offsets):
        raise ValueError(
            f"images of {min(right.shape[1:])} pixels a side are smaller than SSIM's window of {len(offsets)} pixels;"
            f" allowed: at least {len(offsets)}, for example 64"
        )
    weights = np.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    weights /= weights.sum()
    inside = slice(_SSIM_RADIUS, -_SSIM_RADIUS)  # where the whole window fits

    def local_mean(values: np.ndarray) -> np.ndarray:
        values = correlate1d(values, weights, axis=-2)[..., inside, :]
        return values if by_column else correlate1d(values, weights, axis=-1)[..., inside]

    mean_left, mean_right = local_mean(left), local_mean(right)
    variance_left = local_mean(left * left) - mean_left**2
    variance_right = local_mean(right * right) - mean_right**2
    covariance = local_mean(left * right) - mean_left * mean_right
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_left * mean_right + c1) / (mean_left**2 + mean_right**2 + c1)
    structure = (2 * covariance + c2) / (variance_left + variance_right + c2)
    return (luminance * structure).mean((-2, -1))


def correlations(reconstructed: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Correlation of features [N, K, E] with those of seen images [M, E], float64 [K, N, M]."""
    precision = np.float32 if reconstructed.shape[-1] > LONG and reconstructed.dtype == np.float32 else np.float64
    return np.stack([correlation_matrix(reconstructed[:, k], seen, precision) for k in range(reconstructed.shape[1])])


def two_way(
    reconstructed: np.ndarray, seen: np.ndarray, groups: np.ndarray | None = None, known: np.ndarray | None = None
) -> np.ndarray:
    """Two-way identification by the correlation of features.

    Parameters
    ----------
    reconstructed
        [N, K, E]: features of K samples per image.
    seen
        [N, E]: features of the seen images.
    groups
        [N]: background kind or category of the seen images: only images of the same group are distractors. Default: all
        are.
    known
        [K, N, N]: their `correlations`, where these are known already.

    Returns
    -------
    float64 array [N, K]
        Fraction of the other N - 1 seen images whose correlation with the reconstruction is strictly lower than the
        seen image's (ties and undefined correlations are failures); chance 0.5. The reconstruction is compared with all
        seen images (as in MindEye and NeuroPictor), not the seen image with all reconstructions. NaN for images that
        are alone in their group.
    """
    _check_pair(reconstructed, seen)
    tables = [None] * reconstructed.shape[1] if known is None else known
    return np.stack([identify(reconstructed[:, k], seen, groups, table) for k, table in enumerate(tables)], axis=1)


def groups_of(labels: np.ndarray) -> np.ndarray:
    """Turn labels int [N] into groups for `two_way`: images without a label (-1) are alone."""
    labels = np.asarray(labels)
    return np.where(labels < 0, -1 - np.arange(len(labels)), labels)


def retrieval(
    reconstructed: np.ndarray, seen: np.ndarray, seed: int, pool: int = RETRIEVAL_POOL, repeats: int = RETRIEVAL_REPEATS
) -> tuple[np.ndarray, np.ndarray]:
    """Top-1 retrieval of the image from the brain and of the brain from the image, float64 [N, K] each.

    The features of reconstructions [N, K, E] stand for the brain; seen: [N, E]. See `similarity.retrieve`.
    """
    _check_pair(reconstructed, seen)
    samples = [retrieve(reconstructed[:, k], seen, pool, repeats, seed) for k in range(reconstructed.shape[1])]
    image, brain = zip(*samples, strict=True)
    return np.stack(image, axis=1), np.stack(brain, axis=1)


def similarity(reconstructed: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Cosine of the angle between features of unit norm, [N, K, E] and [N, E]: float64 [N, K]."""
    _check_pair(reconstructed, seen)
    return np.einsum("nke,ne->nk", reconstructed, seen, dtype=np.float64)


def distance(reconstructed: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """One minus the correlation of features, [N, K, E] and [N, E]: float64 [N, K], 0 (same) to 2.

    Where the correlation is undefined (constant or NaN features) it is 1, that of unrelated features.
    """
    _check_pair(reconstructed, seen)
    return 1.0 - np.nan_to_num(np.einsum("nke,ne->nk", unit_rows(reconstructed), unit_rows(seen)))


def zero_shot(features: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """Index of the category [C, E] nearest to features [..., E] of unit norm, int [...]; -1 where these hold NaN."""
    nearness = np.asarray(features, np.float64) @ np.asarray(prompts, np.float64).T
    return np.where(np.isfinite(nearness).all(-1), np.nan_to_num(nearness).argmax(-1), -1)


def category_table(features: np.ndarray, prompts: np.ndarray, main: np.ndarray) -> np.ndarray:
    """Whether the zero-shot category of reconstruction n is the main category of image m.

    Features [N, K, E] and prompts [C, E] of unit norm, categories int [M]: float64 [K, N, M] of 0 and 1, and NaN where
    an image's category is unknown (-1).
    """
    main = np.asarray(main)
    table = (zero_shot(features, prompts).T[:, :, None] == main).astype(np.float64)
    table[:, :, main < 0] = np.nan
    return table


def category(features: np.ndarray, prompts: np.ndarray, main: np.ndarray) -> np.ndarray:
    """Whether each reconstruction has the main category of its seen image, float64 [N, K], see `category_table`."""
    return category_table(features, prompts, main).diagonal(axis1=1, axis2=2).T


@dataclass
class Space:
    """Reconstructions and seen images as vectors of one space, and labels of the seen images.

    Attributes
    ----------
    reconstructed
        [N, K, E]: features of K samples of each image; or its pixels, in one row.
    seen
        [M, E]: in the order of the reconstructions to score them; in any order for tables of pairs.
    category, background
        int [M]: of the seen images, -1 where unknown.
    prompts
        [categories, E]: text features of the categories.
    seed
        Of the pools of retrieval.
    """

    reconstructed: np.ndarray
    seen: np.ndarray
    category: np.ndarray | None = None
    background: np.ndarray | None = None
    prompts: np.ndarray | None = None
    seed: int = 0

    @cached_property
    def correlations(self) -> np.ndarray:
        """Of every reconstruction with every seen image, float64 [K, N, M]."""
        return correlations(self.reconstructed, self.seen)

    @cached_property
    def retrieved(self) -> tuple[np.ndarray, np.ndarray]:
        """Image from brain and brain from image, see `retrieval`."""
        return retrieval(self.reconstructed, self.seen, self.seed)


@dataclass(frozen=True)
class Metric:
    """One score.

    Attributes
    ----------
    name, title
        In tables, and where people read it.
    about
        Short description; "{pool}" stands for the number of images in a pool of retrieval.
    function
        Score of every sample, float64 [N, K]: of a `Space`, or, where `needs` is "images", of reconstructed and seen
        images. None where a network gives the score itself, or others do.
    needs
        "features", "category" or "background": the judge's features of the images, and those labels too. "images": the
        images. "lpips", or a name of `networks.NETWORKS`: that published network. "kinds": scores of several kinds of
        images together, see `groups`.
    shown
        Tables that have it: "main" and "further" of the protocol `ours`, "published" of published protocols.
    table
        From a `Space` to float64 [K, N, M]: the score of every reconstruction were image j the seen one.
    higher_is_better
        Direction.
    chance
        Mean score of random pairs where it is known; those scores are tested against random pairings.
    """

    name: str
    title: str
    about: str
    function: Any  # callers know by `needs` that there is one
    needs: str
    shown: tuple[str, ...]
    table: Any = None
    higher_is_better: bool = True
    chance: float | None = None

    @property
    def arrow(self) -> str:
        """Which way is better: "↑" or "↓"."""
        return "↑" if self.higher_is_better else "↓"


def _identification(labels: str = "") -> dict:
    """Two-way identification among all images, or only among those of the same label."""

    def groups(space: Space) -> np.ndarray | None:
        return groups_of(getattr(space, labels)) if labels else None

    return {
        "function": lambda space: two_way(space.reconstructed, space.seen, groups(space), space.correlations),
        "table": lambda space: np.stack([identification(table, groups(space)) for table in space.correlations]),
        "chance": 0.5,
    }


_DISTANCE = {
    "function": lambda space: distance(space.reconstructed, space.seen),
    "table": lambda space: 1.0 - np.nan_to_num(space.correlations),
    "higher_is_better": False,
}
_COMPARED = {"two-way": _identification(), "distance": _DISTANCE}
_PUBLISHED = ("published",)

METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "pixcorr",
            "PixCorr",
            "correlation of pixels",
            pixcorr,
            "images",
            ("main", "published"),
            table=lambda space: np.nan_to_num(space.correlations),
        ),
        Metric("ssim", "SSIM", "of gray images, Gaussian window", ssim, "images", ("main", "published")),
        Metric(
            "two_way",
            "two-way",
            "share of other test images that resemble the reconstruction less than the seen image does, in the judge's"
            " image space",
            needs="features",
            shown=("main",),
            **_identification(),
        ),
        Metric(
            "two_way_hard",
            "two-way, hard",
            "only among images with the same kind of background",
            needs="background",
            shown=("main",),
            **_identification("background"),
        ),
        Metric("distance", "distance", "1 - correlation in that space", needs="features", shown=("main",), **_DISTANCE),
        Metric(
            "category",
            "category",
            "main object read off the image by zero-shot classification",
            lambda space: category(space.reconstructed, space.prompts, space.category),
            "category",
            ("main",),
            table=lambda space: category_table(space.reconstructed, space.prompts, space.category),
        ),
        Metric(
            "two_way_category",
            "two-way, same category",
            "only among images of the same category, so that knowing the category alone gives 0.5",
            needs="category",
            shown=("further",),
            **_identification("category"),
        ),
        Metric(
            "two_way_between",
            "two-way, other kinds",
            "only among images of other kinds, where a test set has several",
            None,
            "kinds",
            ("further",),
            chance=0.5,
        ),
        Metric(
            "retrieval_image",
            "image from brain",
            "share of images that are nearest to their reconstruction among {pool} (chance 1/{pool})",
            lambda space: space.retrieved[0],
            "features",
            ("further",),
        ),
        Metric(
            "retrieval_brain",
            "brain from image",
            "the other way round",
            lambda space: space.retrieved[1],
            "features",
            ("further",),
        ),
        Metric(
            "similarity",
            "similarity",
            "cosine in the judge's image space",
            lambda space: similarity(space.reconstructed, space.seen),
            "features",
            ("further",),
            table=lambda space: space.reconstructed.swapaxes(0, 1).astype(np.float64) @ space.seen.T.astype(np.float64),
        ),
        Metric("lpips", "LPIPS", "learned perceptual distance", None, "lpips", ("further",), higher_is_better=False),
        Metric(
            "ssim_columns",
            "SSIM, by column",
            "as scikit-image read the published call until 0.19",
            partial(ssim, reading="columns"),
            "images",
            _PUBLISHED,
        ),
        *(
            Metric(score, title, network.compared, needs=network.name, shown=_PUBLISHED, **_COMPARED[network.compared])
            for network in NETWORKS.values()
            for score, title in network.scores.values()
        ),
    )
}
"""All scores in the order of tables."""


def shown_in(table: str, among: Iterable[str] = METRICS) -> list[str]:
    """Names of the scores of a table ("main", "further" or "published") that are among some, in order."""
    among = set(among)
    return [name for name, metric in METRICS.items() if table in metric.shown and name in among]


def metric_title(name: str) -> str:
    """Title of a score; scores of other people's tables go by their name."""
    return METRICS[name].title if name in METRICS else name.replace("_", " ")
