"""What frozen and trained networks cost: weights kept in the precision they are used in, activations kept or not."""

import torch
from diffusers import ModelMixin
from torch import nn

# What autocast runs in the lower precision; norms are not among it.
_CAST = (nn.Linear, nn.Conv1d, nn.Conv2d)


def cast_once(module: nn.Module, dtype: torch.dtype) -> None:
    """Keep the weights of a frozen module's linear and convolution layers in autocast's precision.

    Autocast casts the weights of frozen layers in every forward pass (it remembers only those of trained ones). Casting
    them once beforehand gives the same numbers, with half the memory and without reading all weights again.

    Raises
    ------
    ValueError
        If a weight is trained: a trained weight must stay in float32.
    """
    trained = next((name for name, parameter in module.named_parameters() if parameter.requires_grad), None)
    if trained is not None:
        raise ValueError(
            f"cast_once: parameter {trained!r} is trained, and would lose its last digits; allowed: frozen modules, "
            "for example after module.requires_grad_(False)"
        )
    for part in module.modules():
        if isinstance(part, _CAST):
            part.to(dtype)


def recompute_activations(*modules: nn.Module) -> None:
    """Let all parts that can do so compute their activations again in the backward pass instead of keeping them."""
    for module in modules:
        for part in module.modules():
            if isinstance(part, ModelMixin) and part._supports_gradient_checkpointing:
                part.enable_gradient_checkpointing()
