"""A training step at the paper's size: against the plain way.

    MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=68719476736 python benchmarks/training.py
    python benchmarks/training.py --size small        # the miniature, in seconds
    python benchmarks/training.py --device cuda --batch 16

The ways run in one process, in turns, each with networks built anew: the same random weights, images and draws.

- plain: as the official training does it. The UNet is not in the optimizer but takes weight gradients, which are kept;
  UNet and ControlNet compute their activations again in the backward pass (gradient checkpointing); the VAE encodes the
  image and the text tower (24 layers) the caption in the step;
- official_bf16: the same under bf16 autocast, in which the official training runs;
- plain_bf16: what one writes with diffusers and accelerate without looking further: the UNet frozen, all activations
  kept, VAE and text tower in the step, all of it under bf16 autocast;
- ours: `ModulationTask.losses` on cached moments, float16 as in the store, with the text tower in the step as
  presets/nsd.yaml has it; the UNet frozen;
- ours_checkpointing: the same with runtime.gradient_checkpointing;
- ours_bf16, ours_bf16_checkpointing: with runtime.precision bf16: UNet and tower in bf16, outside autocast; on CUDA
  UNet and ControlNet have their channels last;
- ours_bf16_nchw, ours_bf16_compiled: without channels last; with both compiled, which no setting does yet.

Measured is loss and gradients of all trained weights. The optimizer is left out of all ways (it is the same in all), so
is reading from disk (PNG, resizing and one file a trial in the official training). All attention is
scaled_dot_product_attention. Gradients are compared on every 1000th element (small: every one).
"""

import sys
import time
from contextlib import nullcontext

import torch
from paper_size import (
    asked,
    build,
    compare_in_turns,
    counted_tflop,
    described_machine,
    floor,
    forget,
    matrix_rates,
    peak_gib,
    synchronise,
    torch_defaults,
    write,
)

WAYS = (
    "plain",
    "official_bf16",
    "plain_bf16",
    "ours",
    "ours_checkpointing",
    "ours_bf16",
    "ours_bf16_checkpointing",
    "ours_bf16_nchw",
    "ours_bf16_compiled",
)
USUAL = ("plain", "plain_bf16", "ours", "ours_bf16")


def equal_within(way: str) -> float:
    """Return the relative difference of gradients that a way's precision explains."""
    return 5e-2 if "bf16" in way else 1e-3


def draws(backbone, networks, batch: int) -> dict[str, torch.Tensor]:
    """Everything random in a step, and the image and caption of it."""
    random = torch.Generator().manual_seed(1)
    side, latent = backbone.image_size, (batch, *backbone.latent_shape)
    length = backbone.context_shape[0]
    drawn = {
        "images": torch.rand(batch, 3, side, side, generator=random) * 2 - 1,
        "captions": torch.randint(1, 20, (batch, length), generator=random),
        "posterior": torch.randn(latent, generator=random),
        "noise": torch.randn(latent, generator=random),
        "timesteps": torch.randint(0, 1000, (batch,), generator=random),
        "uniform": torch.rand(batch, generator=random),
    }
    drawn["maps"] = torch.randn(batch, 1, *[networks.encoder.config.image_size] * 2, generator=random)
    return drawn


@torch.no_grad()
def encode(backbone, drawn: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Moments of the images and text of the captions, as every plain step computes them."""
    moments = backbone.vae.encode(drawn["images"]).latent_dist
    text = backbone.text_encoder(input_ids=drawn["captions"]).last_hidden_state
    return moments.mean, moments.logvar, text


def plain_losses(backbone, networks, drawn: dict) -> torch.Tensor:
    mean, logvar, text = encode(backbone, drawn)
    latents = backbone.latents(mean, logvar, drawn["posterior"])
    noisy = backbone.scheduler.add_noise(latents, drawn["noise"], drawn["timesteps"])
    modulation = networks(drawn["maps"], noisy, drawn["timesteps"])
    predicted = backbone.unet(
        noisy,
        drawn["timesteps"],
        modulation.context,
        down_block_additional_residuals=modulation.skips,
        mid_block_additional_residual=modulation.middle,
        return_dict=False,
    )[0]
    velocity = backbone.scheduler.config.prediction_type == "v_prediction"  # the miniature
    target = (
        backbone.scheduler.get_velocity(latents, drawn["noise"], drawn["timesteps"]) if velocity else drawn["noise"]
    )
    diffusion = (predicted.float() - target).square().mean()
    return diffusion + 0.1 * (modulation.semantic.float() - text.float()).square().mean()


def prepare_plain(backbone, networks, drawn: dict, way: str):
    torch_defaults()
    if way != "plain_bf16":
        backbone.unet.requires_grad_(True)
        backbone.unet.enable_gradient_checkpointing()
        networks.manipulation.control.enable_gradient_checkpointing()
    return lambda: plain_losses(backbone, networks, drawn)


def ours(backbone, networks, drawn: dict, way: str):
    """Return the task of the stage refine and its batch, everything where and how the stage has it."""
    from neuropictor.config import RefineConfig, RuntimeConfig
    from neuropictor.models.decoding import encode as encode_within_memory
    from neuropictor.models.device import prepare_device
    from neuropictor.models.memory import recompute_activations
    from neuropictor.models.speed import DTYPES
    from neuropictor.training.reconstruct import ModulationTask

    device, precision = drawn["maps"].device, "bf16" if "bf16" in way else "fp32"
    prepare_device(RuntimeConfig(device=device.type, threads=0, precision=precision))
    with torch.no_grad():
        mean, logvar = (values.half().float() for values in encode_within_memory(backbone.vae, drawn["images"]))
    scaling, tower, backbone.vae = backbone.vae.config.scaling_factor, backbone.text_encoder, None
    backbone.drop_towers()
    for module in (backbone.unet, tower):
        module.to(DTYPES[precision])
    if device.type == "cuda" and not way.endswith("nchw"):
        for part in (backbone.unet, networks.manipulation.control):
            part.to(memory_format=torch.channels_last)
    if way.endswith("checkpointing"):
        recompute_activations(networks, backbone.unet)
    if way.endswith("compiled"):
        for part in (backbone.unet, networks.manipulation.control):
            part.compile(dynamic=False)
    batch = {name: drawn[name] for name in ("noise", "timesteps", "uniform")}
    batch |= {"responses": drawn["maps"], "caption": drawn["captions"]}
    batch["latents"] = scaling * (mean + torch.exp(0.5 * logvar) * drawn["posterior"])
    config = RefineConfig(semantic_weight=0.1, guidance_dropout=0.0, captions="random")
    return ModulationTask(networks, backbone, torch.nn.Identity(), config, tower), batch


def measure(way: str, size: str, device: torch.device, batch: int, steps: int) -> tuple[dict, dict[str, torch.Tensor]]:
    """Build, warm up, take `steps` timed steps; return what was measured, and a sample of the gradients."""
    backbone, networks = build(size, device)
    networks.train()
    drawn = {name: values.to(device) for name, values in draws(backbone, networks, batch).items()}
    parameters = {
        "unet_parameters": sum(p.numel() for p in backbone.unet.parameters()),
        "trained_parameters": sum(p.numel() for p in networks.parameters()),
    }
    if way.startswith("ours"):
        task, inputs = ours(backbone, networks, drawn, way)
        losses = lambda: task.losses(networks, inputs, 0)["loss"]  # noqa: E731
    else:
        losses = prepare_plain(backbone, networks, drawn, way)
    seconds, cpu_seconds = [], []
    forget(device)
    for _ in range(steps + 1):
        networks.zero_grad(set_to_none=True)
        synchronise(device)
        start, cpu_start = time.perf_counter(), time.process_time()
        with torch.autocast(device.type, torch.bfloat16) if "bf16" in way else nullcontext():
            loss = losses()
        loss.backward()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    stride = 1000 if size == "paper" else 1
    given = {name: weight.grad for name, weight in networks.named_parameters() if weight.grad is not None}
    # Cloned: a view would keep the whole gradient, 2.7 GB, until the last way is measured.
    sample = {name: gradient.flatten()[::stride].float().cpu().clone() for name, gradient in given.items()}
    record = {
        "first_seconds": round(seconds[0], 2),
        "seconds": [round(value, 4) for value in seconds[1:]],
        "cpu_seconds": [round(value, 4) for value in cpu_seconds[1:]],
        "loss": loss.item(),
        "peak_gib": round(peak_gib(device), 2),
        **parameters,
    }
    return record, sample


def difference(plain: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, float]:
    """Relative difference of a way's gradients to the plain ones: of all together, and of each network."""
    parts = {"all": ""} | {part: part for part in sorted({name.split(".")[0] for name in plain})}
    relative = {}
    for part, prefix in parts.items():
        names = [name for name in plain if name.startswith(prefix)]
        one, two = (torch.cat([values[name] for name in names]) for values in (plain, other))
        relative[part] = float(f"{(one - two).norm() / one.norm():.2e}")
    return relative


def main() -> None:
    given = asked(__doc__, WAYS, USUAL, "timed steps of a measurement")
    described = described_machine(given.device) | {"matrix_product_gflops": matrix_rates(given.device)}
    found, differences = compare_in_turns(
        given, lambda way: measure(way, given.size, given.device, given.batch, given.steps), difference
    )
    # The least: whatever else runs on a machine only adds.
    seconds = {way: min(s for run in runs for s in run["seconds"]) for way, runs in found.items()}
    cpu_seconds = {way: min(s for run in runs for s in run["cpu_seconds"]) for way, runs in found.items()}
    pairs = [(a, b) for a in given.ways for b in given.ways if not a.startswith("ours") and b.startswith("ours")]
    first = next(iter(found.values()))[0]
    result = {
        "what": f"one training step, batch {given.batch}, {given.size} size, without optimizer and reading",
        "wanted": {"plain_over_ours": "at least 2 on a CPU, 2.5 on a GPU"},
        "ratios": {f"{a}_over_{b}": round(seconds[a] / seconds[b], 2) for a, b in pairs},
        "ratios_of_cpu_seconds": {f"{a}_over_{b}": round(cpu_seconds[a] / cpu_seconds[b], 2) for a, b in pairs},
        "seconds": {way: round(value, 3) for way, value in seconds.items()},
        "images_per_second": {way: float(f"{given.batch / value:.3g}") for way, value in seconds.items()},
        "peak_gib": {way: max(run["peak_gib"] for run in runs) for way, runs in found.items()},
        "all_seconds": {way: [run["seconds"] for run in runs] for way, runs in found.items()},
        "all_cpu_seconds": {way: [run["cpu_seconds"] for run in runs] for way, runs in found.items()},
        "loss": {way: runs[-1]["loss"] for way, runs in found.items()},
        "gradients_differ_from_plain": differences,
        "gradients_equal_within": {way: equal_within(way) for way in differences},
        "parameters": {"unet": first["unet_parameters"], "trained": first["trained_parameters"]},
        "machine": described,
    }
    if given.size == "paper":
        tflop = counted_tflop()
        encoder = 3 * tflop["encoder"]
        least = tflop["forward"] + tflop["backward_frozen"] + encoder
        plain = 2 * tflop["forward"] + tflop["backward"] + encoder + tflop["vae_encode"]
        result["floor"] = floor(given.batch * least, described) | {
            "tflop_a_image": {"plain": round(plain, 3), "ours": round(least, 3)},
            "arithmetic_of_plain_over_ours": round(plain / least, 2),
        }
    write("training", given, result)
    if any(differences[way]["all"] > equal_within(way) for way in differences):
        sys.exit("gradients differ by more than the stated precision")


if __name__ == "__main__":
    main()
