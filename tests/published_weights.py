"""Random weights in files as their makers publish them, of the true architectures (CLIP's is a small one)."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from neuropictor.evaluation.networks import WEIGHT_FILES

#: Folder that makes a Python use this small CLIP, and take weights for published ones: see its sitecustomize.py.
STAND_IN = Path(__file__).parent / "stand_in_networks"
CLIP = "tiny-clip-test"


def write_weights(folder: Path) -> None:
    """Write all files of `WEIGHT_FILES`, 480 MB."""
    import open_clip
    from torchvision import models

    torch.manual_seed(0)
    open_clip.add_model_config(STAND_IN / f"{CLIP}.json")
    found = {
        "alexnet": models.alexnet(weights=None).state_dict(),
        "inception": models.inception_v3(weights=None, init_weights=False).state_dict(),
    }
    effnet = models.efficientnet_b1(weights=None)
    for module in effnet.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        effnet(torch.randn(4, 3, 96, 96))  # statistics with which random weights do not fade out
    found["effnet"] = effnet.state_dict()
    backbone = {k: v for k, v in models.resnet50(weights=None).state_dict().items() if not k.startswith("fc.")}
    found["swav"] = {f"module.{k}": v for k, v in backbone.items()} | {
        "module.projection_head.0.weight": torch.zeros(2, 2),
        "module.prototypes.weight": torch.zeros(2, 2),
    }
    for name, state in found.items():
        torch.save(state, folder / WEIGHT_FILES[name].name)
    save_file(open_clip.create_model(CLIP).state_dict(), folder / WEIGHT_FILES["clip"].name)
