"""The networks that published evaluations judge images by, each one entry of `NETWORKS`. Loads no torch.

Scores, tables, downloads and checks follow from the entries; `neuropictor.evaluation.judging` loads and runs them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neuropictor.fetching.weights import WeightFile

if TYPE_CHECKING:
    from torch import nn

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of torchvision's weights."""
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Mean and standard deviation of OpenAI's CLIP."""
CLIP_ARCHITECTURE = "ViT-L-14-quickgelu"
"""open_clip's name of OpenAI's ViT-L/14, which was trained with the quick GELU."""


@dataclass(frozen=True)
class JudgingNetwork:
    """A network of published evaluations.

    Attributes
    ----------
    name
        As in `Metric.needs`.
    file
        Its weights.
    scores
        dict of pairs of str: node of the network -> name and title of the score by its output; "": the network's whole
        output.
    compared
        "two-way" identification among all seen images, or "distance" to the one that was seen.
    image_size
        Side of the images that go into it; there is no crop (MindEye's and NeuroPictor's evaluation).
    build
        Without weights; a network of torchvision, or CLIP.
    normalisation
        Mean and standard deviation.
    rename
        From names in the file to those of the network; "" for those only training used.
    spare
        Prefixes of parameters that the file need not have.
    """

    name: str
    file: WeightFile
    scores: dict[str, tuple[str, str]]
    compared: str
    image_size: int
    build: Callable[[], nn.Module]
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    rename: Callable[[str], str] = lambda name: name
    spare: tuple[str, ...] = ()


def _torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision import models

        return getattr(models, name)(**options)

    return build


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
        JudgingNetwork(
            "alexnet",
            WeightFile("alexnet-owt-7be5be79.pth", "torchvision", "7be5be79"),  # IMAGENET1K_V1
            # The rectified outputs of the second and the fifth convolution.
            {"features.4": ("alexnet_2", "AlexNet(2)"), "features.11": ("alexnet_5", "AlexNet(5)")},
            "two-way",
            256,
            _torchvision("alexnet"),
        ),
        JudgingNetwork(
            "inception",
            WeightFile("inception_v3_google-0cc3c7bd.pth", "torchvision", "0cc3c7bd"),  # IMAGENET1K_V1
            {"avgpool": ("inception", "Inception")},
            "two-way",
            342,
            # transform_input as torchvision sets it whenever it loads these weights.
            _torchvision("inception_v3", transform_input=True, init_weights=False),
        ),
        JudgingNetwork(
            "clip",
            WeightFile("open_clip_model.safetensors", "clip"),
            {"": ("clip", "CLIP")},
            "two-way",
            224,
            _build_clip,
            CLIP,
        ),
        JudgingNetwork(
            "effnet",
            WeightFile("efficientnet_b1-c27df63c.pth", "torchvision", "c27df63c"),  # IMAGENET1K_V2
            {"avgpool": ("effnet", "EffNet-B1")},
            "distance",
            255,
            _torchvision("efficientnet_b1"),
        ),
        JudgingNetwork(
            "swav",
            WeightFile("swav_800ep_pretrain.pth.tar", "swav"),  # facebookresearch/swav, hubconf.py
            {"avgpool": ("swav", "SwAV")},
            "distance",
            224,
            _torchvision("resnet50"),
            rename=_swav_name,
            spare=("fc.",),
        ),
    )
}
"""Published networks in the order in which they judge."""

WEIGHT_FILES = {network.name: network.file for network in NETWORKS.values()}
"""What `fetch_weights` fetches."""
