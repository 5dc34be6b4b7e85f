"""A Stable Diffusion folder as the hub has it, with few and random weights: same classes, files and settings."""

import json

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig

from neuropictor.official.parts import write_clip_tokenizer

# As in Stable Diffusion 1.5 and 2.1-base; `DDIMScheduler` takes over what it needs.
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.10.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
WIDTH = 16


def text_config(layers=2):
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=WIDTH,
        intermediate_size=16,
        projection_dim=8,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=77,
        hidden_act="gelu",
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=1,
    )


def save_stable_diffusion(folder, unet, vae, text_encoder, **scheduler):
    """Write networks into a folder as the hub has it."""
    unet.save_pretrained(folder / "unet", max_shard_size="10GB")
    vae.save_pretrained(folder / "vae")
    text_encoder.save_pretrained(folder / "text_encoder")
    write_clip_tokenizer(folder / "tokenizer", 77)
    (folder / "tokenizer" / "tokenizer.json").unlink()  # which the hub's folders lack
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER | scheduler))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))


def make_stable_diffusion(folder, linear=True, sample_size=4, **scheduler):
    """Write a folder; `linear` as in Stable Diffusion 2, False as in 1.5; images have twice the latents' size."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=sample_size,
        block_out_channels=(8, 16),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=(2, 4) if linear else 2,
        norm_num_groups=4,
        use_linear_projection=linear,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=2 * sample_size,
    )
    save_stable_diffusion(folder, unet, vae, CLIPTextModel(text_config()), **scheduler)
    return folder


def make_clip(folder):
    """Write a whole CLIP, as the hub has OpenCLIP's ViT-H/14: one text layer more than the backbone's tower."""
    torch.manual_seed(1)
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    config = CLIPConfig(text_config=text_config(3).to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    return folder
