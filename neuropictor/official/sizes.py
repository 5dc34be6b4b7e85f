"""The sizes of the official networks, read off the shapes of their tensors.

What shapes do not tell is asked for (`Options`): head counts of attentions, and the latents' size where no hint mapper
shows it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch

from neuropictor.models.encoder import sincos_table

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Options:
    """What the shapes of a checkpoint do not tell; the defaults are the paper's.

    Attributes
    ----------
    heads
        Attention heads of the fMRI encoder, and of its decoder.
    head_width
        Width of an attention head in UNet, ControlNet and text tower.
    latent_size
        Side of the latents; only used where there is no hint mapper, whose shape tells it.
    """

    heads: int = 16
    head_width: int = 64
    latent_size: int = 64


def _count(shapes: Shapes, pattern: str) -> int:
    """Return how many different numbers fill the group of a pattern."""
    return len({match[1] for match in (re.match(pattern, name) for name in shapes) if match})


def unet_levels(shapes: Shapes) -> tuple[int, int]:
    """Return resolutions, and resnets a resolution in the encoder half, of a UNet or ControlNet."""
    found = (re.match(r"input_blocks\.(\d+)\.0\.op\.weight", name) for name in shapes)
    downs = sorted(int(match[1]) for match in found if match)
    if not downs:
        return 1, _count(shapes, r"input_blocks\.([1-9]\d*)\.") or 1
    return len(downs) + 1, downs[0] - 1


def vae_levels(shapes: Shapes) -> tuple[int, int]:
    """Return resolutions, and resnets a resolution in the encoder, of a VAE."""
    return _count(shapes, r"encoder\.down\.(\d+)\.") or 1, _count(shapes, r"encoder\.down\.0\.block\.(\d+)\.") or 1


def text_layers(shapes: Shapes) -> int:
    """Return the blocks of a text tower."""
    return _count(shapes, r"transformer\.resblocks\.(\d+)\.")


def unet_config(shapes: Shapes, latent_size: int, head_width: int) -> dict[str, Any]:
    """Return the arguments of diffusers' ``UNet2DConditionModel``; norms have 32 groups in the official code."""
    levels, layers = unet_levels(shapes)
    first = [1 + (layers + 1) * level for level in range(levels)]
    widths = [shapes[f"input_blocks.{block}.0.out_layers.3.weight"][0] for block in first]
    crossed = [f"input_blocks.{block}.1.proj_in.weight" in shapes for block in first]
    attention = next(name for name in shapes if name.endswith(".1.transformer_blocks.0.attn2.to_k.weight"))
    projection = next(name for name in shapes if name.endswith(".1.proj_in.weight"))
    return {
        "sample_size": latent_size,
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0] if "out.2.weight" in shapes else shapes["input_blocks.0.0.weight"][1],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if cross else "DownBlock2D" for cross in crossed],
        "up_block_types": ["CrossAttnUpBlock2D" if cross else "UpBlock2D" for cross in reversed(crossed)],
        "attention_head_dim": [max(1, width // head_width) for width in widths],  # the number of heads, for diffusers
        "cross_attention_dim": shapes[attention][1],
        "use_linear_projection": len(shapes[projection]) == 2,
    }


def vae_config(shapes: Shapes, latent_size: int) -> dict[str, Any]:
    """Return the arguments of diffusers' ``AutoencoderKL``, with Stable Diffusion's scale of latents."""
    levels, layers = vae_levels(shapes)
    return {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "block_out_channels": [shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)],
        "layers_per_block": layers,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "latent_channels": shapes["post_quant_conv.weight"][0],
        "sample_size": latent_size * 2 ** (levels - 1),
        "scaling_factor": 0.18215,
    }


def text_config(shapes: Shapes, head_width: int) -> dict[str, Any]:
    """Return the arguments of transformers' ``CLIPTextConfig``; the last two tokens begin and end a text, 0 pads."""
    vocabulary, width = shapes["token_embedding.weight"]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        "num_hidden_layers": text_layers(shapes),
        "num_attention_heads": max(1, width // head_width),
        "max_position_embeddings": shapes["positional_embedding"][0],
        "projection_dim": shapes["text_projection"][1],
        "hidden_act": "gelu",
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": 0,
    }


def encoder_config(shapes: Shapes, heads: int, table: torch.Tensor | None = None) -> dict[str, Any]:
    """Return the arguments of `FMRIEncoder`.

    Parameters
    ----------
    shapes
        Of the encoder's tensors.
    heads
        See `Options`.
    table
        The stored position table ``[1, 1 + patches, width]``, which tells the grid of patches and is compared with the
        one made here; None: the grid is square.
    """
    width, channels, patch, _ = shapes["patch_embed.proj.weight"]
    grid = _grid(shapes["pos_embed"][1] - 1, width, table)
    return {
        "image_size": grid[0] * patch if grid[0] == grid[1] else [side * patch for side in grid],
        "patch_size": patch,
        "in_channels": channels,
        "width": width,
        "depth": _count(shapes, r"blocks\.(\d+)\."),
        "heads": heads,
    }


def decoder_config(shapes: Shapes) -> dict[str, Any]:
    """Return what `FMRIAutoencoder` takes besides the encoder's arguments."""
    return {
        "decoder_width": shapes["mask_token"][2],
        "decoder_depth": _count(shapes, r"decoder_blocks\.(\d+)\."),
        "bottleneck": shapes["pred.weight"][0],
    }


def _grid(patches: int, width: int, table: torch.Tensor | None) -> tuple[int, int]:
    """Return rows and columns of patches, the square first."""
    sides = [rows for rows in range(1, patches + 1) if patches % rows == 0]
    for rows in sorted(sides, key=lambda rows: abs(rows - patches // rows)):
        grid = rows, patches // rows
        if table is None and rows == isqrt(patches):
            return grid
        if table is not None and torch.allclose(_table(width, grid), table.float(), atol=1e-3):
            return grid
    raise ValueError(
        f"pos_embed: {patches} positions that are no sine-cosine table of a grid of patches; allowed: the fixed table "
        "of the official encoder, for example of 16 x 16 patches"
    )


def _table(width: int, grid: tuple[int, int]) -> torch.Tensor:
    with torch.device("cpu"):  # networks are made on the meta device
        return sincos_table(width, *grid)
