"""The networks of an official checkpoint: their sizes, read off its tensors, and its tensors under their names here.

UNet, ControlNet, VAE and text tower are renamed by diffusers' own converters; the project's own networks by `NAMES`,
facts read off the official code (jingyanghuo/neuropictor @ 5e1584a).
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from diffusers.loaders import single_file_utils as diffusers_names
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from neuropictor.models.encoder import FMRIAutoencoder, FMRIEncoder, sincos_table
from neuropictor.models.guiding import GuidingNetwork
from neuropictor.models.manipulation import ManipulationNetwork, plain_config

log = logging.getLogger(__name__)

#: Size of the vocabulary of OpenAI's CLIP, which OpenCLIP's towers share.
CLIP_VOCABULARY = 49408
#: Prefixes of the official names of this project's networks, and those used here.
NAMES = {
    "guiding": {
        "channel_mapper.": "text.token_mapper.",
        "dim_mapper.": "text.width_mapper.",
        "norm.": "text.norm.",
        "extra_clip.0.": "extra.token_mapper.0.",
        "extra_clip.1.": "extra.token_mapper.1.",
        "extra_clip.2.": "extra.width_mapper.",
        "extra_clip.3.": "extra.norm.",
        "extra_clip_out.": "extra_out.",
    },
    "manipulation": {
        "fmri_mapper.channel_mapper.": "hint_mapper.token_mapper.",
        "fmri_mapper.dim_mapper.0.": "hint_mapper.position_mapper.",
        "fmri_mapper.out.": "hint_mapper.out.",
    },
    "encoder": {"": ""},
    "autoencoder": {
        "pred.": "bottleneck_embed.",
        **{name: name for name in ("mask_token", "decoder_")},
        "": "encoder.",
    },
}
Tensors = Mapping[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Options:
    """Sizes that a checkpoint's shapes do not tell; the defaults are the paper's.

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


def convert(part: str, tensors: Tensors, network: nn.Module) -> dict[str, Tensor]:
    """Return a part's tensors under their names here, by diffusers' converters and `NAMES`.

    Parameters
    ----------
    part
        unet, vae, text, manipulation, guiding, encoder or autoencoder.
    tensors
        By official names, without the part's prefix.
    network
        The part's network, whose configuration tells the number of blocks.

    Raises
    ------
    KeyError
        If a tensor is missing that is needed to name the others.
    """
    if part == "unet":
        prefixed = {f"{diffusers_names.LDM_UNET_KEY}{name}": value for name, value in tensors.items()}
        converted = diffusers_names.convert_ldm_unet_checkpoint(prefixed, network.config)
    elif part == "vae":
        converted = diffusers_names.convert_ldm_vae_checkpoint(dict(tensors), network.config)
    elif part == "text":  # under the usual prefix, diffusers would drop the last block, which is used here
        converted = diffusers_names.convert_open_clip_checkpoint(network, tensors, prefix="")
    else:
        converted = {}
        if part == "manipulation":
            config = network.get_submodule("control").config
            control = diffusers_names.convert_controlnet_checkpoint(dict(tensors), config)
            converted = {f"control.{name}": value for name, value in control.items()}
        for name, value in tensors.items():
            for official, ours in NAMES[part].items():
                if name.startswith(official):
                    converted[ours + name.removeprefix(official)] = value
                    break
    return {name: value for name, value in converted.items() if value is not None}


def make(tensors: Mapping[str, Tensors], options: Options) -> dict[str, nn.Module]:
    """Make the networks on the meta device.

    Parameters
    ----------
    tensors
        For each part its tensors, by names without the part's prefix; only shapes are used, and ``pos_embed``.
    options
        Sizes that shapes do not tell.

    Raises
    ------
    KeyError
        If a tensor that tells a size is missing.
    """
    shapes = {part: {name: tuple(value.shape) for name, value in named.items()} for part, named in tensors.items()}
    side = options.latent_size
    if "manipulation" in shapes:
        side = isqrt(shapes["manipulation"]["fmri_mapper.dim_mapper.0.weight"][0])
    builders: dict[str, Callable[[Shapes], nn.Module]] = {
        "unet": lambda shapes: UNet2DConditionModel(**_unet_config(shapes, side, options.head_width)),
        "vae": lambda shapes: AutoencoderKL(**_vae_config(shapes, side)),
        "text": lambda shapes: CLIPTextModelWithProjection(_text_config(shapes, options.head_width)),
        "manipulation": lambda shapes: _manipulation(shapes, side, options.head_width),
        "guiding": _guiding,
        "encoder": lambda shapes: FMRIEncoder(
            **_encoder_config(shapes, options.heads, tensors["encoder"].get("pos_embed"))
        ),
        "autoencoder": lambda shapes: FMRIAutoencoder(
            **_encoder_config(shapes, options.heads, tensors["autoencoder"].get("pos_embed")),
            decoder_width=shapes["mask_token"][2],
            decoder_depth=_count(shapes, r"decoder_blocks\.(\d+)\."),
            bottleneck=shapes["pred.weight"][0],
        ),
    }
    with torch.device("meta"):
        return {part: builders[part](sizes) for part, sizes in shapes.items()}


def _count(shapes: Shapes, pattern: str) -> int:
    """Return how many different numbers match the group of a pattern."""
    return len({match[1] for match in (re.match(pattern, name) for name in shapes) if match})


def _unet_config(shapes: Shapes, latent_size: int, head_width: int) -> dict[str, Any]:
    """Return the arguments of `UNet2DConditionModel`, of a UNet or the half of one that a ControlNet copies."""
    levels = 1 + _count(shapes, r"input_blocks\.(\d+)\.0\.op\.weight")
    layers = (_count(shapes, r"input_blocks\.(\d+)\.") - levels) // levels
    first = [1 + (layers + 1) * level for level in range(levels)]
    widths = [shapes[f"input_blocks.{block}.0.out_layers.3.weight"][0] for block in first]
    crossed = [f"input_blocks.{block}.1.proj_in.weight" in shapes for block in first]
    attention = f"input_blocks.{next((block for block, cross in zip(first, crossed, strict=True) if cross), 1)}.1"
    channels = shapes["input_blocks.0.0.weight"][1]
    return {
        "sample_size": latent_size,
        "in_channels": channels,
        "out_channels": shapes.get("out.2.weight", (channels,))[0],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if cross else "DownBlock2D" for cross in crossed],
        "up_block_types": ["CrossAttnUpBlock2D" if cross else "UpBlock2D" for cross in reversed(crossed)],
        "attention_head_dim": [max(1, width // head_width) for width in widths],  # the number of heads, for diffusers
        "cross_attention_dim": shapes[f"{attention}.transformer_blocks.0.attn2.to_k.weight"][1],
        "use_linear_projection": len(shapes[f"{attention}.proj_in.weight"]) == 2,
    }


def _vae_config(shapes: Shapes, latent_size: int) -> dict[str, Any]:
    """Return the arguments of `AutoencoderKL`, with Stable Diffusion's scale of latents."""
    levels = _count(shapes, r"encoder\.down\.(\d+)\.")
    return {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "block_out_channels": [shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)],
        "layers_per_block": _count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "latent_channels": shapes["post_quant_conv.weight"][0],
        "sample_size": latent_size * 2 ** (levels - 1),
        "scaling_factor": 0.18215,
    }


def _text_config(shapes: Shapes, head_width: int) -> CLIPTextConfig:
    """Return the text tower's configuration; the last two tokens begin and end a text, 0 pads."""
    vocabulary, width = shapes["token_embedding.weight"]
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        num_hidden_layers=_count(shapes, r"transformer\.resblocks\.(\d+)\."),
        num_attention_heads=max(1, width // head_width),
        max_position_embeddings=shapes["positional_embedding"][0],
        projection_dim=shapes["text_projection"][1],
        hidden_act="gelu",
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=0,
    )


def _guiding(shapes: Shapes) -> GuidingNetwork:
    """Make the guiding network; pretrained weights have a zero last layer in the extra branch, so it may be on."""
    hidden, n_tokens, _ = shapes["channel_mapper.0.weight"]
    context_width, width = shapes["dim_mapper.weight"]
    return GuidingNetwork(n_tokens, width, shapes["channel_mapper.1.weight"][0], context_width, hidden, "refine")


def _manipulation(shapes: Shapes, latent_size: int, head_width: int) -> ManipulationNetwork:
    hidden, n_tokens, _ = shapes["fmri_mapper.channel_mapper.0.weight"]
    width = shapes["fmri_mapper.dim_mapper.0.weight"][1]
    unet = UNet2DConditionModel(**_unet_config(shapes, latent_size, head_width))
    control = plain_config(ControlNetModel.from_unet(unet, load_weights_from_unet=False))
    return ManipulationNetwork(n_tokens, width, [latent_size, latent_size], control, hidden)


def _encoder_config(shapes: Shapes, heads: int, table: Tensor | None) -> dict[str, Any]:
    """Return the arguments of `FMRIEncoder`.

    The stored position table tells the grid of patches, and is compared with the one built here; without values (meta)
    the grid is taken to be square.
    """
    width, channels, patch, _ = shapes["patch_embed.proj.weight"]
    patches = shapes["pos_embed"][1] - 1
    grids = [(rows, patches // rows) for rows in range(1, patches + 1) if patches % rows == 0]
    if table is None or table.is_meta:
        grids = [(isqrt(patches), isqrt(patches))]
    else:
        with torch.device("cpu"):  # networks are made on the meta device
            grids = [grid for grid in grids if torch.allclose(sincos_table(width, *grid), table.float(), atol=1e-3)]
    if not grids:
        raise ValueError(
            f"pos_embed: {patches} positions that are no sine-cosine table of a grid of patches; allowed: the fixed "
            "table of the official encoder, for example of 16 x 16 patches"
        )
    rows, columns = grids[0]
    return {
        "image_size": rows * patch if rows == columns else [rows * patch, columns * patch],
        "patch_size": patch,
        "in_channels": channels,
        "width": width,
        "depth": _count(shapes, r"blocks\.(\d+)\."),
        "heads": heads,
    }


def scheduler() -> DDIMScheduler:
    """Return the official sampler: leading steps with an offset of one, and the first alpha behind the last step."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
        prediction_type="epsilon",
    )


def without_last_block(tower: CLIPTextModelWithProjection) -> CLIPTextModelWithProjection:
    """Return a text tower of the same weights that lacks the last block but keeps the norm behind it."""
    config: dict[str, Any] = tower.config.to_dict() | {"num_hidden_layers": tower.config.num_hidden_layers - 1}
    with torch.device("meta"):
        short = CLIPTextModelWithProjection(CLIPTextConfig(**config))
    kept = short.state_dict().keys()
    short.load_state_dict({name: value for name, value in tower.state_dict().items() if name in kept}, assign=True)
    _fill_buffers(short)
    return short.eval()


def _fill_buffers(tower: CLIPTextModelWithProjection) -> None:
    """Make the position numbers, which no checkpoint holds and the meta device cannot make."""
    for module in tower.modules():
        numbers = getattr(module, "position_ids", None)
        if numbers is not None:
            module.position_ids = torch.arange(numbers.shape[-1])[None]


@torch.no_grad()
def null_context(tower: CLIPTextModelWithProjection) -> Tensor:
    """Return the context ``[1, L, D]`` of the empty prompt: all blocks but the last, then the final norm."""
    config = tower.config
    tokens = torch.zeros(1, config.max_position_embeddings, dtype=torch.long)
    tokens[0, :2] = torch.tensor([config.bos_token_id, config.eos_token_id])
    return without_last_block(tower)(input_ids=tokens).last_hidden_state


def write_text_towers(tower: CLIPTextModelWithProjection, out: Path) -> None:
    """Write ``text_encoder/`` (all blocks but the last), ``target_text_encoder/`` (all), and CLIP's ``tokenizer/``."""
    without_last_block(tower).save_pretrained(out / "text_encoder")
    tower.save_pretrained(out / "target_text_encoder")
    if tower.config.vocab_size != CLIP_VOCABULARY:
        log.warning("the text tower's vocabulary of %d is not CLIP's: no tokenizer written", tower.config.vocab_size)
        return
    write_clip_tokenizer(out / "tokenizer", tower.config.max_position_embeddings)


def write_clip_tokenizer(folder: Path, length: int) -> None:
    """Write CLIP's tokenizer as Stable Diffusion 2 has it, from OpenCLIP's vocabulary.

    It pads with token 0, which is ``!``; so, as there, an exclamation mark in a text becomes token 0 and not 256.
    """
    from open_clip.tokenizer import SimpleTokenizer

    source = SimpleTokenizer()
    special = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    folder.mkdir(parents=True)
    vocabulary = {special.get(word, word): number for word, number in source.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in source.bpe_ranks)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(folder, pad_token="!", model_max_length=length)
    tokenizer.save_pretrained(folder)
