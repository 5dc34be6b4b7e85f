"""Tokens from aligned components, the output of a subject's linear map, for the networks behind the encoder."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn


class AlignmentNetwork(ModelMixin, ConfigMixin):
    """Multilayer perceptron from components to tokens that stand beside the encoder's. Not in the paper.

    Parameters
    ----------
    n_components
        Components of a response, see `neuropictor.data.alignment`.
    n_tokens, width
        Tokens made, and their width, which is the encoder's.
    space
        Checksum of the shared space that the components lie in; those of another space differ in meaning.
    dropout
        Between the layers.
    """

    @register_to_config
    def __init__(self, n_components: int, n_tokens: int, width: int, space: str = "", dropout: float = 0.1):
        super().__init__()
        hidden = 4 * width
        self.layers = nn.Sequential(
            nn.Linear(n_components, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, n_tokens * width),
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, components: torch.Tensor) -> torch.Tensor:
        """Return tokens ``[B, n_tokens, width]`` of components ``[B, n_components]``."""
        tokens = self.layers(components).unflatten(1, (self.config["n_tokens"], self.config["width"]))
        return self.norm(tokens)
