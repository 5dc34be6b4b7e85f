"""A small NeuroPictor of our classes, and its weights under official names, written from a description of those names.

The names are made here the other way round than in `neuropictor.official.parts`, and without it.
"""

import re

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from neuropictor.models.encoder import FMRIEncoder
from neuropictor.models.guiding import GuidingNetwork
from neuropictor.models.manipulation import ManipulationNetwork
from neuropictor.models.null_context import NullContext
from neuropictor.models.pipeline import NeuroPictorPipeline
from neuropictor.official.parts import scheduler

LEVELS, LAYERS, LENGTH, WIDTH = 3, 2, 7, 24
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def awaken(*modules):
    """Give every tensor a value of its own: what training would not leave at zero or one."""
    for module in modules:
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.05 if parameter.ndim > 1 else 0.2)
    return modules


def small_parts(maps=(16, 32)):
    """Networks with the official proportions: norms of 32 groups, three levels, the last without attention."""
    torch.manual_seed(3)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64, 64),
        layers_per_block=LAYERS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=(4, 8, 8),
        use_linear_projection=True,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 64),
        layers_per_block=LAYERS,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=16,
    )
    config = CLIPTextConfig(
        vocab_size=50,
        hidden_size=WIDTH,
        intermediate_size=40,
        projection_dim=16,
        num_hidden_layers=3,
        num_attention_heads=3,
        max_position_embeddings=LENGTH,
        hidden_act="gelu",
        bos_token_id=48,
        eos_token_id=49,
        pad_token_id=0,
    )
    text = CLIPTextModelWithProjection(config)
    encoder = FMRIEncoder(maps, 8, width=16, depth=2, heads=4)
    guiding = GuidingNetwork(encoder.n_tokens, 16, LENGTH, WIDTH, hidden=6, variant="refine")
    manipulation = ManipulationNetwork.from_unet(unet, encoder.n_tokens, 16, (8, 8), hidden=10)
    awaken(unet, vae, text, encoder, guiding, manipulation)
    text.eval()
    tokens = torch.tensor([[48, 49, *[0] * (LENGTH - 2)]])
    with torch.no_grad():  # the last block left out, the norm kept
        null = text.text_model.final_layer_norm(text(tokens, output_hidden_states=True).hidden_states[-2])
    parts = (encoder, guiding, manipulation, unet, vae)
    pipeline = NeuroPictorPipeline(*(part.eval() for part in parts), scheduler(), NullContext.of(null))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, text


def unet_key(name):
    """diffusers' name -> official, by section 4 of the reference."""
    for own, official in {"linear_1": "time_embed.0", "linear_2": "time_embed.2"}.items():
        name = name.replace(f"time_embedding.{own}", official)
    name = re.sub(r"^conv_in\.", "input_blocks.0.0.", name)
    name = re.sub(r"^conv_norm_out\.", "out.0.", name)
    name = re.sub(r"^conv_out\.", "out.2.", name)
    kinds = "resnets|attentions|downsamplers|upsamplers"
    match = re.match(rf"(down|up|mid)_blocks?\.(?:(\d+)\.)?({kinds})\.(\d+)\.(.*)", name)
    if match is None:
        return name
    side, block, kind, place, rest = match.groups()
    block, place = int(block or 0), int(place)
    if kind == "resnets":
        inner, tail = rest.rsplit(".", 1)
        rest = f"{RESNET[inner]}.{tail}"
    if side == "mid":
        return f"middle_block.{2 * place if kind == 'resnets' else 1}.{rest}"
    if side == "down":
        number = 3 * block + 3 if kind == "downsamplers" else 1 + 3 * block + place
        if kind == "downsamplers":
            return f"input_blocks.{number}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{number}.{int(kind == 'attentions')}.{rest}"
    number = 3 * block + (2 if kind == "upsamplers" else place)
    if kind == "upsamplers":
        return f"output_blocks.{number}.{1 if block == 0 else 2}.{rest}"
    return f"output_blocks.{number}.{int(kind == 'attentions')}.{rest}"


def control_key(name):
    mappers = {"token_mapper": "channel_mapper", "position_mapper": "dim_mapper.0", "out": "out"}
    if name.startswith("hint_mapper."):
        _, inner, rest = name.split(".", 2)
        return f"fmri_mapper.{mappers[inner]}.{rest}"
    name = name.removeprefix("control.")
    match = re.match(r"controlnet_down_blocks\.(\d+)\.(.*)", name)
    if match:
        return f"zero_convs.{match[1]}.0.{match[2]}"
    if name.startswith("controlnet_mid_block."):
        return name.replace("controlnet_mid_block", "middle_block_out.0")
    return unet_key(name)


def guiding_key(name):
    names = {
        "text.token_mapper": "channel_mapper",
        "text.width_mapper": "dim_mapper",
        "text.norm": "norm",
        "extra.token_mapper": "extra_clip",
        "extra.width_mapper": "extra_clip.2",
        "extra.norm": "extra_clip.3",
        "extra_out": "extra_clip_out",
    }
    own = next(key for key in names if name.startswith(f"{key}."))
    return names[own] + name[len(own) :]


def vae_key(name, levels=2):
    name = name.replace("conv_norm_out", "norm_out").replace("mid_block.attentions.0", "mid.attn_1")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d)", r"down.\1", name)
    name = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{levels - 1 - int(found[1])}", name)
    name = re.sub(r"resnets\.(\d)", r"block.\1", name).replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"(down|up)samplers\.0\.conv", r"\1sample.conv", name)
    if "attn_1" in name:
        for own, official in ATTENTION.items():
            name = name.replace(f"attn_1.{own}.", f"attn_1.{official}.")
    return name


def text_state(tower):
    """The tower's tensors as OpenCLIP names and stores them."""
    state, out = tower.state_dict(), {}
    names = {
        "embeddings.position_embedding.weight": "positional_embedding",
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "final_layer_norm": "ln_final",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "self_attn.out_proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    for own, value in state.items():
        name = own.removeprefix("text_model.").replace("encoder.layers", "transformer.resblocks")
        for ours, official in names.items():
            name = name.replace(ours, official)
        if name == "text_projection.weight":
            out["text_projection"] = value.T.clone()
        elif "q_proj" in name:
            joint = [state[own.replace("q_proj", kind)] for kind in ("q_proj", "k_proj", "v_proj")]
            block, kind = name.split(".self_attn.q_proj.")
            out[f"{block}.attn.in_proj_{kind}"] = torch.cat(joint)
        elif "k_proj" not in name and "v_proj" not in name:
            out[name] = value
    return out


def official_state(pipeline, text=None):
    """The whole state dict as the official training writes it, with all that an importer must leave out."""
    encoder = pipeline.encoder
    state = {f"fmri_encoder.transformer.{name}": value for name, value in encoder.state_dict().items()}
    state["fmri_encoder.transformer.pos_embed"] = encoder.pos_embed
    state["fmri_encoder.transformer.mask_token"] = torch.randn(1, 1, 12)
    state |= {f"fmri_encoder.transformer.pred.{name}": torch.randn(8, 16) for name in ("weight", "bias")}
    state |= {f"cond_stage.{guiding_key(name)}": value for name, value in pipeline.guiding.state_dict().items()}
    state |= {f"control_model.{control_key(name)}": v for name, v in pipeline.manipulation.state_dict().items()}
    state |= {f"control_model.input_hint_block.{number}.weight": torch.randn(3) for number in range(0, 16, 2)}
    state |= {f"model.diffusion_model.{unet_key(name)}": value for name, value in pipeline.unet.state_dict().items()}
    for name, value in pipeline.vae.state_dict().items():
        conv = ".attentions." in name and value.ndim == 2
        state[f"first_stage_model.{vae_key(name)}"] = value[:, :, None, None] if conv else value
    if text is not None:
        state |= {f"cond_stage_model.model.{name}": value for name, value in text_state(text).items()}
        state["cond_stage_model.model.logit_scale"] = torch.tensor(4.6)
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    return state | {"alphas_cumprod": alphas.float(), "logvar": torch.zeros(1000)}
