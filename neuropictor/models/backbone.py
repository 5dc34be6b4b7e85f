"""The frozen latent diffusion model that the networks steer, with the towers that describe images and captions.

A backbone is a folder in the layout of diffusers' Stable Diffusion: ``unet/ vae/ scheduler/ text_encoder/ tokenizer/``,
and ``image_encoder/`` where it has an image tower. The shipped miniature is such a folder inside the package.
"""

from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetModel,
)

from neuropictor.models.decoding import DECODE_MEMORY, decode, encode
from neuropictor.models.layout import check_backbone
from neuropictor.models.parts import load_part
from neuropictor.models.schedules import load_schedule

MINIATURE = "miniature"
PREDICTIONS = ("epsilon", "v_prediction")
# The mean over several prompts names a category better than one does (CLIP, arXiv 2103.00020, section 3.1.4).
PROMPTS = ("a photo of a {}", "a close view of a {}", "a wide view of a {}")


def backbone_folder(source: str | Path) -> Path:
    """Return the folder of a backbone's source (``miniature`` or a folder)."""
    return Path(str(files("neuropictor") / "assets" / MINIATURE)) if str(source) == MINIATURE else Path(source)


class ImageTower(PreTrainedModel):
    """A ResNet with a linear projection into the text tower's space.

    Parameters
    ----------
    config
        Of transformers' ``ResNetModel``, with the width of the shared space as ``projection_dim``.
    """

    config_class = ResNetConfig

    def __init__(self, config: ResNetConfig):
        super().__init__(config)
        self.resnet = ResNetModel(config)
        assert config.hidden_sizes is not None
        self.projection = nn.Linear(config.hidden_sizes[-1], config.projection_dim, bias=False)
        self.post_init()

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, S, S] in -1..1 -> [B, projection_dim], not normalised."""
        return self.projection(self.resnet(images).pooler_output.flatten(1))

    def stages(self, images: Tensor) -> list[Tensor]:
        """The outputs of stem and stages, fine to coarse: a perceptual distance is measured on them."""
        return list(self.resnet(images, output_hidden_states=True).hidden_states)


def load_text_tower(folder: Path) -> CLIPTextModel | CLIPTextModelWithProjection:
    """Read a CLIP text tower, alone (as in Stable Diffusion's folders) or from a complete CLIP's folder.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it holds another kind of network, or not exactly this one's tensors.
    """
    allowed = (
        "allowed: the config.json and model.safetensors of transformers' CLIP, for example backbone: "
        "{target_text_encoder: official/sub-01/target_text_encoder}"
    )
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no text tower of CLIP; {allowed}")
    config = PreTrainedConfig.get_config_dict(folder, local_files_only=True)[0]
    if config.get("model_type") not in ("clip", "clip_text_model"):
        raise ValueError(f"{folder}/config.json: model_type is {config.get('model_type')!r}; {allowed}")
    config = CLIPTextConfig.from_pretrained(folder, local_files_only=True)
    projected = "CLIPTextModelWithProjection" in (config.architectures or ())
    return load_part(
        CLIPTextModelWithProjection if projected else CLIPTextModel, folder, config=config, dtype=torch.float32
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Read a tokenizer: CLIP's byte pairs, as Stable Diffusion has them, or the miniature's words."""
    kind = CLIPTokenizer if (folder / "vocab.json").is_file() else PreTrainedTokenizerFast
    try:
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{folder}: not read as a tokenizer ({str(error).splitlines()[0][:300]}); allowed: CLIP's vocab.json and "
            "merges.txt, or a tokenizer.json"
        ) from error


def _size(tower: CLIPTextModel | CLIPTextModelWithProjection | None) -> tuple[int, int]:
    assert tower is not None  # `Backbone.drop_towers` comes later
    return tower.config.max_position_embeddings, tower.config.hidden_size


@dataclass
class Backbone:
    """The parts of a backbone, frozen and in evaluation mode. All sizes of the method derive from it."""

    name: str
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel | CLIPTextModelWithProjection | None
    tokenizer: PreTrainedTokenizerBase
    scheduler: DDIMScheduler
    image_encoder: ImageTower | None = None
    target_encoder: CLIPTextModel | CLIPTextModelWithProjection | None = None

    @classmethod
    def load(cls, source: str | Path = MINIATURE, target: str | Path | None = None) -> "Backbone":
        """Read a backbone from local files only.

        Parameters
        ----------
        source
            ``"miniature"`` for the shipped one, or a folder.
        target
            Folder of the text tower of the semantic loss; None or empty: the backbone's own.

        Raises
        ------
        FileNotFoundError
            Naming the sub-folder that is missing.
        ValueError
            If its parts do not fit each other.
        """
        folder = backbone_folder(source)
        if folder.is_file():
            raise ValueError(
                f"backbone.source: {source!s} is one file; allowed: a folder, which neuropictor import-official "
                f"{source!s} --out FOLDER makes of a .ckpt, and of .safetensors diffusers' "
                "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)"
            )
        check_backbone(folder)
        image_folder = folder / "image_encoder"
        backbone = cls(
            name=folder.name,
            unet=load_part(UNet2DConditionModel, folder / "unet", dtype=torch.float32),
            vae=load_part(AutoencoderKL, folder / "vae", dtype=torch.float32),
            text_encoder=load_text_tower(folder / "text_encoder"),
            tokenizer=load_tokenizer(folder / "tokenizer"),
            scheduler=load_schedule(folder / "scheduler"),
            image_encoder=load_part(ImageTower, image_folder, dtype=torch.float32) if image_folder.is_dir() else None,
            target_encoder=load_text_tower(Path(target)) if target else None,
        )
        backbone.check()
        for module in backbone.modules:
            module.eval().requires_grad_(False)
        return backbone

    @property
    def modules(self) -> list[nn.Module]:
        """The parts that have weights."""
        parts = (self.unet, self.vae, self.text_encoder, self.image_encoder, self.target_encoder)
        return [part for part in parts if part is not None]

    def check(self) -> None:
        """Refuse parts that do not fit each other, before anything is trained on them."""
        unet, kind, context = self.unet.config, self.scheduler.config["prediction_type"], self.context_shape
        if kind not in PREDICTIONS:
            raise ValueError(
                f"backbone {self.name}: scheduler/ has prediction_type {kind!r}; allowed: {', '.join(PREDICTIONS)}, "
                "for example epsilon (Stable Diffusion 1.5 and 2.1-base) or v_prediction (2.1 with 768 pixels)"
            )
        fits = [
            ("unet/ takes", (unet["in_channels"],), "channels, vae/ makes", (self.vae.config["latent_channels"],)),
            ("unet/ reads", context, "(tokens, width), text_encoder/ makes", _size(self.text_encoder)),
        ]
        if self.target_encoder is not None:
            words = "(tokens, width), the target text encoder makes"
            fits.append(("the context has", context, words, _size(self.target_encoder)))
        for what, size, of, expected in fits:
            if size != expected:
                raise ValueError(
                    f"backbone {self.name}: {what} {size} {of} {expected}; allowed: parts that belong together, for "
                    "example all of stable-diffusion-2-1-base, with the text tower of OpenCLIP ViT-H/14 (77, 1024)"
                )

    def to(self, device: torch.device | str) -> "Backbone":
        """Move every part."""
        for module in self.modules:
            module.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the UNet's weights are."""
        return self.unet.device

    @property
    def image_size(self) -> int:
        """Side of the decoded image in pixels."""
        return self.unet.config["sample_size"] * 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents."""
        return self.unet.config["in_channels"], self.unet.config["sample_size"], self.unet.config["sample_size"]

    @cached_property
    def context_shape(self) -> tuple[int, int]:
        """(L, D): tokens and width of the text prompt's embedding."""
        return _size(self.text_encoder)[0], self.unet.config["cross_attention_dim"]

    def tokens(self, captions: list[str]) -> Tensor:
        """Captions -> token numbers [B, L], cut or padded to the tower's length."""
        batch = self.tokenizer(
            captions, padding="max_length", truncation=True, max_length=self.context_shape[0], return_tensors="pt"
        )
        return batch["input_ids"].to(self.device)

    @torch.no_grad()
    def encode_text(self, captions: list[str]) -> Tensor:
        """Captions -> context [B, L, D]: the text tower's last hidden state after its final norm."""
        assert self.text_encoder is not None  # `drop_towers` comes later
        return self.text_encoder(input_ids=self.tokens(captions)).last_hidden_state

    @property
    def target_tower(self) -> nn.Module:
        """The tower that makes the semantic loss's targets: the backbone's own, or `target_encoder`.

        The official code takes the tower's last layer, while the UNet reads the last but one: that needs a
        `target_encoder` with one layer more.
        """
        tower = self.text_encoder if self.target_encoder is None else self.target_encoder
        assert tower is not None  # `drop_towers` comes later
        return tower

    @cached_property
    def _null(self) -> Tensor:
        return self.encode_text([""])

    def null_context(self) -> Tensor:
        """Context of the empty caption, [1, L, D]: the unconditional branch of classifier-free guidance."""
        return self._null.to(self.device)

    def drop_towers(self) -> None:
        """Drop the towers, of which training needs only the null context: 1.4 GB in Stable Diffusion."""
        self.null_context()
        self.text_encoder = self.image_encoder = self.target_encoder = None

    def to_tensor(self, images: np.ndarray) -> Tensor:
        """Images uint8 [B, S, S, 3] -> float [B, 3, S, S] in -1..1 on the backbone's device."""
        return torch.tensor(images, device=self.device).permute(0, 3, 1, 2).float() / 127.5 - 1

    @torch.no_grad()
    def encode_images(self, images: np.ndarray, memory: float = DECODE_MEMORY) -> tuple[Tensor, Tensor]:
        """Images uint8 [B, S, S, 3] -> mean and log variance [B, C, h, w] of the VAE's posterior, unscaled."""
        return encode(self.vae, self.to_tensor(images), memory)

    def latents(self, mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
        """Draw scaled latents [B, C, h, w] from the posterior with given standard normal noise."""
        return self.vae.config["scaling_factor"] * (mean + torch.exp(0.5 * logvar) * noise)

    @torch.no_grad()
    def decode(self, latents: Tensor, memory: float = DECODE_MEMORY) -> np.ndarray:
        """Scaled latents [B, C, h, w] -> images uint8 [B, S, S, 3], rounded; `memory` in GiB as for `decode`."""
        images = decode(self.vae, latents.to(self.device), memory)
        return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    @torch.no_grad()
    def image_features(self, images: np.ndarray, batch_size: int = 256) -> Tensor:
        """Images uint8 [B, S, S, 3] -> unit vectors [B, E] in the shared space."""
        if self.image_encoder is None:
            raise ValueError(
                f"backbone {self.name} has no image_encoder/ folder, so images cannot be compared in its space"
            )
        parts = [
            self.image_encoder(self.to_tensor(chunk)) for chunk in np.array_split(images, -(-len(images) // batch_size))
        ]
        return nn.functional.normalize(torch.cat(parts), dim=-1)

    @torch.no_grad()
    def text_features(self, captions: list[str]) -> Tensor:
        """Captions -> unit vectors [B, E] in the shared space; raises ``ValueError`` without a projection into it."""
        if not isinstance(self.text_encoder, CLIPTextModelWithProjection):
            raise ValueError(
                f"backbone {self.name}: its text_encoder/ has no projection into a space shared with images; "
                "allowed: a CLIPTextModelWithProjection, for example the miniature's"
            )
        return nn.functional.normalize(self.text_encoder(input_ids=self.tokens(captions)).text_embeds, dim=-1)

    def category_features(self, categories: list[str]) -> Tensor:
        """Category names -> unit vectors [N, E], each the mean over the prompt ensemble."""
        features = torch.stack(
            [self.text_features([prompt.format(name) for prompt in PROMPTS]).mean(0) for name in categories]
        )
        return nn.functional.normalize(features, dim=-1)
