"""The context of the empty prompt as a part of the pipeline, so that sampling needs no text tower."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn


class NullContext(ModelMixin, ConfigMixin):
    """A constant: the text tower's output for the empty prompt, the unconditional branch of guidance.

    Parameters
    ----------
    context_length, context_width
        Size of the backbone's text context.
    """

    @register_to_config
    def __init__(self, context_length: int = 77, context_width: int = 1024):
        super().__init__()
        self.context = nn.Parameter(torch.zeros(1, context_length, context_width), requires_grad=False)

    @classmethod
    def of(cls, context: torch.Tensor) -> "NullContext":
        """Hold a context ``[1, L, D]``."""
        module = cls(*context.shape[1:])
        module.context.data = context.detach().clone()
        return module

    def forward(self) -> torch.Tensor:
        """Return the context ``[1, L, D]``."""
        return self.context
