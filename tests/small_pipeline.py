"""A pipeline with random weights, and one call of it."""

import torch

from neuropictor.models.encoder import FMRIEncoder
from neuropictor.models.networks import Networks
from neuropictor.models.pipeline import NeuroPictorPipeline


def make_pipeline(backbone, image_size=16, alignment=None):
    torch.manual_seed(1)
    encoder = FMRIEncoder(image_size, 8, width=16, depth=1, heads=2)
    networks = Networks.build(encoder, backbone, "refine", alignment).eval()
    for parameter in networks.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    pipe = NeuroPictorPipeline.from_parts(networks, backbone)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def sample(pipeline, maps, seeds=(1, 2, 3), **options):
    options = {"num_inference_steps": 5, "guidance_scale": 3.0, "output_type": "latent"} | options
    return pipeline(maps, generators=generators(*seeds), **options).images
