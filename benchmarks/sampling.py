"""A sampling step with classifier-free guidance at the paper's size: against the plain way.

    MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=68719476736 python benchmarks/sampling.py
    python benchmarks/sampling.py --size small        # the miniature, in seconds
    python benchmarks/sampling.py --device cuda --batch 16 --steps 50 --ways plain plain_fp16 ours_bf16_compiled

The ways run in one process, in turns, each with networks built anew: the same random weights, maps and noise.

- plain: as the official sampling does it. The two branches of the guidance are two forward passes of ControlNet and
  UNet one after the other, in float32; each computes the hint anew from the tokens; attention keeps its whole matrix;
  noise is drawn in every step and multiplied by zero; the text tower makes the null context in every batch;
- plain_fp16: the same under float16 autocast, as the official sampling runs on CUDA;
- plain_bf16: what one writes with diffusers and accelerate without looking further: one batch for both branches,
  scaled_dot_product_attention, the hint in every step, all of it under bf16 autocast;
- diffusers_bf16: the same without autocast, the weights in bf16, as diffusers' own pipelines run with a dtype;
- ours: `NeuroPictorPipeline` in float32 as the stage sample prepares it: one batch for both branches, hint and null
  context once, scaled_dot_product_attention, channels last;
- ours_bf16, ours_fp16: the same with `runtime.precision`; ours_..._compiled: and `runtime.compile`;
  ours_bf16_nchw: without channels last.

Latents after the last step are compared with the plain ones (relative, float32). Solvers and number of steps are the
same. A step's time is the difference between all steps and one, by their number; what is left of one is what comes
once a batch. Decoding is measured apart for ours.
"""

import sys
import time

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
    torch_defaults,
    write,
)

WAYS = (
    "plain",
    "plain_fp16",
    "plain_bf16",
    "diffusers_bf16",
    "ours",
    "ours_compiled",
    "ours_bf16",
    "ours_bf16_nchw",
    "ours_bf16_compiled",
    "ours_fp16",
)
USUAL = ("plain", "plain_bf16", "ours", "ours_bf16")
PAPER_STEPS, GUIDANCE = 50, 5.0


def equal_within(way: str) -> float:
    """Return the relative difference of latents that a way's precision explains."""
    return 5e-2 if "16" in way else 1e-4


def inputs(encoder, batch: int) -> tuple[torch.Tensor, list[torch.Generator]]:
    """Maps on the encoder's device, and a generator of starting noise for each image."""
    maps = torch.randn(batch, 1, *[encoder.config.image_size] * 2, generator=torch.Generator().manual_seed(1))
    return maps.to(encoder.device), [torch.Generator().manual_seed(number) for number in range(batch)]


class Plain:
    """The official way of sampling, and the obvious one."""

    def __init__(self, backbone, networks, device: torch.device, way: str):
        from diffusers.models.attention_processor import AttnProcessor

        torch_defaults()
        self.backbone, self.networks, self.device = backbone, networks, device
        self.together = way.endswith("bf16")
        self.low = {"plain_fp16": torch.float16, "plain_bf16": torch.bfloat16}.get(way)
        self.dtype = torch.bfloat16 if way == "diffusers_bf16" else torch.float32
        for module in (backbone.unet, backbone.text_encoder, networks):
            module.to(self.dtype)
        if not self.together:
            for module in (backbone.unet, networks.manipulation.control):
                module.set_attn_processor(AttnProcessor())

    def forward(self, latents: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        manipulation, latents = self.networks.manipulation, latents.to(self.dtype)
        hint = manipulation.hint(self.tokens).repeat(len(latents) // len(self.tokens), 1, 1, 1)
        skips, middle = manipulation(latents, timestep, context, hint)
        return self.backbone.unet(
            latents,
            timestep,
            context,
            down_block_additional_residuals=skips,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0].float()

    @torch.no_grad()
    def __call__(self, maps: torch.Tensor, generators: list[torch.Generator], steps: int) -> torch.Tensor:
        shape = self.backbone.latent_shape
        latents = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(self.device)
        scheduler = self.backbone.scheduler
        scheduler.set_timesteps(steps, device=self.device)
        with torch.autocast(self.device.type, self.low, enabled=self.low is not None):
            self.tokens = self.networks.tokens(maps.to(self.dtype))
            context, _ = self.networks.guiding(self.tokens)
            captions = torch.ones(len(maps), self.backbone.context_shape[0], dtype=torch.long, device=self.device)
            null = self.backbone.text_encoder(input_ids=captions).last_hidden_state
            both = torch.cat([null, context])
            for timestep in scheduler.timesteps:
                if self.together:
                    output = self.forward(torch.cat([latents, latents]), timestep, both)
                    unconditional, conditional = output.chunk(2)
                else:
                    conditional = self.forward(latents, timestep, context)
                    unconditional = self.forward(latents, timestep, null)
                output = unconditional + GUIDANCE * (conditional - unconditional)
                latents = scheduler.step(output, timestep, latents, return_dict=False)[0]
                if not self.together:
                    latents = latents + 0.0 * torch.randn_like(latents)
        return latents


def prepared(backbone, networks, device: torch.device, way: str):
    """Return the pipeline as the stage sample prepares it."""
    from neuropictor.config import RuntimeConfig
    from neuropictor.models.device import prepare_device
    from neuropictor.models.pipeline import NeuroPictorPipeline
    from neuropictor.models.speed import prepare_sampling

    precision = next((name for name in ("bf16", "fp16") if name in way), "fp32")
    runtime = RuntimeConfig(device=device.type, threads=0, precision=precision, compile=way.endswith("compiled"))
    prepare_device(runtime)
    pipeline = NeuroPictorPipeline.from_parts(networks, backbone).to(device)
    backbone.drop_towers()
    pipeline.set_progress_bar_config(disable=True)
    prepare_sampling(pipeline, runtime)
    if way.endswith("nchw"):
        for module in (pipeline.unet, pipeline.manipulation.control, pipeline.vae):
            module.to(memory_format=torch.contiguous_format)
    return pipeline


def measure(way: str, size: str, device: torch.device, batch: int, steps: int) -> tuple[dict, torch.Tensor]:
    """Build, warm up, run one step and `steps`; return what was measured, and the latents."""
    from neuropictor.models.decoding import decode

    backbone, networks = build(size, device)
    networks.eval().requires_grad_(False)
    if not way.startswith("ours"):
        run = Plain(backbone, networks, device, way)
    else:
        pipeline = prepared(backbone, networks, device, way)

        def run(maps, generators, steps):
            options = {"num_inference_steps": steps, "guidance_scale": GUIDANCE, "output_type": "latent"}
            return pipeline(maps=maps, generator=generators, **options).images

    def timed(steps: int) -> tuple[float, float, torch.Tensor]:
        maps, generators = inputs(networks.encoder, batch)
        synchronise(device)
        start, cpu_start = time.perf_counter(), time.process_time()
        latents = run(maps, generators, steps)
        synchronise(device)
        return time.perf_counter() - start, time.process_time() - cpu_start, latents

    first = timed(1 if device.type == "cpu" else 3)[0]  # graphs of CUDA are recorded in the second step
    one, cpu_one, _ = timed(1)
    seconds, cpu_seconds, latents = timed(steps)
    step = (seconds - one) / (steps - 1)
    record = {
        "step_seconds": round(step, 4),
        "step_cpu_seconds": round((cpu_seconds - cpu_one) / (steps - 1), 4),
        "once_seconds": round(max(0.0, one - step), 4),
        "first_seconds": round(first, 2),
        "peak_gib": round(peak_gib(device), 2),
        "unet_parameters": sum(p.numel() for p in backbone.unet.parameters()),
    }
    if way.startswith("ours"):
        start = time.perf_counter()
        with torch.no_grad():
            decode(pipeline.vae, latents, pipeline.decode_memory)
        synchronise(device)
        record["decode_seconds"] = round(time.perf_counter() - start, 4)
        record["peak_gib_with_decoding"] = round(peak_gib(device), 2)
    return record, latents.float().cpu()


def difference(plain: torch.Tensor, other: torch.Tensor) -> float:
    """Relative difference of a way's latents to the plain ones."""
    return float(f"{(other - plain).norm() / plain.norm():.2e}")


def main() -> None:
    given = asked(__doc__, WAYS, USUAL, "steps of DDIM, two at least")
    if given.steps < 2:
        sys.exit(f"--steps {given.steps}: a step's time is the difference to a single one; allowed: 2 or more")
    described = described_machine(given.device) | {"matrix_product_gflops": matrix_rates(given.device)}
    found, differences = compare_in_turns(
        given, lambda way: measure(way, given.size, given.device, given.batch, given.steps), difference
    )
    # The least: whatever else runs on a machine only adds.
    seconds = {way: min(run["step_seconds"] for run in runs) for way, runs in found.items()}
    cpu_seconds = {way: min(run["step_cpu_seconds"] for run in runs) for way, runs in found.items()}
    pairs = [(a, b) for a in given.ways for b in given.ways if not a.startswith("ours") and b.startswith("ours")]
    result = {
        "what": f"a guided sampling step (both branches), batch {given.batch}, {given.size} size, {given.steps} steps",
        "wanted": {"plain_over_ours": "at least 3 on a CPU, 4 on a GPU"},
        "ratios": {f"{a}_over_{b}": round(seconds[a] / seconds[b], 2) for a, b in pairs},
        "ratios_of_cpu_seconds": {f"{a}_over_{b}": round(cpu_seconds[a] / cpu_seconds[b], 2) for a, b in pairs},
        "step_seconds": seconds,
        "images_per_second_of_50_steps": {
            way: float(f"{given.batch / (PAPER_STEPS * value + found[way][-1]['once_seconds']):.3g}")
            for way, value in seconds.items()
        },
        "latents_differ_from_plain": differences,
        "latents_equal_within": {way: equal_within(way) for way in differences},
        "runs": found,
        "machine": described,
    }
    if given.size == "paper":
        tflop = counted_tflop()
        result["floor"] = floor(2 * given.batch * tflop["forward"], described) | {
            "share_that_is_the_same_in_both_branches": round(tflop["shared"] / (2 * tflop["forward"]), 4),
            "share_of_keys_and_values_of_the_context": round(tflop["context"] / tflop["forward"], 4),
        }
    write("sampling", given, result)
    if any(differences[way] > equal_within(way) for way in differences):
        sys.exit("latents differ by more than the stated precision")


if __name__ == "__main__":
    main()
