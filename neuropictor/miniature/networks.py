"""The miniature backbone before training: scenes to train on, its tokenizer, networks, and the writer of its folder."""

# diffusers annotates tuples of any length as of one, and transformers a token's number as any of its attributes.
# pyright: reportArgumentType=false

import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast, ResNetConfig

from neuropictor.models.backbone import Backbone, ImageTower
from neuropictor.models.parts import load_part
from neuropictor.records.progress import progress
from neuropictor.simulation.scenes.scene import Scene, render, scene

if TYPE_CHECKING:
    from neuropictor.miniature.settings import BackboneTraining

IMAGE_SIZE = 64
CONTEXT_LENGTH = 24
WIDTH = 128
#: Parts that have weights, by the names of their folders.
WEIGHTS = ("unet", "vae", "text_encoder", "image_encoder")


def _render(number: int, seed: int) -> np.ndarray:
    return render(scene(seed, number), IMAGE_SIZE)


def render_scenes(numbers: range, seed: int, processes: int) -> tuple[np.ndarray, list[Scene]]:
    """Render scenes of a seed that no simulation uses: uint8 [N, 64, 64, 3] and the scenes."""
    images = np.empty((len(numbers), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    with ProcessPoolExecutor(processes) as pool:
        rendered = pool.map(partial(_render, seed=seed), numbers, chunksize=100)
        for row, image in enumerate(progress(rendered, "Rendering scenes", total=len(numbers), unit="scene")):
            images[row] = image
    return images, [scene(seed, number) for number in numbers]


def build_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """One token a word, from the words of ``texts``; begin, end and padding as in CLIP."""
    # Not 2 for <end>: transformers reads that as the id of an old faulty configuration and pools another token.
    special = ["<pad>", "<unknown>", "<start>", "<end>"]
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", vocabulary["<start>"]), ("<end>", vocabulary["<end>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        unk_token="<unknown>",
        model_max_length=CONTEXT_LENGTH,
    )


def build_tower(outputs: int) -> ImageTower:
    """An image tower with random weights."""
    config = ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 128, 192],
        depths=[1, 2, 2, 1],
        layer_type="basic",
        **{"projection_dim": outputs},  # the image tower's own
    )
    return ImageTower(config)


def build(tokenizer: PreTrainedTokenizerFast, config: "BackboneTraining") -> Backbone:
    """A backbone of the sizes in the settings, with random weights."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT_LENGTH,
        projection_dim=WIDTH,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    levels, coarse = len(config.vae_channels), len(config.unet_channels) - 1
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(config.vae_channels),
        layers_per_block=1,
        latent_channels=config.latent_channels,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
        mid_block_add_attention=False,
    )
    unet = UNet2DConditionModel(
        sample_size=IMAGE_SIZE // 2 ** (levels - 1),
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        block_out_channels=tuple(config.unet_channels),
        layers_per_block=1,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * coarse),
        up_block_types=(*("CrossAttnUpBlock2D",) * coarse, "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=tuple(max(1, width // 32) for width in config.unet_channels),  # the number of heads
        norm_num_groups=16,
        use_linear_projection=True,
    )
    # Zero terminal SNR and velocity prediction (arXiv 2305.08891): with 64 latent positions the usual schedule would
    # leak the image's mean colour into the last step.
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    return Backbone("miniature", unet, vae, CLIPTextModelWithProjection(text), tokenizer, scheduler, build_tower(WIDTH))


def read_weights(backbone: Backbone, name: str, folder: Path) -> None:
    """Put a part's weights of a folder in the place of random ones.

    Raises
    ------
    ValueError
        If the part has other sizes than the backbone's.
    """
    part = getattr(backbone, name)
    read = load_part(type(part), folder, dtype=torch.float32)
    before, now = ({key: tuple(value.shape) for key, value in one.state_dict().items()} for one in (part, read))
    if before != now:
        key = min(key for key in {*before, *now} if before.get(key) != now.get(key))
        raise ValueError(
            f"{folder}: {key} is {now.get(key, 'missing')}, but {before.get(key, 'missing')} by the settings; allowed:"
            " a part of the same sizes, for example one that was trained with the same section backbone"
        )
    setattr(backbone, name, read)


def save(backbone: Backbone, folder: Path) -> None:
    """Write a backbone folder; weights as float16, enough for the networks' precision."""
    for name in WEIGHTS:
        part = getattr(backbone, name)
        half = {k: v.half() if v.is_floating_point() else v for k, v in part.state_dict().items()}
        part.load_state_dict(half)
        part.half().save_pretrained(folder / name)
        part.float()
        config = json.loads((folder / name / "config.json").read_text())
        config.pop("_name_or_path", None)  # the folder it was read from
        (folder / name / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    backbone.tokenizer.save_pretrained(folder / "tokenizer")
    backbone.scheduler.save_pretrained(folder / "scheduler")
