"""A sampling step with classifier-free guidance at the paper's size: against the plain way.

    MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=68719476736 python benchmarks/sampling.py
    python benchmarks/sampling.py --size small        # the miniature, in seconds
    python benchmarks/sampling.py --device cuda --batch 16 --steps 50 --ways plain plain_fp16 ours_bf16_compiled

Every way runs in processes of its own, in turns, with the same random weights, maps, noise and allocator settings:

- plain: as the official sampling does it. The two branches of the guidance are two forward passes of ControlNet and
  UNet one after the other, in float32; each computes the hint anew from the tokens; attention keeps its whole matrix;
  noise is drawn in every step and multiplied by zero; the text tower makes the null context once a batch, of which 1/50
  is counted as a step's share, 50 being the paper's number of steps;
- plain_fp16: the same under float16 autocast, as the official sampling runs on CUDA;
- ours: `NeuroPictorPipeline` in float32 as the stage sample prepares it: one batch for both branches, hint and null
  context once, scaled_dot_product_attention, channels last;
- ours_bf16, ours_fp16: the same with `runtime.precision`; ours_..._compiled: and `runtime.compile`.

Latents after the last step are compared with the plain ones (relative, float32). Solvers and number of steps are the
same. What comes once a picture (encoder, networks in front of the loop, decoding) is measured apart for ours.
"""

import json
import sys
import time
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

WAYS = ("plain", "plain_fp16", "ours", "ours_compiled", "ours_bf16", "ours_bf16_compiled", "ours_fp16")
PAPER_STEPS, GUIDANCE = 50, 5.0
#: Relative difference of latents that a precision explains.
EQUAL_WITHIN = {"ours": 1e-4, "ours_compiled": 1e-4}
LOW_PRECISION = 5e-2


def inputs(backbone, networks, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps and starting noise."""
    random = torch.Generator().manual_seed(1)
    maps = torch.randn(batch, 1, *[networks.encoder.config.image_size] * 2, generator=random)
    return maps, torch.randn(batch, *backbone.latent_shape, generator=random)


class Plain:
    """The official way of sampling."""

    def __init__(self, backbone, networks, device: torch.device, half: bool):
        from diffusers.models.attention_processor import AttnProcessor

        self.backbone, self.networks, self.device, self.half = backbone, networks, device, half
        for module in (backbone.unet, backbone.text_encoder, networks):
            module.to(device)
        for module in (backbone.unet, networks.manipulation.control):
            module.set_attn_processor(AttnProcessor())

    def null_context(self, batch: int) -> torch.Tensor:
        captions = torch.ones(batch, self.backbone.context_shape[0], dtype=torch.long, device=self.device)
        return self.backbone.text_encoder(input_ids=captions).last_hidden_state

    @torch.no_grad()
    def once(self, maps: torch.Tensor, noise: torch.Tensor, steps: int) -> float:
        """Do what comes before the loop; return the seconds that making the null context takes."""
        with torch.autocast(self.device.type, torch.float16, enabled=self.half):
            self.tokens = self.networks.tokens(maps)
            self.context, _ = self.networks.guiding(self.tokens)
            synchronise(self.device)
            start = time.perf_counter()
            self.null = self.null_context(len(maps))
            synchronise(self.device)
            return time.perf_counter() - start

    def forward(self, latents: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        manipulation = self.networks.manipulation
        skips, middle = manipulation(latents, timestep, context, manipulation.hint(self.tokens))
        return self.backbone.unet(
            latents,
            timestep,
            context,
            down_block_additional_residuals=skips,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0].float()

    @torch.no_grad()
    def loop(self, noise: torch.Tensor, steps: int) -> torch.Tensor:
        scheduler, latents = self.backbone.scheduler, noise
        scheduler.set_timesteps(steps, device=self.device)
        with torch.autocast(self.device.type, torch.float16, enabled=self.half):
            for timestep in scheduler.timesteps:
                conditional = self.forward(latents, timestep, self.context)
                unconditional = self.forward(latents, timestep, self.null)
                output = unconditional + GUIDANCE * (conditional - unconditional)
                latents = scheduler.step(output, timestep, latents, return_dict=False)[0]
                latents = latents + 0.0 * torch.randn_like(latents)
        return latents


class Ours:
    """The pipeline, prepared as the stage sample does."""

    def __init__(self, backbone, networks, device: torch.device, precision: str, compiled: bool):
        from neuropictor.config import RuntimeConfig
        from neuropictor.models.null_context import NullContext
        from neuropictor.models.pipeline import NeuroPictorPipeline
        from neuropictor.models.speed import prepare_sampling

        captions = torch.ones(1, backbone.context_shape[0], dtype=torch.long)
        with torch.no_grad():
            null = backbone.text_encoder(input_ids=captions).last_hidden_state
        backbone.text_encoder = None
        parts = {name: getattr(networks, name) for name in ("encoder", "guiding", "manipulation", "alignment")}
        parts |= {"unet": backbone.unet, "vae": backbone.vae, "scheduler": backbone.scheduler}
        self.pipeline = NeuroPictorPipeline(**parts, null_context=NullContext.of(null)).to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        prepare_sampling(self.pipeline, RuntimeConfig(precision=precision, compile=compiled))

    @torch.no_grad()
    def once(self, maps: torch.Tensor, noise: torch.Tensor, steps: int) -> float:
        """Do what comes before the loop; it contains no null context to make."""
        tokens = self.pipeline._tokens(maps)
        self.context = self.pipeline._context(tokens, None, 1.0)
        self.hint = self.pipeline.manipulation.hint(tokens)
        return 0.0

    @torch.no_grad()
    def loop(self, noise: torch.Tensor, steps: int) -> torch.Tensor:
        scales = {"guidance_scale": GUIDANCE, "structure_scale": 1.0}
        return self.pipeline._denoise(noise, self.context, self.hint, steps, **scales, generators=None)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> None:
        from neuropictor.models.decoding import decode

        decode(self.pipeline.vae, latents, self.pipeline.decode_memory)


def measure(way: str, size: str, device: torch.device, batch: int, steps: int, folder: Path) -> dict:
    """Build, warm up, run the loop, keep the latents in `folder`."""
    backbone, networks = build(size)
    networks.eval().requires_grad_(False)
    maps, noise = (tensor.to(device) for tensor in inputs(backbone, networks, batch))
    if way.startswith("plain"):
        sampler = Plain(backbone, networks, device, half=way == "plain_fp16")
    else:
        precision = next((name for name in ("bf16", "fp16") if name in way), "fp32")
        sampler = Ours(backbone, networks, device, precision, way.endswith("compiled"))
    sampler.once(maps, noise, steps)
    start = time.perf_counter()
    sampler.loop(noise, 1 if device.type == "cpu" else 2)
    first = time.perf_counter() - start
    once = time.perf_counter()
    null = sampler.once(maps, noise, steps)
    synchronise(device)
    once = time.perf_counter() - once
    start, cpu_start = time.perf_counter(), time.process_time()
    latents = sampler.loop(noise, steps)
    synchronise(device)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    np.save(folder / f"{way}.npy", latents.float().cpu().numpy())
    found = {
        "step_seconds": round(seconds / steps + null / PAPER_STEPS, 4),
        "step_cpu_seconds": round(cpu_seconds / steps, 4),
        "before_loop_seconds": round(once, 4),
        "first_loop_seconds": round(first, 2),
        "peak_gib": round(peak_gib(device), 2),
        "unet_parameters": sum(p.numel() for p in backbone.unet.parameters()),
    }
    found["matrix_product_gflops"] = matrix_rates(device)
    if isinstance(sampler, Ours):
        start = time.perf_counter()
        sampler.decode(latents)
        synchronise(device)
        found["decode_seconds"] = round(time.perf_counter() - start, 4)
        found["peak_gib_with_decoding"] = round(peak_gib(device), 2)
    return found


def difference(folder: Path, way: str) -> float:
    """Relative difference of a way's latents to the plain ones."""
    plain, found = (np.load(folder / f"{name}.npy") for name in ("plain", way))
    return float(f"{np.linalg.norm(found - plain) / np.linalg.norm(plain):.2e}")


def main() -> None:
    given = asked(__doc__, WAYS, ("plain", "ours", "ours_bf16"), "steps of DDIM")
    if given.way:
        print(json.dumps(measure(given.way, given.size, given.device, given.batch, given.steps, given.folder)))
        return
    described = described_machine(given.device)
    found, differences = compare_in_turns(__file__, given, difference, [way for way in WAYS if way != "plain"])
    # The least: whatever else runs on a machine only adds.
    seconds = {way: min(run["step_seconds"] for run in runs) for way, runs in found.items()}
    cpu_seconds = {way: min(run["step_cpu_seconds"] for run in runs) for way, runs in found.items()}
    pairs = [(a, b) for a in ("plain", "plain_fp16") for b in given.ways if b.startswith("ours") and a in seconds]
    result = {
        "what": f"a guided sampling step (both branches), batch {given.batch}, {given.size} size, {given.steps} steps",
        "wanted": {"plain_over_ours": "at least 3 on a CPU, 4 on a GPU"},
        "ratios": {f"{a}_over_{b}": round(seconds[a] / seconds[b], 2) for a, b in pairs},
        "ratios_of_cpu_seconds": {f"{a}_over_{b}": round(cpu_seconds[a] / cpu_seconds[b], 2) for a, b in pairs},
        "step_seconds": seconds,
        "pictures_per_second_of_50_steps": {
            way: float(f"{given.batch / (PAPER_STEPS * value + found[way][-1]['before_loop_seconds']):.3g}")
            for way, value in seconds.items()
        },
        "latents_differ_from_plain": differences,
        "latents_equal_within": {way: EQUAL_WITHIN.get(way, LOW_PRECISION) for way in differences},
        "runs": found,
        "machine": described,
    }
    if given.size == "paper":
        tflop = counted_tflop()
        result["floor"] = floor(2 * given.batch * tflop["forward"], found) | {
            "share_that_is_the_same_in_both_branches": round(tflop["shared"] / (2 * tflop["forward"]), 4),
            "share_of_keys_and_values_of_the_context": round(tflop["context"] / tflop["forward"], 4),
        }
    write("sampling", given, result)
    if any(differences[way] > EQUAL_WITHIN.get(way, LOW_PRECISION) for way in differences):
        sys.exit("latents differ by more than the stated precision")


if __name__ == "__main__":
    main()
