"""The networks that published evaluations judge pictures by, built from local files of weights and nothing else."""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize
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
SIZES = {"alexnet": 256, "inception": 342, "clip": 224, "effnet": 255, "swav": 224}
"""Sides of the pictures that go into the networks; there is no crop (MindEye's and NeuroPictor's evaluation)."""
_PICTURES_AT_ONCE = 32


class Network:
    """One network in evaluation mode.

    Parameters
    ----------
    name : str
    forward : callable
        Normalised pictures [n, 3, S, S] -> features of each score, [n, ...].
    """

    def __init__(self, name: str, forward: Callable[[Tensor], dict[str, Tensor]], device: torch.device):
        self.name, self.forward, self.device = name, forward, device

    @torch.no_grad()
    def features(self, common: Tensor, protocol: Protocol) -> dict[str, np.ndarray]:
        """Describe images of `common_images` as a protocol asks; float32 [n, E] for each score."""
        mean, std = (common.new_tensor(values)[:, None, None] for values in (CLIP if self.name == "clip" else IMAGENET))
        bicubic = self.name == "clip" and protocol.clip_resize == "bicubic"
        kind = InterpolationMode.BICUBIC if bicubic else InterpolationMode.BILINEAR
        sized = _resized(common, SIZES[self.name], kind)
        described = self.forward(((sized - mean) / std).to(self.device))
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


def load_network(name: str, folder: Path, device: torch.device) -> Network:
    """Build a network and read its weights.

    Parameters
    ----------
    name : str
        Of `protocols.NETWORK_METRICS`.
    folder : Path
        Folder of `fetch_weights`.
    device : torch.device

    Raises
    ------
    WeightsError
        If the file is missing, changed, or does not fit the network.
    """
    path = locate(folder, name)
    log.info("Loading %s from %s", name, path)
    return Network(name, _BUILDERS[name](path, device), device)


def _read(path: Path) -> dict[str, Tensor]:
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


def _fitted(
    model: nn.Module, weights: dict[str, Tensor], path: Path, device: torch.device, spare: str = ""
) -> nn.Module:
    """Put weights into a model; only parameters whose names start with `spare` may stay as they are."""
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit {type(model).__name__}: {error}") from None
    missing = [name for name in missing if not (spare and name.startswith(spare))]
    if missing or unexpected:
        raise WeightsError(
            f"{path} does not fit {type(model).__name__}: missing {missing[:3]}, unexpected {unexpected[:3]}; allowed:"
            " the file as published, e.g. as neuropictor fetch-weights writes it"
        )
    return model.eval().requires_grad_(False).to(device)


def _extractor(model: nn.Module, nodes: dict[str, str]) -> Callable[[Tensor], dict[str, Tensor]]:
    from torchvision.models.feature_extraction import create_feature_extractor

    return create_feature_extractor(model, nodes)


def _alexnet(path: Path, device: torch.device) -> Callable[[Tensor], dict[str, Tensor]]:
    from torchvision.models import alexnet

    # The rectified outputs of the second and the fifth convolution.
    return _extractor(
        _fitted(alexnet(weights=None), _read(path), path, device),
        {"features.4": "alexnet_2", "features.11": "alexnet_5"},
    )


def _inception(path: Path, device: torch.device) -> Callable[[Tensor], dict[str, Tensor]]:
    from torchvision.models import inception_v3

    # transform_input as torchvision sets it whenever it loads these weights.
    model = inception_v3(weights=None, transform_input=True, init_weights=False)
    return _extractor(_fitted(model, _read(path), path, device), {"avgpool": "inception"})


def _effnet(path: Path, device: torch.device) -> Callable[[Tensor], dict[str, Tensor]]:
    from torchvision.models import efficientnet_b1

    return _extractor(_fitted(efficientnet_b1(weights=None), _read(path), path, device), {"avgpool": "effnet"})


def _swav(path: Path, device: torch.device) -> Callable[[Tensor], dict[str, Tensor]]:
    from torchvision.models import resnet50

    # As in SwAV's hubconf.py: without the heads that only training used; there is no classifier.
    named = {name.removeprefix("module."): value for name, value in _read(path).items()}
    named = {name: value for name, value in named.items() if not name.startswith(("projection_head", "prototypes"))}
    return _extractor(_fitted(resnet50(weights=None), named, path, device, spare="fc."), {"avgpool": "swav"})


def _clip_model(path: Path, device: torch.device) -> nn.Module:
    import open_clip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = open_clip.create_model(CLIP_ARCHITECTURE, pretrained=None)
    return _fitted(model, _read(path), path, device).float()


def _clip(path: Path, device: torch.device) -> Callable[[Tensor], dict[str, Tensor]]:
    model = _clip_model(path, device)

    def forward(pictures: Tensor) -> dict[str, Tensor]:
        return {"clip": model.encode_image(pictures)}

    return forward


_BUILDERS = {"alexnet": _alexnet, "inception": _inception, "clip": _clip, "effnet": _effnet, "swav": _swav}


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

        self.model, self.device = _clip_model(locate(folder, "clip"), device), device
        self.image_size = self.model.visual.image_size[0]
        self.tokenizer = open_clip.get_tokenizer(CLIP_ARCHITECTURE)

    @torch.no_grad()
    def image_features(self, pictures: np.ndarray) -> Tensor:
        """Pictures uint8 [B, S, S, 3] -> unit vectors [B, E]."""
        mean, std = (torch.tensor(values)[:, None, None] for values in CLIP)
        parts = []
        for start in range(0, len(pictures), _PICTURES_AT_ONCE):
            part = torch.from_numpy(pictures[start : start + _PICTURES_AT_ONCE]).permute(0, 3, 1, 2).float() / 255
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
        trunk = {name: value for name, value in _read(path).items() if name.startswith("features.")}
        slices = (self.model.net.slice1, self.model.net.slice2, self.model.net.slice3, self.model.net.slice4)
        for part in (*slices, self.model.net.slice5):
            for number, layer in part.named_children():
                if isinstance(layer, nn.Conv2d):
                    layer.load_state_dict({key: trunk[f"features.{number}.{key}"] for key in ("weight", "bias")})
        self.model.eval().requires_grad_(False).to(device)
        self.device = device

    @torch.no_grad()
    def __call__(self, reconstructed: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Distance of pictures uint8 [n, S, S, 3] to others, float64 [n]; brought to 256 pixels with antialias."""
        found = []
        for start in range(0, len(seen), _PICTURES_AT_ONCE):
            pair = (side[start : start + _PICTURES_AT_ONCE] for side in (reconstructed, seen))
            tensors = (
                torch.from_numpy(np.ascontiguousarray(side)).permute(0, 3, 1, 2).float() / 127.5 - 1 for side in pair
            )
            sized = [resize(side, [self.size, self.size], antialias=True).to(self.device) for side in tensors]
            found.append(self.model(*sized).reshape(-1).double().cpu().numpy())
        return np.concatenate(found)
