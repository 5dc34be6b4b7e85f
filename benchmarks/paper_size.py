"""Random weights of the paper's size, or of the miniature's, and what benchmarks say about the machine.

Sizes: Stable Diffusion 2.1-base (UNet 865,910,724 parameters), the text tower of OpenCLIP ViT-H/14 with all 24 layers,
an encoder of depth 24 and width 1024. Weights are torch's and diffusers' initial ones under a fixed seed, so that every
process has the same; those that start at zero get small random numbers, so that nothing is multiplied by zero.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from machine import machine, processor

RESULTS = Path(__file__).parent / "results"
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

    from neuropictor.models import official_parts
    from neuropictor.models.backbone import Backbone

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
    return Backbone("random", unet, vae, CLIPTextModelWithProjection(text), None, official_parts.scheduler())


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


def measure_in_turns(script: str, ways: Sequence[str], rounds: int, arguments: Sequence[str], folder: Path) -> dict:
    """Run ``script --way WAY --folder FOLDER ARGUMENTS`` for every way in turns, and return what each printed as JSON.

    Records lie in `folder` too: of a measurement that was interrupted, only what is missing is measured.
    """
    found: dict[str, list[dict]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in ways:
            record = folder / f"{way}-{number}.json"
            if not record.is_file():
                command = [sys.executable, script, *arguments, "--way", way, "--folder", str(folder)]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                record.write_text(output.splitlines()[-1] + "\n")
            found[way].append(json.loads(record.read_text()))
            print(way, found[way][-1], file=sys.stderr, flush=True)
    return found


def asked(description: str, ways: Sequence[str], usual: Sequence[str], steps: str) -> argparse.Namespace:
    """Read the command line of a benchmark that measures ways in turns."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("paper", "small"), default="paper")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2, help="processes of each way, in turns")
    parser.add_argument("--steps", type=int, default=2, help=steps)
    parser.add_argument("--ways", nargs="+", choices=ways, default=list(usual))
    parser.add_argument("--out", type=Path, help="default: results/NAME-SIZE-DEVICE-batch-N.json beside this file")
    parser.add_argument("--way", choices=ways, help="measure one way and print it (used by the script itself)")
    parser.add_argument(
        "--folder", type=Path, help="where measurements lie, so that they can go on later; default: temporary"
    )
    return parser.parse_args()


def compare_in_turns(
    script: str, given: argparse.Namespace, difference: Callable[[Path, str], T], ways: Sequence[str]
) -> tuple[dict[str, list[dict]], dict[str, T]]:
    """Measure all ways that are asked for, and how those of `ways` differ from the plain one."""
    options = {"size": given.size, "device": given.device, "batch": given.batch, "steps": given.steps}
    arguments = [item for name, value in options.items() for item in (f"--{name}", str(value))]
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = measure_in_turns(script, given.ways, given.rounds, arguments, folder)
        return found, {way: difference(folder, way) for way in found if way in ways and "plain" in found}


def write(name: str, given: argparse.Namespace, result: dict) -> None:
    """Write and print the result."""
    out = given.out or RESULTS / f"{name}-{given.size}-{given.device.type}-batch-{given.batch}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def counted_tflop() -> dict[str, float]:
    """TFLOP of a picture at the paper's size, counted on the meta device (a multiplication and an addition are two).

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


def matrix_gflops(device: torch.device, dtype: torch.dtype, side: int = 4096) -> float:
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


def floor(tflop: float, found: dict[str, list[dict]]) -> dict:
    """Return the least time for so much arithmetic, at the best rates that the measured processes have seen."""
    seen = [run["matrix_product_gflops"] for runs in found.values() for run in runs if "matrix_product_gflops" in run]
    rates = {name: max(rate[name] for rate in seen) for name in (seen[0] if seen else ())}
    seconds = {name: round(1000 * tflop / rate, 2) for name, rate in rates.items()}
    return {"tflop_a_step": round(tflop, 3), "matrix_product_gflops": rates, "seconds_at_that_rate": seconds}


def matrix_rates(device: torch.device) -> dict[str, float]:
    return {name: matrix_gflops(device, dtype) for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}


def peak_gib(device: torch.device) -> float:
    """Most memory this process has held: on the GPU as torch counts it, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


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
