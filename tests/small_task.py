"""The task of pretraining and refining on a batch of random numbers."""

import torch

from neuropictor.config import RefineConfig
from neuropictor.models.encoder import FMRIEncoder
from neuropictor.models.maps import MapOperator
from neuropictor.models.networks import Networks
from neuropictor.training.reconstruct import ModulationTask

SHORT = {"steps": 6, "batch_size": 4, "warmup": 1, "validation_interval": 3, "ema": 0.5}


def make_task(backbone, variant="refine", tower=None, **settings):
    networks = Networks.build(FMRIEncoder(32, 16, width=16, depth=1, heads=2), backbone, variant)
    maps = MapOperator.shipped(32)
    return ModulationTask(networks, backbone, maps, RefineConfig(**(SHORT | settings)), tower)


def batch(count=4):
    random = torch.Generator().manual_seed(1)
    normal = {name: torch.randn(count, 4, 4, 4, generator=random) for name in ("latents", "noise")}
    return normal | {
        "responses": torch.randn(count, 8921, generator=random),
        "text": torch.randn(count, 6, 16, generator=random),
        "timesteps": torch.arange(count) * 200 + 50,
        "uniform": torch.linspace(0, 0.99, count),
    }
