"""Pipelines with random weights, and one call of them."""

from pathlib import Path

import torch

from neuropictor.models.alignment import AlignmentNetwork
from neuropictor.models.backbone import Backbone
from neuropictor.models.encoder import FMRIEncoder
from neuropictor.models.networks import Networks
from neuropictor.models.pipeline import NeuroPictorPipeline


def stirred(module: torch.nn.Module, std: float = 0.1) -> torch.nn.Module:
    """Give parameters that start at zero other values, so that all of them matter."""
    for parameter in module.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=std)
    return module


def make_pipeline(backbone, image_size=16, alignment=None):
    torch.manual_seed(1)
    encoder = FMRIEncoder(image_size, 8, width=16, depth=1, heads=2)
    pipe = NeuroPictorPipeline.from_parts(
        stirred(Networks.build(encoder, backbone, "refine", alignment).eval()), backbone
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def refined_pipeline(backbone_folder: Path, alignment: AlignmentNetwork | None = None, std: float = 0.1):
    """Pipeline that reads the tiny responses."""
    torch.manual_seed(0)
    backbone = Backbone.load(backbone_folder)
    networks = Networks.build(FMRIEncoder(32, 16, width=16, depth=1, heads=2), backbone, "refine", alignment)
    return NeuroPictorPipeline.from_parts(stirred(networks, std), backbone)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def sample(pipeline, maps, seeds=(1, 2, 3), **options):
    options = {"num_inference_steps": 5, "guidance_scale": 3.0, "output_type": "latent"} | options
    return pipeline(maps, generator=generators(*seeds), **options).images
