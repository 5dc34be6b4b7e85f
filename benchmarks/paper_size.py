"""Random weights of the paper's size, or of the miniature's, and what benchmarks say about the machine.

Sizes: Stable Diffusion 2.1-base (UNet 865,910,724 parameters), the text tower of OpenCLIP ViT-H/14 with all 24 layers,
an encoder of depth 24 and width 1024. Weights are torch's and diffusers' initial ones under a fixed seed, so that every
process has the same; those that start at zero get small random numbers, so that nothing is multiplied by zero.
"""

import argparse
import ctypes
import gc
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from machine import machine, processor

RESULTS = Path(__file__).parent / "results"
S = TypeVar("S")
T = TypeVar("T")

UNET_PARAMETERS = 865_910_724
UNET = {
    "sample_size": 64,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "sample_size": 512,
}


def paper_backbone():
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    from neuropictor.models.backbone import Backbone
    from neuropictor.official import parts as official_parts

    unet = UNet2DConditionModel(**UNET)
    assert sum(parameter.numel() for parameter in unet.parameters()) == UNET_PARAMETERS
    vae = AutoencoderKL(**VAE)
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
    with torch.device("cpu"):  # where schedulers keep their tables, wherever the networks are
        scheduler = official_parts.scheduler()
    return Backbone("random", unet, vae, CLIPTextModelWithProjection(text), None, scheduler)


def build(size: str, device: torch.device):
    """Return backbone and networks on a device, where their weights are drawn: the paper's size, or the miniature's."""
    from neuropictor.config import EncoderConfig
    from neuropictor.models.backbone import Backbone
    from neuropictor.models.encoder import FMRIEncoder
    from neuropictor.models.networks import Networks

    torch.manual_seed(0)
    backbone = None if size == "paper" else Backbone.load().to(device)
    with device:
        if size == "paper":
            backbone, encoder = paper_backbone(), FMRIEncoder()
        else:
            sizes = EncoderConfig()
            encoder = FMRIEncoder(sizes.image_size, sizes.patch_size, 1, sizes.width, sizes.depth, sizes.heads)
        for module in backbone.modules:
            module.eval().requires_grad_(False)
        networks = Networks.build(encoder, backbone, "refine").to(device)
        with torch.no_grad():
            for parameter in networks.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.02)
            # The empty caption as the miniature's towers and Stable Diffusion's see it: this backbone has no tokenizer.
            captions = torch.ones(1, backbone.context_shape[0], dtype=torch.long)
            backbone._null = backbone.text_encoder(input_ids=captions).last_hidden_state
    return backbone, networks


def forget(device: torch.device) -> None:
    """Give back what the way before has left, so that the next one's time and peak of memory are its own."""
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts at what is resident now


def torch_defaults() -> None:
    """Undo what `prepare_device` has decided: the plain ways compute float32 as torch does by itself."""
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
    torch.backends.cudnn.benchmark = False


def asked(description: str, ways: Sequence[str], usual: Sequence[str], steps: str) -> argparse.Namespace:
    """Read the command line of a benchmark that measures ways in turns."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("paper", "small"), default="paper")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each way, in turns")
    parser.add_argument("--steps", type=int, default=2, help=steps)
    parser.add_argument("--ways", nargs="+", choices=ways, default=list(usual))
    parser.add_argument("--out", type=Path, help="default: results/NAME-SIZE-DEVICE-batch-N.json beside this file")
    return parser.parse_args()


def compare_in_turns(
    given: argparse.Namespace, measure: Callable[[str], tuple[dict, S]], difference: Callable[[S, S], T]
) -> tuple[dict[str, list[dict]], dict[str, T]]:
    """Measure all ways that are asked for, and how much the results of each differ from the plain one's."""
    records: dict[str, list[dict]] = {way: [] for way in given.ways}
    results = {}
    for _ in range(given.rounds):
        for way in given.ways:
            forget(given.device)
            record, results[way] = measure(way)
            records[way].append(record)
            print(way, record, file=sys.stderr, flush=True)
    others = [way for way in results if way != "plain" and "plain" in results]
    return records, {way: difference(results["plain"], results[way]) for way in others}


def write(name: str, given: argparse.Namespace, result: dict) -> None:
    """Write and print the result."""
    out = given.out or RESULTS / f"{name}-{given.size}-{given.device.type}-batch-{given.batch}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def counted_tflop() -> dict[str, float]:
    """TFLOP of an image at the paper's size, counted on the meta device (a multiplication and an addition are two).

    ``forward``: ControlNet and UNet. ``backward_frozen``, ``backward``: from there to the ControlNet's weights,
    context and hint, without and with weight gradients of the UNet. ``shared``: what both branches of the guidance have
    in common, up to the first cross-attention of either network. ``context``: keys and values of the context.
    """
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode

    from neuropictor.models.encoder import FMRIEncoder

    def count(run) -> float:
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops() / 1e12

    with torch.device("meta"):
        unet, vae, encoder = UNet2DConditionModel(**UNET), AutoencoderKL(**VAE), FMRIEncoder()
        control = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
        control.controlnet_cond_embedding = torch.nn.Identity()
        latents, times = torch.zeros(1, 4, 64, 64), torch.zeros(1)
        context = torch.zeros(1, 77, 1024, requires_grad=True)
        hint = torch.zeros(1, 320, 64, 64, requires_grad=True)

        def forward() -> torch.Tensor:
            skips, middle = control(latents, times, context, hint, return_dict=False)
            return unet(latents, times, context, None, None, None, None, None, skips, middle).sample

        def before_cross_attention(network) -> None:
            block = network.down_blocks[0]
            state = block.resnets[0](network.conv_in(latents), torch.zeros(1, 1280))
            tokens = block.attentions[0].proj_in(state.flatten(2).transpose(1, 2).contiguous())
            block.attentions[0].transformer_blocks[0].attn1(tokens)

        def encode() -> None:
            with torch.no_grad():
                vae.encode(torch.zeros(1, 3, 512, 512))

        ends = ("attn2.to_k", "attn2.to_v")
        layers = [part for net in (unet, control) for name, part in net.named_modules() if name.endswith(ends)]
        found = {"forward": count(forward), "encoder": count(lambda: encoder(torch.zeros(1, 1, 256, 256)))}
        found["vae_encode"] = count(encode)
        found["shared"] = sum(count(lambda n=n: before_cross_attention(n)) for n in (unet, control))
        found["context"] = count(lambda: [layer(context) for layer in layers])
        found["backward"] = count(lambda: forward().sum().backward()) - found["forward"]
        unet.requires_grad_(False)
        found["backward_frozen"] = count(lambda: forward().sum().backward()) - found["forward"]
    return {name: round(value, 4) for name, value in found.items()}


def matrix_gflops(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Rate of a large matrix product, in GFLOP/s: the best that a step could run at, at this moment."""
    one = torch.randn(side, side, device=device, dtype=dtype)
    times = []
    for _ in range(4):
        synchronise(device)
        start = time.perf_counter()
        one @ one
        synchronise(device)
        times.append(time.perf_counter() - start)
    return round(2 * side**3 / min(times) / 1e9, 1)


def floor(tflop: float, described: dict) -> dict:
    """Return the least time for so much arithmetic, at the rates of a large matrix product on the machine."""
    rates = described["matrix_product_gflops"]
    seconds = {name: round(1000 * tflop / rate, 2) for name, rate in rates.items()}
    return {"tflop_a_step": round(tflop, 3), "matrix_product_gflops": rates, "seconds_at_that_rate": seconds}


def matrix_rates(device: torch.device, side: int = 4096) -> dict[str, float]:
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    return {name: matrix_gflops(device, dtype, side) for name, dtype in dtypes.items()}


def peak_gib(device: torch.device) -> float:
    """Most memory this process has held since `forget`: on the GPU as torch counts it, else resident (Linux)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def described_machine(device: torch.device) -> dict:
    """Describe where it was measured, with what matters to networks."""
    flags = processor().get("flags", "").split()
    described = machine() | {
        "bf16_instructions": [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "allocator": {key: value for key, value in sorted(os.environ.items()) if key.startswith("MALLOC_")},
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
    return described
