"""How the official checkpoints name tensors, and what they are called here.

Facts read off the key lists of the official code (jingyanghuo/neuropictor @ 5e1584a, and the Stable Diffusion,
ControlNet and OpenCLIP code that it stands on). A table is a list of pairs (official module, own module); a tensor's
name is its module's plus ``.weight`` or ``.bias``, so one table serves both directions.
"""

import re
from collections.abc import Iterable

Pairs = list[tuple[str, str]]

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_VAE_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "nin_shortcut": "conv_shortcut",
}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_TEXT_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
#: Joint projection of queries, keys and values in OpenCLIP: one tensor there, three here.
JOINT = {"attn.in_proj_weight": "weight", "attn.in_proj_bias": "bias"}
PROJECTIONS = ("q_proj", "k_proj", "v_proj")

GUIDING: Pairs = [
    ("channel_mapper", "text.token_mapper"),
    ("dim_mapper", "text.width_mapper"),
    ("norm", "text.norm"),
    ("extra_clip.0", "extra.token_mapper.0"),
    ("extra_clip.1", "extra.token_mapper.1"),
    ("extra_clip.2", "extra.width_mapper"),
    ("extra_clip.3", "extra.norm"),
    ("extra_clip_out", "extra_out"),
]
HINT: Pairs = [
    ("fmri_mapper.channel_mapper", "hint_mapper.token_mapper"),
    ("fmri_mapper.dim_mapper.0", "hint_mapper.position_mapper"),
    ("fmri_mapper.out", "hint_mapper.out"),
]
ENCODER: Pairs = [(name, name) for name in ("cls_token", "patch_embed.proj", "blocks", "norm")]
AUTOENCODER: Pairs = [
    *((name, f"encoder.{name}") for name, _ in ENCODER),
    ("pred", "bottleneck_embed"),
    *((name, name) for name in ("mask_token", "decoder_embed", "decoder_blocks", "decoder_norm", "decoder_pred")),
]


def _inner(official: str, own: str, names: dict[str, str]) -> Pairs:
    return [(f"{official}.{theirs}", f"{own}.{ours}") for theirs, ours in names.items()]


def _encoder_half(levels: int, layers: int) -> Pairs:
    """Name the half that UNet and ControlNet share: `levels` resolutions with `layers` resnets each."""
    pairs = [("time_embed.0", "time_embedding.linear_1"), ("time_embed.2", "time_embedding.linear_2")]
    pairs.append(("input_blocks.0.0", "conv_in"))
    for level in range(levels):
        for layer in range(layers):
            block = f"input_blocks.{1 + (layers + 1) * level + layer}"
            pairs += _inner(f"{block}.0", f"down_blocks.{level}.resnets.{layer}", _RESNET)
            pairs.append((f"{block}.1", f"down_blocks.{level}.attentions.{layer}"))
        pairs.append((f"input_blocks.{(layers + 1) * (level + 1)}.0.op", f"down_blocks.{level}.downsamplers.0.conv"))
    pairs += _inner("middle_block.0", "mid_block.resnets.0", _RESNET)
    pairs.append(("middle_block.1", "mid_block.attentions.0"))
    return pairs + _inner("middle_block.2", "mid_block.resnets.1", _RESNET)


def unet_pairs(levels: int, layers: int) -> Pairs:
    """Name the UNet's modules, with diffusers' names as own ones."""
    pairs = _encoder_half(levels, layers)
    for level in range(levels):
        for layer in range(layers + 1):
            block = f"output_blocks.{(layers + 1) * level + layer}"
            pairs += _inner(f"{block}.0", f"up_blocks.{level}.resnets.{layer}", _RESNET)
            if layer == layers:  # behind the last resnet stands the upsampler: at place 2 with an attention, else at 1
                pairs += [(f"{block}.{place}.conv", f"up_blocks.{level}.upsamplers.0.conv") for place in (1, 2)]
            pairs.append((f"{block}.1", f"up_blocks.{level}.attentions.{layer}"))
    return [*pairs, ("out.0", "conv_norm_out"), ("out.2", "conv_out")]


def control_pairs(levels: int, layers: int) -> Pairs:
    """Name the ControlNet's modules and the hint mapper's, with those of `ManipulationNetwork` as own ones."""
    pairs = [(theirs, f"control.{ours}") for theirs, ours in _encoder_half(levels, layers)]
    convolutions = range((layers + 1) * levels)
    pairs += [(f"zero_convs.{index}.0", f"control.controlnet_down_blocks.{index}") for index in convolutions]
    return [*pairs, ("middle_block_out.0", "control.controlnet_mid_block"), *HINT]


def vae_pairs(levels: int, layers: int) -> Pairs:
    """Name the VAE's modules; the decoder's levels count the other way round."""
    pairs = [(name, name) for name in ("quant_conv", "post_quant_conv")]
    for half, blocks, count in (("encoder", "down", layers), ("decoder", "up", layers + 1)):
        pairs += [(f"{half}.{name}", f"{half}.{name}") for name in ("conv_in", "conv_out")]
        pairs.append((f"{half}.norm_out", f"{half}.conv_norm_out"))
        for number, resnet in ((1, 0), (2, 1)):
            pairs += _inner(f"{half}.mid.block_{number}", f"{half}.mid_block.resnets.{resnet}", _VAE_RESNET)
        pairs += _inner(f"{half}.mid.attn_1", f"{half}.mid_block.attentions.0", _VAE_ATTENTION)
        for level in range(levels):
            official = f"{half}.{blocks}.{level if half == 'encoder' else levels - 1 - level}"
            own = f"{half}.{blocks}_blocks.{level}"
            for layer in range(count):
                pairs += _inner(f"{official}.block.{layer}", f"{own}.resnets.{layer}", _VAE_RESNET)
            pairs.append((f"{official}.{blocks}sample.conv", f"{own}.{blocks}samplers.0.conv"))
    return pairs


def text_pairs(layers: int) -> Pairs:
    """Name the text tower's modules, with those of transformers' CLIP as own ones; for `JOINT` see there."""
    pairs = [
        ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
        ("token_embedding", "text_model.embeddings.token_embedding"),
        ("ln_final", "text_model.final_layer_norm"),
        ("text_projection", "text_projection.weight"),
    ]
    for layer in range(layers):
        pairs += _inner(f"transformer.resblocks.{layer}", f"text_model.encoder.layers.{layer}", _TEXT_BLOCK)
    return pairs


def translate(name: str, pairs: Iterable[tuple[str, str]]) -> str | None:
    """Return the name that a table gives to a tensor (or to a module), or None where the table has none."""
    for source, target in pairs:
        if name == source or name.startswith(f"{source}."):
            return target + name[len(source) :]
    return None


def translate_joint(name: str) -> list[str]:
    """Return the three own names of an official joint projection; empty for all other tensors."""
    match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(attn\.in_proj_\w+)", name)
    if match is None or match[2] not in JOINT:
        return []
    layer = f"text_model.encoder.layers.{match[1]}.self_attn"
    return [f"{layer}.{projection}.{JOINT[match[2]]}" for projection in PROJECTIONS]


def official_name(own: str, pairs: Pairs) -> str:
    """Return the official name of an own tensor, for messages; the own name where there is none."""
    for layer, projection, kind in re.findall(r"layers\.(\d+)\.self_attn\.(\w+)\.(weight|bias)$", own):
        if projection in PROJECTIONS:
            return f"transformer.resblocks.{layer}.attn.in_proj_{kind}"
    return translate(own, [(ours, theirs) for theirs, ours in pairs]) or own
