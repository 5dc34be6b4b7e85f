"""The networks that published evaluations judge images by, built from local files of weights and nothing else."""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.transforms.functional import InterpolationMode, resize

from neuropictor.fetching.weights import WeightsError, locate
from neuropictor.models.backbone import PROMPTS

if TYPE_CHECKING:
    from neuropictor.evaluation.protocols import Protocol

log = logging.getLogger(__name__)

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of torchvision's weights."""
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Mean and standard deviation of OpenAI's CLIP."""
CLIP_ARCHITECTURE = "ViT-L-14-quickgelu"
"""open_clip's name of OpenAI's ViT-L/14, which was trained with the quick GELU."""
_IMAGES_AT_ONCE = 32


@dataclass(frozen=True)
class JudgingNetwork:
    """A network of published evaluations; its file's name and checksum stand in `fetching.weights.WEIGHTS`.

    Attributes
    ----------
    name : str
        What scores name in `Metric.needs`, and the key of its file.
    image_size : int
        Side of the images that go into it; there is no crop (MindEye's and NeuroPictor's evaluation).
    build : callable
        Without weights; a network of torchvision, or CLIP.
    layers : dict of str
        Node of the network -> name of the score by its output. Empty: the network's whole output, named like itself.
    normalisation : pair of triples
        Mean and standard deviation.
    rename : callable
        From names in the file to those of the network; "" for what only training used.
    spare : tuple of str
        Parameters whose names start so need not be in the file.
    """

    name: str
    image_size: int
    build: Callable[[], nn.Module]
    layers: dict[str, str]
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    rename: Callable[[str], str] = lambda name: name
    spare: tuple[str, ...] = ()

    def load(self, folder: Path, device: torch.device) -> nn.Module:
        """Build the network with its weights from a folder of `fetch_weights`; WeightsError if these do not fit."""
        path = locate(folder, self.name)
        log.info("Loading %s from %s", self.name, path)
        model, weights = self.build(), {self.rename(name): value for name, value in read_weights(path).items()}
        weights.pop("", None)
        try:
            missing, unexpected = model.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            raise WeightsError(f"{path} does not fit {type(model).__name__}: {error}") from None
        missing = [name for name in missing if not name.startswith(self.spare)]
        if missing or unexpected:
            raise WeightsError(
                f"{path} does not fit {type(model).__name__}: missing {missing[:3]}, unexpected {unexpected[:3]};"
                " allowed: the file as published, e.g. as neuropictor fetch-weights writes it"
            )
        return model.eval().requires_grad_(False).to(device)


def _swav_name(name: str) -> str:
    """As in SwAV's hubconf.py: without the heads that only training used; there is no classifier."""
    name = name.removeprefix("module.")
    return "" if name.startswith(("projection_head", "prototypes")) else name


def _build_clip() -> nn.Module:
    import open_clip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return open_clip.create_model(CLIP_ARCHITECTURE, pretrained=None).float()


NETWORKS = {
    network.name: network
    for network in (
        # The rectified outputs of the second and the fifth convolution.
        JudgingNetwork("alexnet", 256, models.alexnet, {"features.4": "alexnet_2", "features.11": "alexnet_5"}),
        JudgingNetwork(
            "inception",
            342,
            # transform_input as torchvision sets it whenever it loads these weights.
            lambda: models.inception_v3(transform_input=True, init_weights=False),
            {"avgpool": "inception"},
        ),
        JudgingNetwork("clip", 224, _build_clip, {}, CLIP),
        JudgingNetwork("effnet", 255, models.efficientnet_b1, {"avgpool": "effnet"}),
        JudgingNetwork("swav", 224, models.resnet50, {"avgpool": "swav"}, rename=_swav_name, spare=("fc.",)),
    )
}
"""Published networks in the order in which they judge."""


class LoadedNetwork:
    """A loaded network and how it is shown images.

    Parameters
    ----------
    network : JudgingNetwork
    folder : Path
        Folder of `fetch_weights`.
    device : torch.device
    """

    def __init__(self, network: JudgingNetwork, folder: Path, device: torch.device):
        self.network, self.device = network, device
        model = network.load(folder, device)
        self._forward = (
            create_feature_extractor(model, network.layers)
            if network.layers
            else lambda images: {network.name: model.encode_image(images)}
        )

    @torch.no_grad()
    def features(self, common: Tensor, protocol: Protocol) -> dict[str, np.ndarray]:
        """Describe images of `common_images` as a protocol asks; float32 [n, E] for each score."""
        mean, std = (common.new_tensor(values)[:, None, None] for values in self.network.normalisation)
        bicubic = self.network.name == "clip" and protocol.clip_resize == "bicubic"
        kind = InterpolationMode.BICUBIC if bicubic else InterpolationMode.BILINEAR
        sized = _resized(common, self.network.image_size, kind)
        described = self._forward(((sized - mean) / std).to(self.device))
        return {score: values.float().flatten(1).cpu().numpy() for score, values in described.items()}


def _resized(images: Tensor, size: int, kind: InterpolationMode = InterpolationMode.BILINEAR) -> Tensor:
    """Resize images [n, 3, s, s] without antialias, as torchvision did with tensors until 0.16."""
    return images if images.shape[-1] == size else resize(images, [size, size], kind, antialias=False)


def common_images(images: np.ndarray, protocol: Protocol, device: torch.device) -> Tensor:
    """Bring images uint8 [n, s, s, 3] to a protocol's common size, float32 [n, 3, S, S] in 0..1."""
    if protocol.saved_size and images.shape[1] != protocol.saved_size:
        size = (protocol.saved_size, protocol.saved_size)
        images = np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BILINEAR)) for one in images])
    values = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 255
    return _resized(values, protocol.common_size)


def pixel_images(common: Tensor, protocol: Protocol) -> np.ndarray:
    """Bring images of `common_images` to the size at which pixels are compared, float32 [n, S, S, 3] in 0..1."""
    return _resized(common, protocol.pixel_size).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of weights; nothing in it is run."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"{path} cannot be read as weights alone ({reason}); allowed: tensors as torch.save writes them, e.g."
            " torchvision's alexnet-owt-7be5be79.pth"
        ) from None


class ClipDescriber:
    """CLIP ViT-L/14 in the miniature's place: the image space and the categories of the protocol `ours`.

    Parameters
    ----------
    folder : Path
        Folder of `fetch_weights`.
    device : torch.device
    """

    name = "CLIP ViT-L/14 (OpenAI)"

    def __init__(self, folder: Path, device: torch.device):
        import open_clip

        self.model, self.device = NETWORKS["clip"].load(folder, device), device
        self.image_size = self.model.visual.image_size[0]
        self.tokenizer = open_clip.get_tokenizer(CLIP_ARCHITECTURE)

    @torch.no_grad()
    def image_features(self, images: np.ndarray) -> Tensor:
        """Images uint8 [B, S, S, 3] -> unit vectors [B, E]."""
        mean, std = (torch.tensor(values)[:, None, None] for values in CLIP)
        parts = []
        for start in range(0, len(images), _IMAGES_AT_ONCE):
            part = torch.from_numpy(images[start : start + _IMAGES_AT_ONCE]).permute(0, 3, 1, 2).float() / 255
            parts.append(self.model.encode_image(((part - mean) / std).to(self.device)))
        return normalize(torch.cat(parts), dim=-1)

    @torch.no_grad()
    def category_features(self, categories: list[str]) -> Tensor:
        """Category names -> unit vectors [N, E], each the mean over the prompt ensemble."""
        rows = [
            normalize(
                self.model.encode_text(self.tokenizer([prompt.format(name) for prompt in PROMPTS]).to(self.device)),
                dim=-1,
            ).mean(0)
            for name in categories
        ]
        return normalize(torch.stack(rows), dim=-1)


class PerceptualDistance:
    """LPIPS with AlexNet (Zhang et al. 2018, version 0.1); its linear weights come with the package lpips.

    Parameters
    ----------
    folder : Path
        Folder of `fetch_weights`; AlexNet's are used.
    device : torch.device
    """

    size = 256

    def __init__(self, folder: Path, device: torch.device):
        import lpips

        path = locate(folder, "alexnet")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        trunk = {name: value for name, value in read_weights(path).items() if name.startswith("features.")}
        slices = (self.model.net.slice1, self.model.net.slice2, self.model.net.slice3, self.model.net.slice4)
        for part in (*slices, self.model.net.slice5):
            for number, layer in part.named_children():
                if isinstance(layer, nn.Conv2d):
                    layer.load_state_dict({key: trunk[f"features.{number}.{key}"] for key in ("weight", "bias")})
        self.model.eval().requires_grad_(False).to(device)
        self.device = device

    @torch.no_grad()
    def __call__(self, reconstructed: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Distance of images uint8 [n, S, S, 3] to others, float64 [n]; brought to 256 pixels with antialias."""
        found = []
        for start in range(0, len(seen), _IMAGES_AT_ONCE):
            pair = (side[start : start + _IMAGES_AT_ONCE] for side in (reconstructed, seen))
            tensors = (
                torch.from_numpy(np.ascontiguousarray(side)).permute(0, 3, 1, 2).float() / 127.5 - 1 for side in pair
            )
            sized = [resize(side, [self.size, self.size], antialias=True).to(self.device) for side in tensors]
            found.append(self.model(*sized).reshape(-1).double().cpu().numpy())
        return np.concatenate(found)
