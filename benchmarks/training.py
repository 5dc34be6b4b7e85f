"""A training step at the paper's size: against the plain way.

    MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=68719476736 python benchmarks/training.py
    python benchmarks/training.py --size small        # the miniature, in seconds
    python benchmarks/training.py --device cuda --batch 16

Every way runs in processes of its own, in turns, with the same random weights, pictures, draws and allocator settings:

- plain: as the official training does it. The UNet is not in the optimizer but takes weight gradients, which are kept;
  UNet and ControlNet compute their activations again in the backward pass (gradient checkpointing); the VAE encodes the
  picture and the text tower (24 layers) the caption in the step;
- ours: `ModulationTask.losses` on cached moments and text, float16 as in the store; the UNet frozen;
- ours_checkpointing: the same with runtime.gradient_checkpointing;
- plain_bf16, ours_bf16: under bf16 autocast, in which the official training runs; ours with frozen weights cast once.

Measured is loss and gradients of all trained weights. The optimizer is left out of all ways (it is the same in all), so
is reading from disk (PNG, resizing and one file a trial in the official training). All attention is
scaled_dot_product_attention. Gradients are compared on every 1000th element (small: every one).
"""

import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from paper_size import (
    asked,
    build,
    compare_in_turns,
    counted_tflop,
    described_machine,
    floor,
    matrix_rates,
    peak_gib,
    synchronise,
    write,
)

WAYS = ("plain", "ours", "ours_checkpointing", "plain_bf16", "ours_bf16")
#: Ways whose results are compared, and the relative difference of gradients that their precision explains.
COMPARED = {"ours": 1e-3, "ours_checkpointing": 1e-3, "plain_bf16": 5e-2, "ours_bf16": 5e-2}


def draws(backbone, networks, batch: int) -> dict[str, torch.Tensor]:
    """Everything random in a step, and the picture and caption of it."""
    random = torch.Generator().manual_seed(1)
    side, latent = backbone.image_size, (batch, *backbone.latent_shape)
    length = backbone.context_shape[0]
    drawn = {
        "pictures": torch.rand(batch, 3, side, side, generator=random) * 2 - 1,
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
    """Moments of the pictures and text of the captions, as every plain step computes them and ours has cached them."""
    moments = backbone.vae.encode(drawn["pictures"]).latent_dist
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


def prepare_plain(backbone, networks, drawn: dict):
    backbone.unet.requires_grad_(True)
    backbone.unet.enable_gradient_checkpointing()
    networks.manipulation.control.enable_gradient_checkpointing()
    return lambda: plain_losses(backbone, networks, drawn)


def prepare_ours(backbone, networks, drawn: dict, cache: Path, checkpointing: bool, bf16: bool):
    from neuropictor.config import RefineConfig
    from neuropictor.models.memory import recompute_activations
    from neuropictor.training.reconstruct import ModulationTask

    with np.load(cache, allow_pickle=False) as file:
        mean, logvar, text = (torch.from_numpy(file[name]).float() for name in ("mean", "logvar", "text"))
    if bf16:
        backbone.unet.to(torch.bfloat16)
    if checkpointing:
        recompute_activations(networks, backbone.unet)
    latents = backbone.latents(mean, logvar, drawn["posterior"].cpu())
    batch = drawn | {"responses": drawn["maps"], "latents": latents.to(drawn["maps"].device)}
    batch["text"] = text.to(drawn["maps"].device)
    backbone.null_context = lambda: None  # no context is dropped, as in the main part of the official training
    config = RefineConfig(semantic_weight=0.1, guidance_dropout=0.0)
    task = ModulationTask(networks, backbone, torch.nn.Identity(), config)
    return lambda: task.losses(networks, batch, 0)["loss"]


def measure(way: str, size: str, device: torch.device, batch: int, steps: int, folder: Path) -> dict:
    """Build, warm up, take `steps` timed steps, keep a sample of the gradients in `folder`."""
    backbone, networks = build(size)
    networks.train()
    drawn = draws(backbone, networks, batch)
    cache = folder / "cache.npz"
    if not cache.is_file():
        names = ("mean", "logvar", "text")
        np.savez(cache, **{n: v.half().numpy() for n, v in zip(names, encode(backbone, drawn), strict=True)})
    if not way.startswith("plain"):
        backbone.vae.decoder = backbone.text_encoder = None  # a training stage leaves them in host memory or unread
    for module in (
        backbone.unet,
        networks,
        *([backbone.vae, backbone.text_encoder] if way.startswith("plain") else []),
    ):
        module.to(device)
    drawn = {name: values.to(device) for name, values in drawn.items()}
    bf16 = way.endswith("bf16")
    if way.startswith("plain"):
        losses = prepare_plain(backbone, networks, drawn)
    else:
        losses = prepare_ours(backbone, networks, drawn, cache, way == "ours_checkpointing", bf16)
    seconds, cpu_seconds = [], []
    for _ in range(steps + 1):
        networks.zero_grad(set_to_none=True)
        synchronise(device)
        start, cpu_start = time.perf_counter(), time.process_time()
        with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
            loss = losses()
        loss.backward()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    stride = 1000 if size == "paper" else 1
    sample = {name: p.grad.flatten()[::stride].float().cpu().numpy() for name, p in networks.named_parameters()}
    np.savez(folder / f"{way}.npz", **sample)
    return {
        "seconds": [round(value, 4) for value in seconds[1:]],
        "cpu_seconds": [round(value, 4) for value in cpu_seconds[1:]],
        "loss": loss.item(),
        "peak_gib": round(peak_gib(device), 2),
        "matrix_product_gflops": matrix_rates(device),
        "unet_parameters": sum(p.numel() for p in backbone.unet.parameters()),
        "trained_parameters": sum(p.numel() for p in networks.parameters()),
    }


def difference(folder: Path, way: str) -> dict:
    """Relative difference of a way's gradients to the plain ones: of all together, and the worst network."""
    with np.load(folder / "plain.npz") as file:
        plain = {name: file[name] for name in file.files}
    with np.load(folder / f"{way}.npz") as file:
        found = {name: file[name] for name in file.files}
    parts = {"all": ""} | {part: part for part in sorted({name.split(".")[0] for name in plain})}
    relative = {}
    for part, prefix in parts.items():
        names = [name for name in plain if name.startswith(prefix)]
        one, two = (np.concatenate([values[name] for name in names]) for values in (plain, found))
        relative[part] = float(np.linalg.norm(one - two) / np.linalg.norm(one))
    return {part: float(f"{value:.2e}") for part, value in relative.items()}


def main() -> None:
    given = asked(__doc__, WAYS, WAYS, "timed steps of a process")
    if given.way:
        print(json.dumps(measure(given.way, given.size, given.device, given.batch, given.steps, given.folder)))
        return
    described = described_machine(given.device)
    found, differences = compare_in_turns(__file__, given, difference, COMPARED)
    # The least: whatever else runs on a machine only adds.
    seconds = {way: min(s for run in runs for s in run["seconds"]) for way, runs in found.items()}
    cpu_seconds = {way: min(s for run in runs for s in run["cpu_seconds"]) for way, runs in found.items()}
    pairs = (("plain", "ours"), ("plain", "ours_checkpointing"), ("plain_bf16", "ours_bf16"), ("plain", "ours_bf16"))
    first = next(iter(found.values()))[0]
    result = {
        "what": f"one training step, batch {given.batch}, {given.size} size, without optimizer and reading",
        "wanted": {"plain_over_ours": "at least 2 on a CPU, 2.5 on a GPU"},
        "ratios": {f"{a}_over_{b}": round(seconds[a] / seconds[b], 2) for a, b in pairs if {a, b} <= seconds.keys()},
        "ratios_of_cpu_seconds": {
            f"{a}_over_{b}": round(cpu_seconds[a] / cpu_seconds[b], 2) for a, b in pairs if {a, b} <= seconds.keys()
        },
        "seconds": {way: round(value, 3) for way, value in seconds.items()},
        "pictures_per_second": {way: float(f"{given.batch / value:.3g}") for way, value in seconds.items()},
        "peak_gib": {way: max(run["peak_gib"] for run in runs) for way, runs in found.items()},
        "all_seconds": {way: [run["seconds"] for run in runs] for way, runs in found.items()},
        "all_cpu_seconds": {way: [run["cpu_seconds"] for run in runs] for way, runs in found.items()},
        "loss": {way: runs[-1]["loss"] for way, runs in found.items()},
        "gradients_differ_from_plain": differences,
        "gradients_equal_within": {way: COMPARED[way] for way in differences},
        "parameters": {"unet": first["unet_parameters"], "trained": first["trained_parameters"]},
        "machine": described,
    }
    if given.size == "paper":
        tflop = counted_tflop()
        encoder = 3 * tflop["encoder"]
        ours = tflop["forward"] + tflop["backward_frozen"] + encoder
        plain = 2 * tflop["forward"] + tflop["backward"] + encoder + tflop["vae_encode"]
        result["floor"] = floor(given.batch * ours, found) | {
            "tflop_a_picture": {"plain": round(plain, 3), "ours": round(ours, 3)},
            "arithmetic_of_plain_over_ours": round(plain / ours, 2),
        }
    write("training", given, result)
    if any(differences[way]["all"] > COMPARED[way] for way in differences):
        sys.exit("gradients differ by more than the stated precision")


if __name__ == "__main__":
    main()
