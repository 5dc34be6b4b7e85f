"""Random weights of the paper's size, or of the miniature's, and what benchmarks say about the machine.

Sizes: Stable Diffusion 2.1-base (UNet 865,910,724 parameters), the text tower of OpenCLIP ViT-H/14 with all 24 layers,
an encoder of depth 24 and width 1024. Weights are torch's and diffusers' initial ones under a fixed seed, so that every
process has the same; those that start at zero get small random numbers, so that nothing is multiplied by zero.
"""

import os
import platform
import resource
from pathlib import Path

import torch

UNET_PARAMETERS = 865_910_724


def paper_backbone():
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    from neuropictor.models.backbone import Backbone

    unet = UNet2DConditionModel(
        sample_size=64, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
    )
    assert sum(parameter.numel() for parameter in unet.parameters()) == UNET_PARAMETERS
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=512,
    )
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=1024,
        intermediate_size=4096,
        projection_dim=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        hidden_act="gelu",
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=0,
    )
    scheduler = DDIMScheduler(
        1000,
        0.00085,
        0.012,
        "scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )
    return Backbone("random", unet, vae, CLIPTextModelWithProjection(text), None, scheduler)


def build(size: str):
    """Return backbone and networks: of the paper's size, or the miniature (``small``)."""
    from neuropictor.config import EncoderConfig
    from neuropictor.models.backbone import Backbone
    from neuropictor.models.encoder import FMRIEncoder
    from neuropictor.models.networks import Networks

    torch.manual_seed(0)
    if size == "paper":
        backbone, encoder = paper_backbone(), FMRIEncoder()
    else:
        backbone, sizes = Backbone.load(), EncoderConfig()
        encoder = FMRIEncoder(sizes.image_size, sizes.patch_size, 1, sizes.width, sizes.depth, sizes.heads)
    for module in backbone.modules:
        module.eval().requires_grad_(False)
    networks = Networks.build(encoder, backbone, "refine")
    with torch.no_grad():
        for parameter in networks.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return backbone, networks


def peak_gib(device: torch.device) -> float:
    """Most memory this process has held: on the GPU as torch counts it, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> dict:
    """Describe where it was measured."""
    name, flags = platform.processor(), ""
    if Path("/proc/cpuinfo").is_file():
        entries = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
        found = {key.strip(): value.strip() for key, _, value in entries}
        name, flags = found.get("model name", name), found.get("flags", "")
    described = {
        "cpu": name,
        "cores": len(os.sched_getaffinity(0)),
        "bf16_instructions": [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags.split()],
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load_before": round(os.getloadavg()[0], 2),
        "allocator": {key: value for key, value in sorted(os.environ.items()) if key.startswith("MALLOC_")},
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
    return described
