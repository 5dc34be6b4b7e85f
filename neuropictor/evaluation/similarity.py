"""Correlation of feature vectors, and identification by it, in float64."""

from __future__ import annotations

import numpy as np


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Centre every row and scale it to length one in float64; a constant row becomes NaN."""
    rows = np.asarray(features, dtype=np.float64)
    rows = rows - rows.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(length > 1e-12 * np.sqrt(rows.shape[-1]), rows / length, np.nan)


def correlation_matrix(reconstructed: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Pearson correlation of every reconstruction with every seen picture.

    Parameters
    ----------
    reconstructed : array [N, E]
        Features of the reconstructions, unitless.
    seen : array [M, E]
        Features of the seen pictures.

    Returns
    -------
    array [N, M], float64
        NaN where a feature vector is constant or holds NaN.
    """
    rows, columns = unit_rows(reconstructed), unit_rows(seen)
    defined = np.outer(np.isfinite(rows).all(1), np.isfinite(columns).all(1))
    return np.where(defined, np.nan_to_num(rows) @ np.nan_to_num(columns).T, np.nan)


def identification(similarity: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
    """Identification score of every reconstruction as if each seen picture in turn were the right one.

    Parameters
    ----------
    similarity : array [N, M]
        Similarity of reconstruction n to seen picture m.
    allowed : bool array [M, M], optional
        `allowed[j, l]`: picture l may be a distractor of picture j. The diagonal is never used. Default: all.

    Returns
    -------
    float64 array [N, M]
        Entry (n, j): fraction of the distractors l of picture j with `similarity[n, l] < similarity[n, j]`; ties and
        NaN count as failures. NaN where picture j has no distractor.
    """
    pictures = similarity.shape[1]
    allowed = np.ones((pictures, pictures), bool) if allowed is None else allowed.astype(bool, copy=True)
    np.fill_diagonal(allowed, False)
    counts = allowed.sum(1).astype(np.float64)
    counts[counts == 0] = np.nan
    scores = np.empty(similarity.shape)
    for row, values in enumerate(similarity):
        lower = values[None, :] < values[:, None]
        scores[row] = (lower & allowed).sum(1)
    return scores / counts
