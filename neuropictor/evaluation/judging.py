"""Published networks at work: loaded from local weight files only, and applied to images."""

from __future__ import annotations

import logging
import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.transforms.functional import InterpolationMode, resize

from neuropictor.evaluation import networks
from neuropictor.evaluation.networks import NETWORKS, JudgingNetwork
from neuropictor.fetching.weights import WeightsError, locate
from neuropictor.models.backbone import PROMPTS

if TYPE_CHECKING:
    from neuropictor.evaluation.protocols import Protocol

log = logging.getLogger(__name__)

_IMAGES_AT_ONCE = 32


def load_network(network: JudgingNetwork, folder: Path, device: torch.device) -> nn.Module:
    """Build a network with its weights from a folder of `fetch_weights`; WeightsError if they do not fit."""
    path = locate(folder, network.file)
    log.info("Loading %s from %s", network.name, path)
    model, weights = network.build(), {network.rename(name): value for name, value in read_weights(path).items()}
    weights.pop("", None)
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit {type(model).__name__}: {error}") from None
    missing = [name for name in missing if not name.startswith(network.spare)]
    if missing or unexpected:
        raise WeightsError(
            f"{path} does not fit {type(model).__name__}: missing {missing[:3]}, unexpected {unexpected[:3]};"
            " allowed: the file as published, e.g. as neuropictor fetch-weights writes it"
        )
    return model.eval().requires_grad_(False).to(device)


class LoadedNetwork:
    """A loaded network, and how images are brought to it.

    Parameters
    ----------
    network
        Entry of `NETWORKS`.
    folder
        Folder of `fetch_weights`.
    device
        Where it runs.
    """

    def __init__(self, network: JudgingNetwork, folder: Path, device: torch.device):
        self.network, self.device = network, device
        model: Any = load_network(network, folder, device)
        names = {node: score for node, (score, _) in network.scores.items()}
        self._forward = (
            (lambda images: {names[""]: model.encode_image(images)})
            if "" in names
            else create_feature_extractor(model, names)
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
    folder
        Folder of `fetch_weights`.
    device
        Where it runs.
    """

    name = "CLIP ViT-L/14 (OpenAI)"

    def __init__(self, folder: Path, device: torch.device):
        import open_clip

        self.device = device
        self.model: Any = load_network(NETWORKS["clip"], folder, device)
        self.image_size = self.model.visual.image_size[0]
        self.tokenizer = open_clip.get_tokenizer(networks.CLIP_ARCHITECTURE)

    @torch.no_grad()
    def image_features(self, images: np.ndarray) -> Tensor:
        """Images uint8 [B, S, S, 3] -> unit vectors [B, E]."""
        mean, std = (torch.tensor(values)[:, None, None] for values in networks.CLIP)
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
    folder
        Folder of `fetch_weights`; AlexNet's are used.
    device
        Where it runs.
    """

    size = 256

    def __init__(self, folder: Path, device: torch.device):
        import lpips

        path = locate(folder, NETWORKS["alexnet"].file)
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
        distances = []
        for start in range(0, len(seen), _IMAGES_AT_ONCE):
            pair = (side[start : start + _IMAGES_AT_ONCE] for side in (reconstructed, seen))
            tensors = (
                torch.from_numpy(np.ascontiguousarray(side)).permute(0, 3, 1, 2).float() / 127.5 - 1 for side in pair
            )
            sized = [resize(side, [self.size, self.size], antialias=True).to(self.device) for side in tensors]
            distances.append(self.model(*sized).reshape(-1).double().cpu().numpy())
        return np.concatenate(distances)
