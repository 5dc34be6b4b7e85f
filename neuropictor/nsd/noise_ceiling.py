"""NSD's noise-ceiling signal-to-noise ratio (ncsnr), computed from a subject's beta files.

Rule of ``main/export_noiseceiling.m`` and ``main/translatevmetric.m`` in github.com/cvnlab/nsddatapaper: z-score the
betas of each session over its trials; of the pictures with exactly three trials take the unbiased variance within each
picture; the noise variance is their mean, and ncsnr = sqrt(max(0, 1 - variance)) / sqrt(variance).
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from neuropictor.nsd.betas import read_session
from neuropictor.nsd.constants import REPEATS
from neuropictor.nsd.design import Design
from neuropictor.surface.atlas import mesh_vertices

# Pictures x vertices held at a time: 64 Mi float32 sums are 256 MiB.
_SUMS_AT_ONCE = 64 * 2**20


def compute_ncsnr(
    root: str | Path, design: Design, subject: int, beta_version: str, mesh: str
) -> dict[int | None, np.ndarray]:
    """Compute the ncsnr of every vertex, of all pictures and of their odd and even halves.

    Sums are kept per picture in float32 for a block of vertices at a time, so memory does not grow with the mesh or the
    number of trials.

    Parameters
    ----------
    root
        Folder in NSD's layout.
    design
        Its design.
    subject, beta_version, mesh
        Whose betas, of which version, on which mesh.

    Returns
    -------
    dict
        None, 1 and 2 (all pictures, odd ones, even ones) -> float32 [2 * mesh vertices], zero where nothing repeats and
        NaN where no picture has three valid trials.
    """
    trials = design.trials(subject)
    pictures, index = np.unique(trials["nsd_id"], return_inverse=True)
    complete = np.flatnonzero(np.bincount(index) == REPEATS)
    sessions = list(trials["session"].unique())
    rows = [index[trials["session"] == session] for session in sessions]
    n_vertices = 2 * mesh_vertices(mesh)
    width = max(1, _SUMS_AT_ONCE // len(pictures))
    result = {split: np.full(n_vertices, np.nan, np.float32) for split in (None, 1, 2)}
    for start in range(0, n_vertices, width):
        columns = np.arange(start, min(start + width, n_vertices))
        blocks = (read_session(root, subject, int(session), columns, beta_version, mesh) for session in sessions)
        variance = _within_picture_variance(blocks, rows, len(pictures), len(columns))[complete]
        for split, chosen in ((None, slice(None)), (1, slice(0, None, 2)), (2, slice(1, None, 2))):
            result[split][columns] = _ncsnr(variance[chosen])
    return result


def _within_picture_variance(
    blocks: Iterable[np.ndarray], rows: list[np.ndarray], n_pictures: int, n_columns: int
) -> np.ndarray:
    """Return each picture's unbiased variance, float32 [pictures, columns]; only meant for three trials."""
    sums = np.zeros((n_pictures, n_columns), np.float32)
    squares = np.zeros((n_pictures, n_columns), np.float32)
    for block, pictures in zip(blocks, rows, strict=True):
        scored = block - block.mean(axis=0)
        deviation = np.sqrt(np.einsum("tv,tv->v", scored, scored) / max(len(scored) - 1, 1))
        # A constant vertex carries nothing; NaN, as a vertex without data.
        scored /= np.where(deviation > 0, deviation, np.nan)
        # A picture may come twice in a session: add by rank of repetition, since fancy += would count it once.
        for repetition in _repetitions(pictures):
            sums[pictures[repetition]] += scored[repetition]
            squares[pictures[repetition]] += np.square(scored[repetition])
    squares -= np.square(sums) / REPEATS
    squares /= REPEATS - 1
    return squares


def _repetitions(pictures: np.ndarray) -> list[np.ndarray]:
    """Split trial numbers into groups in which no picture comes twice."""
    seen: dict[int, int] = {}
    groups: list[list[int]] = []
    for trial, picture in enumerate(pictures.tolist()):
        rank = seen.get(picture, 0)
        seen[picture] = rank + 1
        if rank == len(groups):
            groups.append([])
        groups[rank].append(trial)
    return [np.array(group) for group in groups]


def _ncsnr(variance: np.ndarray) -> np.ndarray:
    valid = np.isfinite(variance)
    count = valid.sum(axis=0)
    noise = np.where(valid, variance, 0).sum(axis=0) / np.where(count > 0, count, np.nan)
    with np.errstate(divide="ignore"):
        return (np.sqrt(np.maximum(0, 1 - noise)) / np.sqrt(noise)).astype(np.float32)
