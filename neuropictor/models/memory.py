"""What frozen and trained networks cost in memory: activations kept or not."""

from diffusers import ModelMixin
from torch import nn


def recompute_activations(*modules: nn.Module) -> None:
    """Let all parts that can do so compute their activations again in the backward pass instead of keeping them."""
    for module in modules:
        for part in module.modules():
            if isinstance(part, ModelMixin) and part._supports_gradient_checkpointing:
                part.enable_gradient_checkpointing()
