"""Scores as published evaluations define them: PixCorr and SSIM, and what AlexNet, Inception, CLIP and others see.

Each network is loaded once, looks at the seen pictures once, and then at every model's; the next one follows.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Protocol as Protocol_

import numpy as np

from neuropictor.evaluation import measures
from neuropictor.evaluation.networks import load_network, pixel_pictures
from neuropictor.evaluation.protocols import DISTANCES, NETWORK_METRICS, Protocol
from neuropictor.evaluation.similarity import identification
from neuropictor.runlog import progress

if TYPE_CHECKING:
    import torch

    from neuropictor.evaluation.statistics import Pairings


class HasPictures(Protocol_):
    """Reconstructions in memory or in a file: `pictures` are uint8 [n, K, s, s, 3]."""

    pictures: np.ndarray


Drawn = Mapping[Hashable, tuple[HasPictures, np.ndarray]]
"""By model: reconstructions, and their rows among the seen pictures, int [n]."""


def score_published(
    seen: np.ndarray,
    drawn: Drawn,
    protocols: list[Protocol],
    folder: Path | None,
    device: torch.device,
    pairings: Pairings,
) -> tuple[dict, dict]:
    """Score all models by published protocols.

    Parameters
    ----------
    seen : uint8 array [N, S, S, 3]
    drawn : mapping
        By any name: the samples of each model, and which seen pictures they are of.
    protocols : list of Protocol
    folder : Path or None
        Weights, as `fetch_weights` leaves them; without, there are only PixCorr and SSIM.
    device : torch.device
    pairings : Pairings
        For the null distribution of each identification score.

    Returns
    -------
    scores : dict of dict of dict of float64 arrays [n]
        `scores[label][name][metric]`, averaged over samples.
    nulls : dict of dict of dict of float64 arrays [repetitions]
        The same for identification scores: means under random pairing.
    """
    scores = {protocol.label: {name: {} for name in drawn} for protocol in protocols}
    nulls = {protocol.label: {name: {} for name in drawn} for protocol in protocols}
    for protocol in protocols:
        for name, (stored, rows) in drawn.items():
            scores[protocol.label][name] |= pixel_scores(seen, stored.pictures, rows, protocol)
    judges = list(NETWORK_METRICS) if protocols and folder else []
    for network_name in progress(judges, "Judging by published networks", unit="network") if judges else ():
        network = load_network(network_name, folder, device)
        for protocol in protocols:
            known = network.features(seen, protocol)
            for name, (stored, rows) in drawn.items():
                pictures = stored.pictures
                found = [network.features(pictures[:, k], protocol) for k in range(pictures.shape[1])]
                for metric, values in known.items():
                    samples = [sample.pop(metric) for sample in found]
                    # One sample is the usual case, and long features are large: no copy of them.
                    features = samples[0][:, None] if len(samples) == 1 else np.stack(samples, axis=1)
                    own = values[rows] if len(rows) < len(seen) else values
                    if metric in DISTANCES:
                        scored = measures.distance(features, own)
                    else:
                        tables = measures.correlations(features, own)
                        scored = measures.two_way(features, own, None, tables)
                        null = pairings.null(np.stack([identification(table) for table in tables]), rows)
                        nulls[protocol.label][name][metric] = null
                    scores[protocol.label][name][metric] = scored.mean(1)
        del network
    return scores, nulls


def pixel_scores(seen: np.ndarray, pictures: np.ndarray, rows: np.ndarray, protocol: Protocol) -> dict[str, np.ndarray]:
    """PixCorr and both readings of SSIM at a protocol's size, float64 [n], averaged over samples."""
    kinds = {
        "pixcorr": measures.pixcorr,
        "ssim": measures.ssim,
        "ssim_columns": partial(measures.ssim, reading="columns"),
    }
    scores = {kind: np.zeros(len(rows)) for kind in kinds}
    samples = pictures.shape[1]
    for k in range(samples):
        pairs = zip(pixel_pictures(seen[rows], protocol), pixel_pictures(pictures[:, k], protocol), strict=True)
        for (block, right), (_, left) in pairs:
            for kind, measure in kinds.items():
                scores[kind][block] += measure(left[:, None], right)[:, 0] / samples
    return scores
