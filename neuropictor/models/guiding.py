"""The High-Level Guiding Network: fMRI tokens to the context that stands in the text prompt's place."""

from typing import Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

Variant = Literal["pretrain", "refine"]


def token_mapper(n_tokens: int, hidden: int, n_out: int) -> nn.Sequential:
    """Two linear maps over the token axis of ``[B, n_tokens, width]``, without activation between them."""
    return nn.Sequential(nn.Conv1d(n_tokens, hidden, kernel_size=1), nn.Conv1d(hidden, n_out, kernel_size=1))


class _Branch(nn.Module):
    """Map tokens ``[B, n_tokens, width]`` to ``[B, context_length, context_width]``: mix tokens, change width, norm."""

    def __init__(self, n_tokens: int, width: int, context_length: int, context_width: int, hidden: int):
        super().__init__()
        self.token_mapper = token_mapper(n_tokens, hidden, context_length)
        self.width_mapper = nn.Linear(width, context_width)
        self.norm = nn.LayerNorm(context_width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.norm(self.width_mapper(self.token_mapper(tokens)))


class GuidingNetwork(ModelMixin, ConfigMixin):
    """Context and semantic feature from fMRI tokens.

    The semantic feature (the text branch alone) is what the semantic loss pulls towards the text tower's output. In
    the ``refine`` variant an extra branch of the same shape is added to it through a zero-initialised convolution
    along the feature axis, so that weights of the ``pretrain`` variant keep their function.

    Parameters
    ----------
    n_tokens, width
        Tokens and token width of the encoder (257 and 1024 in the paper).
    context_length, context_width
        Size of the backbone's text context (77 and 1024 in the paper).
    hidden
        Tokens between the two token maps; default ``n_tokens // 2`` (128 in the paper).
    variant
        ``pretrain`` ignores the extra branch, ``refine`` adds it.
    """

    @register_to_config
    def __init__(
        self,
        n_tokens: int = 257,
        width: int = 1024,
        context_length: int = 77,
        context_width: int = 1024,
        hidden: int | None = None,
        variant: Variant = "refine",
    ):
        super().__init__()
        if variant not in ("pretrain", "refine"):
            raise ValueError(f"variant: {variant!r} is unknown; allowed: 'pretrain' or 'refine', for example 'refine'")
        hidden = hidden or max(1, n_tokens // 2)
        self.text = _Branch(n_tokens, width, context_length, context_width, hidden)
        self.extra = _Branch(n_tokens, width, context_length, context_width, hidden)
        self.extra_out = nn.Conv1d(context_length, context_length, kernel_size=3, padding=1)
        nn.init.zeros_(self.extra_out.weight)
        nn.init.zeros_(self.extra_out.get_parameter("bias"))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return context and semantic feature ``[B, context_length, context_width]`` of ``[B, n_tokens, width]``."""
        semantic = self.text(tokens)
        if self.config["variant"] == "pretrain":
            return semantic, semantic
        return semantic + self.extra_out(self.extra(tokens)), semantic
