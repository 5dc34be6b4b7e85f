"""Responses of which only K numbers are left."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from neuropictor.data.ridge import Decomposition

_NOTHING = 1e-9
"""Share of the largest variance below which a direction is rounding."""


class Bottleneck:
    """Lets K numbers pass from a response, the most telling ones: a control on what a decoder adds by itself.

    The numbers are the first K principal components of what is read of the training responses; K numbers made by a
    linear map keep no more of its variance. In a response's place comes what least squares predict of it from its
    numbers, so that nothing else reaches the networks, and what is read of it is what was read, cut to K components.
    The idea is that of BrainBits (Mayo et al., NeurIPS 2024), who train each bottleneck with its decoder; here the
    decoder stays as it is.

    Parameters
    ----------
    train
        float32 [n, V]: responses to training images.
    read
        From responses [m, V] to what a linear decoder reads of them, [m, D].
    most
        Largest K.

    Raises
    ------
    ValueError
        If what is read varies in fewer than `most` directions.
    """

    def __init__(self, train: np.ndarray, read: Callable[[np.ndarray], np.ndarray], most: int):
        decomposition = Decomposition.of(read(train))
        directions = int((decomposition.values > _NOTHING * decomposition.values[-1]).sum())
        if most > directions:
            raise ValueError(
                f"controls.bottleneck_components: {most}, but what is read of {len(train)} training responses varies in"
                f" {directions} directions; allowed: 1 to {directions}, for example bottleneck_components: [1]"
            )
        self.read, self.mean, self._read_mean = read, train.mean(0), decomposition.mean
        axes = decomposition.vectors[:, ::-1][:, :most]
        self._axes = decomposition.train.T @ axes if decomposition.dual else axes
        numbers = decomposition.train @ self._axes
        self._back = numbers.T @ (train - self.mean) / np.square(numbers).sum(0)[:, None]

    def cut(self, responses: np.ndarray, count: int) -> np.ndarray:
        """Return what `count` numbers tell of responses [m, V]: float32 [m, V], with 0 the mean training response."""
        numbers = (self.read(responses) - self._read_mean) @ self._axes[:, :count]
        return (self.mean + numbers @ self._back[:count]).astype(np.float32)
