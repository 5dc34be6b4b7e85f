"""The networks of an official checkpoint, in the sizes of its tensors, and what its text tower gives."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from neuropictor.models.encoder import FMRIAutoencoder, FMRIEncoder
from neuropictor.models.guiding import GuidingNetwork
from neuropictor.models.manipulation import ManipulationNetwork, plain_config
from neuropictor.official import names, sizes
from neuropictor.official.sizes import Options, Shapes

log = logging.getLogger(__name__)

#: Size of the vocabulary of OpenAI's CLIP, which OpenCLIP's towers share.
CLIP_VOCABULARY = 49408


def make(
    shapes: Mapping[str, Shapes], options: Options, table: Tensor | None
) -> tuple[dict[str, nn.Module], dict[str, names.Pairs]]:
    """Make the networks on the meta device, and the tables of their names.

    Parameters
    ----------
    shapes
        For each part its tensors' shapes, by names without the part's prefix.
    options
        What shapes do not tell.
    table
        The encoder's stored position table, if it is at hand.
    """
    parts: dict[str, nn.Module] = {}
    pairs: dict[str, names.Pairs] = {}
    latent_size = options.latent_size
    if "manipulation" in shapes:
        latent_size = round(shapes["manipulation"]["fmri_mapper.dim_mapper.0.weight"][0] ** 0.5)
    with torch.device("meta"):
        for part, found in shapes.items():
            if part == "unet":
                parts[part] = UNet2DConditionModel(**sizes.unet_config(found, latent_size, options.head_width))
                pairs[part] = names.unet_pairs(*sizes.unet_levels(found))
            elif part == "vae":
                parts[part] = AutoencoderKL(**sizes.vae_config(found, latent_size))
                pairs[part] = names.vae_pairs(*sizes.vae_levels(found))
            elif part == "manipulation":
                parts[part] = _manipulation(found, latent_size, options.head_width)
                pairs[part] = names.control_pairs(*sizes.unet_levels(found))
            elif part == "guiding":
                parts[part] = _guiding(found)
                pairs[part] = names.GUIDING
            elif part == "encoder":
                parts[part] = FMRIEncoder(**sizes.encoder_config(found, options.heads, _real(table)))
                pairs[part] = names.ENCODER
            elif part == "autoencoder":
                config = sizes.encoder_config(found, options.heads, _real(table)) | sizes.decoder_config(found)
                parts[part] = FMRIAutoencoder(**config)
                pairs[part] = names.AUTOENCODER
            elif part == "text":
                config = CLIPTextConfig(**sizes.text_config(found, options.head_width))
                parts[part] = CLIPTextModelWithProjection(config)
                pairs[part] = names.text_pairs(sizes.text_layers(found))
    return parts, pairs


def _real(table: Tensor | None) -> Tensor | None:
    return None if table is None or table.is_meta else table


def _guiding(shapes: Shapes) -> GuidingNetwork:
    """Make the guiding network; pretrained weights have a zero last layer in the extra branch, so it may be on."""
    hidden, n_tokens, _ = shapes["channel_mapper.0.weight"]
    context_width, width = shapes["dim_mapper.weight"]
    return GuidingNetwork(n_tokens, width, shapes["channel_mapper.1.weight"][0], context_width, hidden, "refine")


def _manipulation(shapes: Shapes, latent_size: int, head_width: int) -> ManipulationNetwork:
    """Make the manipulation network."""
    hidden, n_tokens, _ = shapes["fmri_mapper.channel_mapper.0.weight"]
    width = shapes["fmri_mapper.dim_mapper.0.weight"][1]
    unet = UNet2DConditionModel(**sizes.unet_config(shapes, latent_size, head_width))
    control = plain_config(ControlNetModel.from_unet(unet, load_weights_from_unet=False))
    return ManipulationNetwork(n_tokens, width, [latent_size, latent_size], control, hidden)


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
    """Make the position numbers, which no checkpoint holds and the meta device could not make."""
    for module in tower.modules():
        if getattr(module, "position_ids", None) is not None:
            module.position_ids = torch.arange(module.position_ids.shape[-1])[None]


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
