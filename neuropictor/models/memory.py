"""Memory of frozen and trained networks: activations kept or recomputed."""

from diffusers import ModelMixin
from torch import nn


def recompute_activations(*modules: nn.Module) -> None:
    """Make all parts that can recompute their activations in the backward pass instead of keeping them."""
    for module in modules:
        for part in module.modules():
            if isinstance(part, ModelMixin) and part._supports_gradient_checkpointing:
                part.enable_gradient_checkpointing()
