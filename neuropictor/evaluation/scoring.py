"""All scores of all models in one pass: every image is read once, and every network that judges is loaded once.

Images are read, compared and forgotten in blocks of `judges.IMAGES_AT_ONCE`; what grows with their number are features:
for 982 images the longest, AlexNet's second layer, take 0.7 GB, once for the seen images and once for those scored.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuropictor.data.stimuli import resize_pictures
from neuropictor.evaluation import measures
from neuropictor.evaluation.judges import Images, Judge, blocks, look
from neuropictor.evaluation.networks import common_images, pixel_images
from neuropictor.evaluation.protocols import DISTANCES, NETWORK_METRICS, OURS, Protocol
from neuropictor.evaluation.similarity import identification
from neuropictor.evaluation.statistics import derangements

if TYPE_CHECKING:
    import torch

    from neuropictor.evaluation.networks import Network, PerceptualDistance
    from neuropictor.evaluation.statistics import Pairings

ByMetric = dict[str, dict[str, np.ndarray]]
"""By label of the protocol and metric: float64 [n], or [repetitions] of a null distribution."""

NULL_PAIRINGS = 4
"""Wrong pairings that the null averages over: fewer would leave its own chance in it, more take time."""

PIXEL_MEASURES = {
    "pixcorr": measures.pixcorr,
    "ssim": measures.ssim,
    "ssim_columns": partial(measures.ssim, reading="columns"),
}
_OUR_PIXELS = ("pixcorr", "ssim")


class Scorer:
    """Scores images against the seen ones by the protocol `ours`, and by published ones.

    Parameters
    ----------
    judge : Judge
        Of the N seen images.
    protocols : list of Protocol
        Published ones.
    weights : Path or None
        Folder of `fetch_weights`; without it there is no LPIPS, and of published protocols only PixCorr and SSIM.
    device : torch.device
    """

    def __init__(self, judge: Judge, protocols: list[Protocol], weights: Path | None, device: torch.device):
        self.judge, self.protocols, self.device = judge, protocols, device
        self.perceptual: PerceptualDistance | None = None
        self.networks: list[Network] = []
        if weights is not None:
            from neuropictor.evaluation.networks import PerceptualDistance, load_network

            self.perceptual = PerceptualDistance(weights, device)
            self.networks = [load_network(name, weights, device) for name in NETWORK_METRICS] if protocols else []
        self._known: dict[str, dict[str, np.ndarray]] = {protocol.label: {} for protocol in protocols}
        for rows in blocks(len(judge.seen)) if self.networks else ():
            seen = judge.seen.read(rows)
            for protocol in protocols:
                self._see(self._common(seen, protocol), protocol, self._known, rows, len(judge.seen))

    def score(
        self, images: Images, rows: np.ndarray, pairings: Pairings | None = None
    ) -> tuple[ByMetric, ByMetric, np.ndarray]:
        """Score images.

        Parameters
        ----------
        images : Images
            K samples of each of n images.
        rows : int array [n]
            Rows of the seen images that they are of.
        pairings : Pairings, optional
            Of the null distributions; None for none.

        Returns
        -------
        scores : dict of dict of float64 arrays [n]
            By label of the protocol and metric, averaged over samples.
        nulls : dict of dict of float64 arrays [repetitions]
            The same for identification scores: means under random pairing.
        features : float32 array [n, K, E]
            In the judge's space.
        """
        scores: ByMetric = {OURS: {}, **{label: {} for label in self._known}}
        nulls: ByMetric = {label: {} for label in scores}
        tables: dict[tuple[str, str], list[np.ndarray]] = {}
        described = []
        for sample in range(images.samples):
            pixels, features = self._pass(images, sample, rows)
            described.append(features.pop(OURS)[OURS])
            for label, by_metric in pixels.items():
                for metric, values in by_metric.items():
                    scores[label][metric] = scores[label].get(metric, 0.0) + values / images.samples
            for label, by_metric in features.items():
                for metric, values in by_metric.items():
                    value, table = self._compare(metric, values, self._known[label][metric], rows)
                    scores[label][metric] = scores[label].get(metric, 0.0) + value / images.samples
                    if table is not None:
                        tables.setdefault((label, metric), []).append(table)
        features = np.stack(described, axis=1)
        scores[OURS] |= self.judge.score(features, rows)
        if pairings is not None:
            for metric, table in self.judge.tables(features, rows).items():
                nulls[OURS][metric] = pairings.null(table, rows)
            for (label, metric), parts in tables.items():
                nulls[label][metric] = pairings.null(np.stack(parts), rows)
        return scores, nulls, features

    def wrong_pairs(self, images: Images, rows: np.ndarray, features: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """Score the first sample of images as if they were of other seen images, by `ours`: float64 [n] by metric.

        Parameters
        ----------
        images, rows, features
            As given to `score` and returned by it.
        seed : int
            Of the wrong pairs.
        """
        wrong = derangements(len(rows), NULL_PAIRINGS, seed)
        scores = {metric: np.empty(len(rows)) for metric in _OUR_PIXELS}
        for part in blocks(len(rows)):
            seen = self.judge.seen.read(rows[part])
            made = [resize_pictures(images.read(order[part]), self.judge.size) for order in wrong]
            for metric in _OUR_PIXELS:
                scores[metric][part] = PIXEL_MEASURES[metric](np.stack(made, axis=1), seen).mean(1)
        return scores | self.judge.score(features[:, 0][wrong].swapaxes(0, 1), rows)

    def _pass(self, images: Images, sample: int, rows: np.ndarray) -> tuple[ByMetric, dict[str, dict]]:
        """Look through one sample of all images; return what is scored pixel by pixel, and features."""
        count, judge = len(images), self.judge
        pixels: ByMetric = {OURS: {metric: np.empty(count) for metric in _OUR_PIXELS}}
        pixels |= {label: {metric: np.empty(count) for metric in PIXEL_MEASURES} for label in self._known}
        features: dict[str, dict] = {OURS: {}, **({label: {} for label in self._known} if self.networks else {})}
        if self.perceptual is not None:
            pixels[OURS]["lpips"] = np.empty(count)
        for part in blocks(count):
            made, seen = images.read(part, sample), judge.seen.read(rows[part])
            _put(features[OURS], OURS, look(judge.describer, made), part, count)
            sized = resize_pictures(made, judge.size)
            for metric in _OUR_PIXELS:
                pixels[OURS][metric][part] = PIXEL_MEASURES[metric](sized[:, None], seen)[:, 0]
            if self.perceptual is not None:
                pixels[OURS]["lpips"][part] = self.perceptual(sized, seen)
            for protocol in self.protocols:
                left, right = self._common(made, protocol), self._common(seen, protocol)
                pair = [pixel_images(side, protocol) for side in (left, right)]
                for metric, measure in PIXEL_MEASURES.items():
                    pixels[protocol.label][metric][part] = measure(pair[0][:, None], pair[1])[:, 0]
                self._see(left, protocol, features, part, count)
        return pixels, features

    def _common(self, images: np.ndarray, protocol: Protocol) -> torch.Tensor:
        return common_images(images, protocol, self.device)

    def _see(self, common: torch.Tensor, protocol: Protocol, features: dict, part: np.ndarray, count: int) -> None:
        """Keep what the published networks see in a block of images."""
        for network in self.networks:
            for metric, values in network.features(common, protocol).items():
                _put(features[protocol.label], metric, values, part, count)

    @staticmethod
    def _compare(
        metric: str, features: np.ndarray, known: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return scores [n] by one published network and, for identification, the table of all pairs [n, n]."""
        known = known if len(rows) == len(known) else known[rows]
        features = features[:, None]
        if metric in DISTANCES:
            return measures.distance(features, known)[:, 0], None
        table = measures.correlations(features, known)
        return measures.two_way(features, known, None, table)[:, 0], identification(table[0])


def _put(features: dict[str, np.ndarray], metric: str, values: np.ndarray, part: np.ndarray, count: int) -> None:
    """Put the features of a block into those of all images, which are made with the first block."""
    if metric not in features:
        features[metric] = np.empty((count, values.shape[1]), np.float32)
    features[metric][part] = values
