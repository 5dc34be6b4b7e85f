"""Correlation of feature vectors, and identification by it.

Features of early layers are long (184,512 numbers an image for AlexNet's second layer), so products are taken in
blocks and in the features' own precision; close decisions are repeated in float64.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

_BLOCK = 16_384
"""Features multiplied at a time: 64 MB a side for 982 images in float32."""
_CLOSE = {np.dtype(np.float32): 4e-6, np.dtype(np.float64): 1e-12}
"""Correlations nearer to each other than this are compared again; the products' errors are 20 times smaller."""
_ROWS_AT_ONCE = 64


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Centre every row and scale it to length one in float64; a constant row becomes NaN."""
    rows = np.asarray(features, dtype=np.float64)
    rows = rows - rows.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(length > 1e-12 * np.sqrt(rows.shape[-1]), rows / length, np.nan)


def correlation_matrix(reconstructed: np.ndarray, seen: np.ndarray, precision: type = np.float64) -> np.ndarray:
    """Pearson correlation of every reconstruction [N, E] with every seen image [M, E], float64 [N, M].

    NaN where a feature vector is constant or holds NaN. `precision` is that of the products within a block of features,
    whose sums are float64; float32 is off by about 1e-7.
    """
    sides = [np.asarray(side) for side in (reconstructed, seen)]
    length = sides[0].shape[1]
    with np.errstate(invalid="ignore", over="ignore"):
        means = [side.mean(axis=1, dtype=np.float64, keepdims=True).astype(precision) for side in sides]
        squares = [np.zeros(len(side)) for side in sides]
        products = np.zeros((len(sides[0]), len(sides[1])))
        # Memory is taken once: blocks are large enough for its pages to cost as much as the sums.
        centred = [np.empty((len(side), min(_BLOCK, length)), precision) for side in sides]
        squared = np.empty((max(map(len, sides)), min(_BLOCK, length)), precision)
        for start in range(0, length, _BLOCK):
            width = min(_BLOCK, length - start)
            parts = [block[:, :width] for block in centred]
            for number, (side, mean, part) in enumerate(zip(sides, means, parts, strict=True)):
                np.subtract(side[:, start : start + width], mean, out=part)
                squares[number] += np.square(part, out=squared[: len(part), :width]).sum(1)
            products += parts[0] @ parts[1].T
    lengths = [np.sqrt(square) for square in squares]
    for values in lengths:
        values[~(values > 1e-12 * np.sqrt(length))] = np.nan
    return products / lengths[0][:, None] / lengths[1][None, :]


def identify(
    reconstructed: np.ndarray, seen: np.ndarray, groups: np.ndarray | None = None, similarity: np.ndarray | None = None
) -> np.ndarray:
    """Two-way identification of every reconstruction.

    Parameters
    ----------
    reconstructed
        [N, E]: features of one reconstruction per image.
    seen
        [N, E]: features of the seen images, in the same order.
    groups
        [N]: only images of the same group are distractors; default: all.
    similarity
        [N, N]: their `correlation_matrix`, where it is known already.

    Returns
    -------
    float64 array [N]
        Fraction of the distractors whose correlation with the reconstruction is strictly lower than the seen
        image's; ties and undefined correlations are failures. NaN where there is no distractor.

    Notes
    -----
    float32 features are multiplied in float32. Pairs that come closer than its errors are settled in float64 by sums
    of one fixed order, so that equal images tie exactly, as they would not in a matrix product.
    """
    precision = np.result_type(reconstructed, seen)
    precision = np.dtype(np.float32) if precision in (np.float16, np.float32) else np.dtype(np.float64)
    if similarity is None:
        similarity = correlation_matrix(reconstructed, seen, precision.type)
    matching = np.diagonal(similarity).copy()
    lower = similarity < matching[:, None]
    groups = np.zeros(len(seen), int) if groups is None else np.asarray(groups)
    allowed = (groups[:, None] == groups) & ~np.eye(len(seen), dtype=bool)
    with np.errstate(invalid="ignore"):
        close = allowed & (np.abs(similarity - matching[:, None]) <= _CLOSE[precision])
    for row in np.flatnonzero(close.any(1)):
        columns = np.flatnonzero(close[row])
        matching_exact = _exact(reconstructed[row], seen[row : row + 1])[0]
        for start in range(0, len(columns), _ROWS_AT_ONCE):
            part = columns[start : start + _ROWS_AT_ONCE]
            lower[row, part] = _exact(reconstructed[row], seen[part]) < matching_exact
    counts = allowed.sum(1).astype(np.float64)
    counts[counts == 0] = np.nan
    return (lower & allowed).sum(1) / counts


def _exact(row: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Correlation of one vector with several in float64, each by the same sequence of sums."""
    left = unit_rows(row)
    correlations = []
    for other in others:
        right = other.astype(np.float64)
        right -= right.mean()
        length = np.sqrt(np.sum(np.square(right)))
        correlations.append(np.sum(left * right) / length if length > 1e-12 * np.sqrt(len(right)) else np.nan)
    return np.array(correlations)


def identification(similarity: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """Identification score of every reconstruction as if each seen image in turn were the right one.

    Parameters
    ----------
    similarity
        [N, M]: similarity of reconstruction n to seen image m.
    groups
        [M]: only images of the same group are distractors of each other; default: all.

    Returns
    -------
    float64 array [N, M]
        Entry (n, j): fraction of the distractors l of image j with `similarity[n, l] < similarity[n, j]`; ties and
        NaN count as failures. NaN where image j has no distractor.
    """
    groups = np.zeros(similarity.shape[1], int) if groups is None else np.asarray(groups)
    scores = np.full(similarity.shape, np.nan)
    for group in np.unique(groups):
        columns = np.flatnonzero(groups == group)
        if len(columns) < 2:
            continue
        block = similarity[:, columns]
        defined = np.isfinite(block)
        # An undefined similarity never counts as lower; the least rank is the number of strictly lower ones.
        ranks = rankdata(np.where(defined, block, np.inf), method="min", axis=1) - 1
        scores[:, columns] = np.where(defined, ranks, 0) / (len(columns) - 1)
    return scores


def retrieve(
    reconstructed: np.ndarray, seen: np.ndarray, pool: int, repeats: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Top-1 retrieval among random pools, by cosine similarity.

    Parameters
    ----------
    reconstructed, seen
        [N, E]: features in the same order.
    pool
        Images in a pool; all of them, once, where there are no more.
    repeats, seed
        Number of random pools, and their seed.

    Returns
    -------
    image, brain : float64 arrays [N]
        Share of the pools with image n in which the reconstruction is most similar to its own seen image (the
        image is retrieved from the brain), and in which the seen image is most similar to its own reconstruction
        (the brain from the image). Ties and undefined similarities are failures; NaN where no pool had the image.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        sides = [np.asarray(side, np.float64) for side in (reconstructed, seen)]
        sides = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides]
        similarity = sides[0] @ sides[1].T
    similarity = np.where(np.isfinite(similarity), similarity, -np.inf)
    images = len(similarity)
    generator = np.random.default_rng(seed)
    one_pool = pool >= images
    hits, drawn = np.zeros((2, images)), np.zeros(images)
    for _ in range(1 if one_pool else repeats):
        chosen = np.arange(images) if one_pool else generator.choice(images, pool, replace=False)
        part = similarity[np.ix_(chosen, chosen)]
        matching = np.diagonal(part)
        others = np.where(np.eye(len(chosen), dtype=bool), -np.inf, part)
        drawn[chosen] += 1
        for row, axis in enumerate((1, 0)):
            hits[row, chosen] += matching > others.max(axis, initial=-np.inf)
    with np.errstate(invalid="ignore"):
        image, brain = hits / drawn
    return image, brain
