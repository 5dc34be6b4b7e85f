"""Ridge regression of many targets on responses, in closed form, with penalties chosen on validation images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

MOST_AMPLIFICATION = 10.0
"""Largest factor of `Ridge.spread_ratio`: dimensions that responses do not predict at all stay near their mean."""

_TARGETS_AT_ONCE = 4096
"""Targets computed with at a time in float64: 0.3 GB for 9,000 training images, whatever the number of targets."""


@dataclass
class Decomposition:
    """Eigen decomposition of the smaller Gram matrix of the training responses, shared by all targets and penalties.

    With centred training responses X [n, V], predictions at responses x are `features(x) / (values + alpha) @ targets`,
    where `values` are the eigenvalues of X X' (n <= V) or X' X (n > V).
    """

    mean: np.ndarray
    train: np.ndarray
    values: np.ndarray
    vectors: np.ndarray
    dual: bool

    @classmethod
    def of(cls, responses: np.ndarray) -> Decomposition:
        """Decompose training responses [n, V]."""
        mean = responses.mean(0, dtype=np.float64)
        train = responses.astype(np.float64) - mean
        dual = len(train) <= train.shape[1]
        values, vectors = np.linalg.eigh(train @ train.T if dual else train.T @ train)
        return cls(mean, train, np.maximum(values, 0), vectors, dual)

    def features(self, responses: np.ndarray) -> np.ndarray:
        """Project responses [m, V] on the eigenvectors, [m, min(n, V)]."""
        centred = responses.astype(np.float64) - self.mean
        return (centred @ self.train.T if self.dual else centred) @ self.vectors

    def project(self, targets: np.ndarray) -> np.ndarray:
        """Project centred training targets [n, D] on the eigenvectors, [min(n, V), D]."""
        return self.vectors.T @ (targets if self.dual else self.train.T @ targets)


@dataclass
class Ridge:
    """A fitted regression.

    Attributes
    ----------
    penalty
        float64 [D]: chosen penalty of each target.
    spread_ratio
        float64 [D]: standard deviation of the training targets over that of the predictions for validation images:
        ridge shrinks predictions towards the mean, and Brain-Diffuser (Ozcelik & VanRullen 2023) undoes this per
        dimension.
    """

    decomposition: Decomposition
    projected: np.ndarray
    target_mean: np.ndarray
    penalty: np.ndarray
    spread_ratio: np.ndarray

    @classmethod
    def fit(
        cls,
        decomposition: Decomposition,
        targets: np.ndarray,
        validation_responses: np.ndarray,
        validation_targets: np.ndarray,
        groups: np.ndarray,
        alphas: Sequence[float],
    ) -> Ridge:
        """Fit all penalties and keep, for each group of targets, the one with the least validation error.

        Parameters
        ----------
        decomposition
            Of the n training responses.
        targets
            [n, D].
        validation_responses
            [m, V].
        validation_targets
            [m, D].
        groups
            int [D]: group of each target; a group shares one penalty (summed squared error on the validation images
            decides).
        alphas
            Penalties to choose among.
        """
        size = targets.shape[1]
        target_mean, spread = np.empty(size), np.empty(size)
        projected = np.empty((len(decomposition.values), size), np.result_type(targets.dtype, np.float32))
        features = decomposition.features(validation_responses)
        errors, spreads = np.zeros((2, len(alphas), size))
        for part in _parts(size):
            block = targets[:, part].astype(np.float64)
            target_mean[part], spread[part] = block.mean(0), block.std(0)
            projected[:, part] = decomposition.project(block - target_mean[part])
            for row, alpha in enumerate(alphas):
                predicted = features / (decomposition.values + alpha) @ projected[:, part]
                spreads[row, part] = predicted.std(0)
                errors[row, part] = np.square(predicted + target_mean[part] - validation_targets[:, part]).sum(0)
        by_group = np.stack([np.bincount(groups, row) for row in errors])
        best = by_group.argmin(0)[groups]
        predicted_spread = spreads[best, np.arange(size)]
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(predicted_spread > 0, spread / predicted_spread, 1.0)
        penalty = np.asarray(alphas, np.float64)[best]
        return cls(decomposition, projected, target_mean, penalty, np.clip(ratio, 1.0, MOST_AMPLIFICATION))

    def predict(self, responses: np.ndarray, rescale: float = 0.0) -> np.ndarray:
        """Predict targets.

        Parameters
        ----------
        responses
            [m, V].
        rescale
            0: as regression gives them; 1: deviations from the mean rescaled to the training targets' spread; between:
            in between (the ratio to this power).

        Returns
        -------
        float64 array [m, D]
        """
        features = self.decomposition.features(responses)
        predicted = np.empty((len(features), len(self.target_mean)))
        for alpha in np.unique(self.penalty):
            shrunk = features / (self.decomposition.values + alpha)
            for part in _parts(len(self.penalty)):
                chosen = np.flatnonzero(self.penalty[part] == alpha) + part.start
                if len(chosen):
                    predicted[:, chosen] = shrunk @ self.projected[:, chosen]
        predicted *= self.spread_ratio**rescale
        predicted += self.target_mean
        return predicted

    def weights(self, factor: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Return the regression as weights [V, D] and offsets [D], float64: `predict(x)` is `x @ weights + offsets`.

        With a `factor`, the penalties are this many times those that were chosen.
        """
        decomposition = self.decomposition
        scaled = np.empty(self.projected.shape)
        for alpha in np.unique(self.penalty):
            chosen = self.penalty == alpha
            scaled[:, chosen] = self.projected[:, chosen] / (decomposition.values + factor * alpha)[:, None]
        weights = decomposition.vectors @ scaled
        if decomposition.dual:
            weights = decomposition.train.T @ weights
        return weights, self.target_mean - decomposition.mean @ weights


def _parts(size: int) -> Iterator[slice]:
    """Cut a number of targets into parts of `_TARGETS_AT_ONCE`."""
    for start in range(0, size, _TARGETS_AT_ONCE):
        yield slice(start, min(start + _TARGETS_AT_ONCE, size))
