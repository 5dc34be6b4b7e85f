"""Responses drawn on the flat cortex, as the encoder takes them."""

import warnings

import numpy as np
import torch
from scipy import sparse
from torch import nn

from neuropictor.surface import load_geometry


class MapOperator(nn.Module):
    """Draw responses on the flat cortex.

    Parameters
    ----------
    operator
        Sparse ``[size * size, V]``, see ``Geometry.map_operator``.
    """

    matrix: torch.Tensor

    def __init__(self, operator: sparse.csr_array):
        super().__init__()
        operator = sparse.csr_array(operator)
        self.size = round(operator.shape[0] ** 0.5)
        self.n_vertices = operator.shape[1]
        parts = (operator.indptr.astype(np.int64), operator.indices.astype(np.int64), operator.data.astype(np.float32))
        rows, columns, values = map(torch.from_numpy, parts)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            matrix = torch.sparse_csr_tensor(rows, columns, values, operator.shape, check_invariants=True)
        self.register_buffer("matrix", matrix, persistent=False)

    @classmethod
    def shipped(cls, image_size: int) -> "MapOperator":
        """Return the operator of the shipped geometry for maps of ``image_size`` pixels a side."""
        return cls(load_geometry().map_operator(image_size))

    def forward(self, responses: torch.Tensor) -> torch.Tensor:
        """Return maps ``[B, 1, size, size]`` of responses ``[B, V]``."""
        if responses.ndim != 2 or responses.shape[1] != self.n_vertices:
            raise ValueError(
                f"responses: shape {tuple(responses.shape)} does not fit; allowed: (batch, {self.n_vertices})"
            )
        with torch.autocast(responses.device.type, enabled=False):  # sparse products exist in float32 only
            maps = (self.matrix @ responses.T.float()).T
        return maps.reshape(-1, 1, self.size, self.size)
