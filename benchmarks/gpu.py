"""What only a GPU can tell, in one process: is everything right there, how fast is it, how much memory does it take.

    make gpu                                                        # about 7 minutes; the same as:
    python benchmarks/gpu.py --minutes 7 --device cuda --out benchmarks/results/gpu.json
    python benchmarks/gpu.py --device cpu --size tiny --out F       # every path of it without a GPU, in a minute

One part after another; the JSON is written anew after each. A part is left out, and said to be, where less time is left
than it usually takes. A part that fails says why in the JSON, and the next one runs. At the end comes a table; the
exit status is 1 if a bar is broken or a part has failed.

Parts: the machine; right or wrong on the miniature backbone (all stages, training and sampling against the CPU, resume
after SIGTERM, batch sizes, recompilation, waits for the GPU); a training step and sampling at the paper's size by the
ways of training.py and sampling.py; the whole trainer with optimizer and checkpoint; the largest batch; images of
512 pixels through the VAE. ``--size tiny`` takes the miniature for all of them.

Bars, and where they come from:

- float32 on the GPU (without TF32) against the CPU: losses and latents 1e-4, which sums in another order explain;
  weights after 5 steps 1e-3 of their norm, since Adam takes whole steps along gradients that are zero but for rounding;
- bf16 against float32: losses 5e-2 (8 bits);
- a training continued after SIGTERM against an uninterrupted one: weights 1e-3 likewise (on a CPU: not a bit);
- an image drawn in batches of 1, 7 and 16: at most 2 of 256 levels in the mean;
- a last, smaller batch is not compiled once more;
- memory, on CUDA at the paper's size: within the gpu_mem_mb of rules/needs.yaml for the paper's size;
- time, likewise: ours is no slower than plain_bf16, the obvious way (see training.py, sampling.py).

On a machine without network, with Python 3.12, torch 2.11 or newer, transformers 5.17, accelerate, h5py, pandas,
scikit-image: carry what it lacks as wheels in the ignored folder .whl of the checkout (9 MB). Here:

    pip download -q --only-binary=:all: --python-version 3.12 --implementation cp --no-deps -d .whl \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
        diffusers==0.42.1 importlib_metadata==10.2.0 lazy-importer==0.1.0 zipp annotated-types==0.8.0 \
        pydantic==2.14.3 pydantic_core==2.50.4 typing-inspection==0.4.5 typing-extensions

There, in the checkout, with OUT naming a folder for the result:

    python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target /tmp/site .whl/*.whl &&
    PYTHONUNBUFFERED=1 PYTHONPATH=/tmp/site:$PWD python3 benchmarks/gpu.py --minutes 7 --out $OUT/gpu.json
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import sampling
import torch
import training
from paper_size import build, described_machine, forget, matrix_rates, peak_gib, synchronise

STARTED = time.monotonic()
ROOT = Path(__file__).resolve().parents[1]
CLOSE, WEIGHTS_CLOSE, LOW_PRECISION, LEVELS = 1e-4, 1e-3, 5e-2, 2.0
#: TFLOP of an image, counted by `counted_tflop` of paper_size.py (docs/speed.md): a training step, a guided step.
TRAINING_TFLOP, GUIDED_TFLOP = 2.96, 2.15
PACKAGES = ("torch", "torchvision", "triton", "diffusers", "transformers", "accelerate", "pydantic", "h5py", "numpy")


@dataclass
class Run:
    """What all parts share: where and at which size, and what earlier parts have left."""

    device: torch.device
    size: str
    folder: Path
    results: dict[str, dict] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        return 16 if self.size == "paper" else 2

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def runtime(self, device: str | None = None, **settings: Any):
        from neuropictor.config import RuntimeConfig

        usual = {
            "threads": 0,
            "track_code": False,
            "tensorboard": False,
            "log_interval": 1,
            "checkpoint_interval": 1000,
        }
        return RuntimeConfig(device=device or self.device.type, **usual | settings)


class LeftOut(Exception):
    """A part that has nothing to do here; the message says why."""


def at_most(value: float, limit: float) -> dict:
    return {"value": value, "at_most": limit, "holds": bool(value <= limit)}


def at_least(value: float, limit: float) -> dict:
    return {"value": value, "at_least": limit, "holds": bool(value >= limit)}


def relative(one: torch.Tensor, two: torch.Tensor) -> float:
    return float(f"{(one.float() - two.float()).norm() / two.float().norm():.2e}")


def needed_gib(rule: str) -> float:
    """GiB of a GPU that rules/needs.yaml gives a rule at the paper's size."""
    import yaml

    return yaml.safe_load((ROOT / "rules" / "needs.yaml").read_text())[rule]["paper"]["gpu_mem_mb"] * 1e6 / 2**30


# The machine


def machine(run: Run) -> dict:
    found = described_machine(run.device)
    found["packages"] = {name: metadata.version(name) for name in PACKAGES if _installed(name)}
    found["seconds_of_processor_for_imports"] = round(time.process_time(), 1)
    found["matrix_product_gflops"] = matrix_rates(run.device, 8192 if run.cuda else 512)
    values = torch.randn(2**30 if run.cuda else 2**24, device=run.device)  # 4 GiB: far more than a cache
    copies = []
    for _ in range(4):
        synchronise(run.device)
        start = time.perf_counter()
        values.clone()
        synchronise(run.device)
        copies.append(time.perf_counter() - start)
    found["copy_gb_per_second"] = round(2 * values.nbytes / min(copies) / 1e9, 1)
    if run.cuda:
        found["memory_gib"] = round(torch.cuda.get_device_properties(run.device).total_memory / 2**30, 1)
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm", "--format=csv"]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            found["nvidia_smi"] = subprocess.check_output(query, text=True).splitlines()
    return found


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def eager_on_cpu(run: Run):
    """Compile on CUDA alone: on a CPU the compiler would take minutes, and only the way there is to be run."""
    return torch.compiler.set_stance("default" if run.cuda else "force_eager")


# Right or wrong, on the miniature backbone


def write_stores(folder: Path) -> tuple[Path, Path]:
    """Write responses and stimuli of one person: noise, 26 images of the miniature's size, three repeats."""
    import h5py

    from neuropictor.data.responses import ResponseWriter
    from neuropictor.data.stimuli import StimulusWriter
    from neuropictor.surface import load_geometry

    random, vertices, images = np.random.default_rng(0), load_geometry().n_vertices, np.arange(26)
    responses, stimuli = folder / "responses.h5", folder / "stimuli.h5"
    nsd_id = np.tile(images, 3)
    with h5py.File(responses, "w") as file:
        about = {"subject": 1, "data": "simulated", "beta_version": "b3", "mesh": "fsaverage5"}
        writer = ResponseWriter(file, len(nsd_id), vertices, **about)
        writer.append(random.standard_normal((len(nsd_id), vertices)).astype(np.float32))
        writer.finish(
            ncsnr=np.full(vertices, 0.4),
            nsd_id=nsd_id,
            session=np.ones_like(nsd_id),
            repeat=np.repeat(np.arange(3), len(images)),
            split=np.select([nsd_id >= 20, nsd_id < 2], [2, 1], 0),
        )
    with h5py.File(stimuli, "w") as file:
        writer = StimulusWriter(file, images, 64, "simulated")
        writer.append(random.integers(0, 256, (len(images), 64, 64, 3), dtype=np.uint8))
        writer.finish([["a red ball", "a ball"]] * 26, ["ball"] * 26, ["sky"] * 26)
    return responses, stimuli


def forget_accelerate() -> None:
    """Let the next training choose its device: accelerate keeps the first one of a process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


def stages(run: Run) -> dict:
    """All stages that compute on the GPU, with the settings of presets/tiny.yaml."""
    from neuropictor.config import read
    from neuropictor.data.latents import cache_latents
    from neuropictor.evaluation.baselines import fit_baselines
    from neuropictor.evaluation.evaluate import evaluate
    from neuropictor.evaluation.tables import FITTED
    from neuropictor.sampling import sample_subject
    from neuropictor.training.calibrate import calibrate
    from neuropictor.training.reconstruct import pretrain

    config, runtime, folder = read(ROOT / "presets" / "tiny.yaml"), run.runtime(), run.folder
    responses, stimuli = write_stores(folder)
    latents, autoencoder = folder / "latents.h5", folder / "calibrate" / "autoencoder.safetensors"
    seconds = {}

    @contextlib.contextmanager
    def timed(name: str) -> Iterator[None]:
        forget_accelerate()
        start = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - start, 2)

    with timed("cache_latents"):
        cache_latents(stimuli, "miniature", runtime, latents)
    with timed("calibrate"):
        calibrate([responses], "miniature", config.calibrate, config.encoder, runtime, autoencoder)
    files = ([responses], [latents], "miniature", autoencoder)
    with timed("pretrain"):
        pretrain(*files, config.pretrain, runtime, folder / "pretrain")
    with timed("refine"):
        refined(run, "refine", runtime, config.refine)
    drawn = {name: folder / f"{name}.h5" for name in ("refined", *FITTED)}
    with timed("sample"):
        sample_subject(folder / "refine", responses, config.sample, runtime, "refined", drawn["refined"])
    made = {name: path for name, path in drawn.items() if name != "refined"}
    with timed("baselines"):
        fit_baselines(responses, stimuli, latents, "miniature", config.evaluate, config.sample, runtime, made)
    with timed("evaluate"):
        evaluate({"01": drawn}, [stimuli], "miniature", config.evaluate, runtime, folder / "metrics.csv")
    return {"seconds_of_stages": seconds}


def refined(run: Run, name: str, runtime, config) -> Path:
    """Refine what the part `stages` has pretrained; return the folder."""
    from neuropictor.training.reconstruct import refine

    forget_accelerate()
    folder = run.folder
    if not (folder / "pretrain" / "run.json").is_file():
        raise LeftOut("the part stages has not come as far as a pretrained model")
    files = (folder / "responses.h5", folder / "latents.h5", "miniature", folder / "pretrain")
    refine(*files, config, runtime, folder / name)
    return folder / name


def weights(folder: Path) -> torch.Tensor:
    from neuropictor.models.pipeline_folder import read_networks

    return torch.cat([parameter.detach().flatten() for parameter in read_networks(folder).parameters()])


def train_losses(folder: Path) -> torch.Tensor:
    rows = (line.split(",") for line in (folder / "history.csv").read_text().splitlines())
    return torch.tensor([float(row[3]) for row in rows if row[1:3] == ["train", "loss"]])


def training_equals_cpu(run: Run) -> dict:
    from neuropictor.config import RefineConfig

    config = RefineConfig(steps=5, batch_size=8, semantic_weight=0.1, warmup=0)
    cpu = refined(run, "cpu-fp32", run.runtime("cpu"), config)
    fp32 = refined(run, "device-fp32", run.runtime(), config)
    bf16 = refined(run, "device-bf16", run.runtime(precision="bf16"), config)
    return {
        "losses": {folder.name: train_losses(folder).tolist() for folder in (cpu, fp32, bf16)},
        "bars": {
            "losses of fp32": at_most(relative(train_losses(fp32), train_losses(cpu)), CLOSE),
            "weights of fp32": at_most(relative(weights(fp32), weights(cpu)), WEIGHTS_CLOSE),
            "losses of bf16": at_most(relative(train_losses(bf16), train_losses(fp32)), LOW_PRECISION),
        },
    }


def resume_after_sigterm(run: Run) -> dict:
    """SIGTERM to this process and its loader workers, as Slurm and torchrun send it; then the same training again."""
    from neuropictor.config import RefineConfig

    config, settings = RefineConfig(steps=20, batch_size=4, warmup=0), {"workers": 2, "checkpoint_interval": 2}
    whole = refined(run, "whole", run.runtime(**settings), config)
    checkpoints, done = run.folder / "stopped" / "checkpoints", threading.Event()

    def stop() -> None:
        while not done.wait(0.002):
            if list(checkpoints.glob("step-*.pt")):
                for process in multiprocessing.active_children():
                    os.kill(process.pid, signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    watcher = threading.Thread(target=stop, daemon=True)
    watcher.start()
    try:
        refined(run, "stopped", run.runtime(**settings), config)
        status = 0
    except SystemExit as end:
        status = end.code
    finally:
        done.set()
        watcher.join()
    left = sorted(path.name for path in checkpoints.glob("step-*.pt"))
    stopped = refined(run, "stopped", run.runtime(**settings), config)
    return {
        "exit_status": status,
        "checkpoints": left,
        "bars": {
            "stopped with status 143 (1: yes)": at_least(int(status == 143), 1),
            "checkpoints left": at_least(len(left), 1),
            "weights": at_most(relative(weights(stopped), weights(whole)), WEIGHTS_CLOSE if run.cuda else 0.0),
        },
    }


def miniature_pipeline():
    from neuropictor.models.pipeline import NeuroPictorPipeline

    backbone, networks = build("small", torch.device("cpu"))
    return NeuroPictorPipeline.from_parts(networks.eval().requires_grad_(False), backbone)


def sampling_equals_cpu(run: Run) -> dict:
    from neuropictor.models.device import prepare_device

    latents = {}
    for device in ("cpu", run.device.type):
        pipeline = miniature_pipeline().to(prepare_device(run.runtime(device)))
        pipeline.set_progress_bar_config(disable=True)
        maps, generators = sampling.inputs(pipeline.encoder, 3)
        options = {"num_inference_steps": 5, "guidance_scale": 3.0, "output_type": "latent"}
        latents[device] = pipeline(maps=maps, generator=generators, **options).images.cpu()
    return {"bars": {"latents": at_most(relative(latents[run.device.type], latents["cpu"]), CLOSE)}}


def sampler(run: Run, pipeline, steps: int = 4, **settings: Any):
    from neuropictor.config import SampleConfig
    from neuropictor.sampling import Sampler

    config = SampleConfig(steps=steps, batch_size=16, guidance_scale=3.0)
    return Sampler(pipeline, "01", config, run.runtime(**settings))


def random_responses(count: int) -> dict[str, torch.Tensor]:
    from neuropictor.surface import load_geometry

    random = torch.Generator().manual_seed(3)
    return {"responses": torch.randn(count, load_geometry().n_vertices, generator=random)}


def batch_sizes(run: Run) -> dict:
    """One image alone, in a batch of 7 and of 16."""
    responses, images, bars = random_responses(16), {}, {}
    for precision in ("fp32", "bf16"):
        drawing = sampler(run, miniature_pipeline(), precision=precision)
        for count in (1, 7, 16):
            jobs = [(nsd_id, 0) for nsd_id in range(count)]
            images[count] = drawing.draw(jobs, {"responses": responses["responses"][:count]})[0].astype(int)
        for count in (7, 16):
            levels = float(np.abs(images[count] - images[1]).mean())
            bars[f"{precision}, batch of {count}: levels"] = at_most(round(levels, 4), LEVELS)
    return {"bars": bars}


def short_last_batch(run: Run) -> dict:
    """A compiled pipeline, a whole batch and one of three."""
    from torch._dynamo.utils import counters

    responses = random_responses(16)["responses"]
    drawing = sampler(run, miniature_pipeline(), steps=3, compile=True, precision="bf16" if run.cuda else "fp32")
    seconds, graphs = [], []
    with eager_on_cpu(run):
        for count in (16, 3):
            start = time.perf_counter()
            drawing.draw([(nsd_id, 0) for nsd_id in range(count)], {"responses": responses[:count]})
            seconds.append(round(time.perf_counter() - start, 2))
            graphs.append(counters["stats"]["unique_graphs"])
    more = graphs[1] - graphs[0]
    return {
        "graphs": graphs[0],
        "seconds_of_batches": seconds,
        "bars": {"graphs compiled for the short batch": at_most(more, 0)},
    }


class Repeated:
    """The same batch in every step, as `Trainer` takes it from a loader; notes when it is asked for each."""

    seed = 0

    def __init__(self, batch: dict[str, torch.Tensor], device: torch.device, before: Callable[[int], None] = id):
        self.batch, self.device, self.before, self.times = batch, device, before, []

    def loader(self, start: int, stop: int, workers: int, pinned: bool) -> Iterator[dict[str, torch.Tensor]]:
        batch = {name: value.cpu() for name, value in self.batch.items()}
        batch = {name: value.pin_memory() for name, value in batch.items()} if pinned else batch
        for step in range(start, stop):
            synchronise(self.device)
            self.times.append(time.perf_counter())
            self.before(step)
            yield batch


def trainer(run: Run, size: str, batch: int, steps: int, folder: Path, way: str = "ours_bf16", **options: Any):
    """Return a trainer of the stage refine on one batch, and that batch's `Repeated`."""
    from neuropictor.training.checkpoints import CheckpointFolder
    from neuropictor.training.loop import Recipe, Trainer, make_accelerator

    forget_accelerate()
    backbone, networks = build(size, run.device)
    drawn = {name: value.to(run.device) for name, value in training.draws(backbone, networks, batch).items()}
    task, given = training.ours(backbone, networks, drawn, way)
    runtime = run.runtime(precision="bf16", log_interval=1000)
    batches = Repeated(given, run.device, **options)
    recipe = Recipe(steps, 1e-4, weight_decay=0.01, validation_interval=1000)
    checkpoints = CheckpointFolder(folder, {})
    return Trainer(task, batches, None, recipe, runtime, checkpoints, make_accelerator(runtime)), batches


def waits_for_gpu(run: Run) -> dict:
    """How often the host waits for the GPU in a step, as torch tells where asked to warn of it; none on a CPU."""

    def warn(on: bool) -> None:
        if run.cuda:
            torch.cuda.set_sync_debug_mode("warn" if on else "default")

    def places(caught: list) -> dict[str, int]:
        lines = [f"{Path(item.filename).name}:{item.lineno}" for item in caught if "synchroniz" in str(item.message)]
        return {line: lines.count(line) for line in sorted(set(lines))}

    stepping, _ = trainer(run, "small", 4, 6, run.folder / "waits", before=lambda step: warn(step == 3))
    drawing, in_sampling = sampler(run, miniature_pipeline(), precision="bf16").pipeline, {}
    try:
        with warnings.catch_warnings(record=True) as in_training:
            warnings.simplefilter("always")
            stepping.run("Training")
        for steps in (2, 2, 6):  # the first warms up
            maps, generators = sampling.inputs(drawing.encoder, 2)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                warn(True)
                drawing(maps=maps, generator=generators, num_inference_steps=steps, output_type="latent")
                warn(False)
            in_sampling[steps] = sum(places(caught).values())
    finally:
        warn(False)
    return {"training_step": places(in_training), "sampling_step": (in_sampling[6] - in_sampling[2]) / 4}


# Training and sampling at the paper's size


def training_way(way: str) -> Callable[[Run], dict]:
    def part(run: Run) -> dict:
        steps = 5 if run.cuda else 1
        with eager_on_cpu(run):
            record, _ = training.measure(way, size_of(run), run.device, run.batch, steps)
        seconds = float(np.median(record["seconds"]))
        found = {"ms": round(1000 * seconds, 1), "images_per_second": round(run.batch / seconds, 2), **record}
        if run.size == "paper":
            found["tflop_per_second"] = round(TRAINING_TFLOP * run.batch / seconds, 1)
        return found | {"bars": bars_of_way(run, "training", way, "refine", found)}

    return part


def sampling_way(way: str) -> Callable[[Run], dict]:
    def part(run: Run) -> dict:
        steps = 10 if run.cuda else 2
        with eager_on_cpu(run):
            record, latents = sampling.measure(way, size_of(run), run.device, run.batch, steps)
        step = record["step_seconds"]
        whole = sampling.PAPER_STEPS * step + record["once_seconds"] + record.get("decode_seconds", 0.0)
        found = {"ms": round(1000 * step, 1), "images_per_second_of_50_steps": round(run.batch / whole, 3), **record}
        if run.size == "paper":
            found["tflop_per_second"] = round(GUIDED_TFLOP * run.batch / step, 1)
        bars = bars_of_way(run, "sampling", way, "sample", found)
        if way == "ours":
            torch.save(latents, run.folder / "latents.pt")
        elif (run.folder / "latents.pt").is_file():
            found["latents_differ_from_ours_fp32"] = relative(
                latents, torch.load(run.folder / "latents.pt", weights_only=True)
            )
            bars["latents"] = at_most(found["latents_differ_from_ours_fp32"], LOW_PRECISION)
        return found | {"bars": bars}

    return part


def size_of(run: Run) -> str:
    return "paper" if run.size == "paper" else "small"


def bars_of_way(run: Run, kind: str, way: str, rule: str, found: dict) -> dict:
    """Memory and time of the project's own way; the miniature and a CPU have no bar."""
    if run.size != "paper" or not run.cuda or not way.startswith("ours_bf16"):
        return {}
    bars = {"peak GiB": at_most(found["peak_gib"], round(needed_gib(rule), 1))}
    plain = run.results.get(f"{kind}: plain_bf16", {}).get("ms")
    if way == "ours_bf16" and plain is not None:
        bars["plain_bf16 over ours"] = at_least(round(plain / found["ms"], 2), 1.0)
    return bars


def whole_trainer(run: Run) -> dict:
    """Steps with the optimizer as the stage takes them; a checkpoint written, and read by a training that goes on."""
    steps, folder = 6 if run.cuda else 2, run.folder / "trainer"
    running, batches = trainer(run, size_of(run), run.batch, steps, folder)
    running.run("Training")
    ended = time.perf_counter()
    peak = peak_gib(run.device)
    gib = sum(path.stat().st_size for path in folder.glob("step-*.pt")) / 2**30
    step = float(np.median(np.diff(batches.times[1:]))) if steps > 2 else batches.times[1] - batches.times[0]
    written = ended - batches.times[-1] - step
    del running
    forget(run.device)
    going_on, batches = trainer(run, size_of(run), run.batch, steps + 1, folder)
    start = time.perf_counter()
    going_on.run("Training")
    bars = bars_of_way(run, "trainer", "ours_bf16", "refine", {"peak_gib": round(peak, 2)})
    return {
        "step_ms": round(1000 * step, 1),
        "images_per_second": round(run.batch / step, 2),
        "peak_gib": round(peak, 2),
        "checkpoint_gib": round(gib, 2),
        "checkpoint_written_seconds": round(written, 2),
        "checkpoint_read_seconds": round(batches.times[0] - start, 2),
        "steps_after_reading": len(batches.times),
        "bars": bars | {"steps after reading": at_most(len(batches.times), 1)},
    }


def largest_batch(run: Run) -> dict:
    """Batches of loss and gradients, larger until memory ends."""
    fits = {}
    for batch in (16, 32, 48, 64, 96) if run.size == "paper" else (2, 4):
        forget(run.device)
        try:
            record, _ = training.measure("ours_bf16", size_of(run), run.device, batch, 1)
        except torch.OutOfMemoryError:
            break
        fits[batch] = {"peak_gib": record["peak_gib"], "images_per_second": round(batch / record["seconds"][0], 2)}
    return {"batches_that_fit": fits}


def attention(run: Run) -> dict:
    """The UNet's widest attention (4,096 places, 5 heads of 64) by each of torch's kernels."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    shape = (32, 5, 4096, 64) if run.size == "paper" else (2, 5, 64, 64)
    query = torch.randn(shape, device=run.device, dtype=torch.bfloat16)
    kernels = {"flash": SDPBackend.FLASH_ATTENTION}
    kernels |= {"cudnn": SDPBackend.CUDNN_ATTENTION} if run.cuda else {"math": SDPBackend.MATH}
    found = {}
    for name, kernel in kernels.items():
        try:
            with sdpa_kernel(kernel), torch.no_grad():
                times = []
                for _ in range(8):
                    synchronise(run.device)
                    start = time.perf_counter()
                    torch.nn.functional.scaled_dot_product_attention(query, query, query)
                    synchronise(run.device)
                    times.append(time.perf_counter() - start)
            found[name] = {"ms": round(1000 * min(times), 3)}
            found[name]["tflop_per_second"] = round(4 * np.prod(shape) * shape[2] / min(times) / 1e12, 2)
        except RuntimeError as error:
            found[name] = {"not_here": str(error).splitlines()[0]}
    return found


def vae_round_trip(run: Run) -> dict:
    """Whole images by the stage's sampler: 50 steps of DDIM, and 20 of DPM-Solver++."""
    from neuropictor.config import SampleConfig
    from neuropictor.models.pipeline import NeuroPictorPipeline
    from neuropictor.sampling import Sampler

    found = {}
    for solver, steps in (("ddim", 50), ("dpm++", 20)) if run.cuda else (("ddim", 2), ("dpm++", 2)):
        forget(run.device)
        backbone, networks = build(size_of(run), run.device)
        pipeline = NeuroPictorPipeline.from_parts(networks.eval().requires_grad_(False), backbone)
        backbone.drop_towers()
        config = SampleConfig(scheduler=solver, steps=steps, batch_size=run.batch, guidance_scale=sampling.GUIDANCE)
        drawing = Sampler(pipeline, "01", config, run.runtime(precision="bf16"))
        jobs, responses = [(nsd_id, 0) for nsd_id in range(run.batch)], random_responses(run.batch)
        for _ in range(2):  # the first one warms up
            start = time.perf_counter()
            drawn = drawing.draw(jobs, responses)
            seconds = time.perf_counter() - start
        assert drawn.shape[0] == run.batch
        found[f"{solver}, {steps} steps"] = {
            "images_per_second": round(run.batch / seconds, 3),
            "peak_gib": round(peak_gib(run.device), 2),
        }
    return found


# The VAE


def images(run: Run) -> dict:
    """The batches that cache_latents, baselines and evaluate hand to the VAE."""
    from neuropictor.evaluation.evaluate import vae_round_trip

    backbone = build(size_of(run), run.device)[0]
    side, few = backbone.image_size, run.size != "paper"
    random = np.random.default_rng(0)
    seen = random.integers(0, 256, (4 if few else 128, side, side, 3), dtype=np.uint8)
    latents = torch.randn(8 if few else 256, *backbone.latent_shape)
    memory, found, bars = run.runtime().decode_memory, {}, {}
    for name, rule, work in (
        ("cache_latents", "cache_latents", lambda: backbone.encode_images(seen[:64], memory)),
        ("decode", "baselines", lambda: backbone.decode(latents, memory)),
        ("vae_round_trip", "evaluate", lambda: vae_round_trip(backbone, seen, memory)),
    ):
        forget(run.device)
        start = time.perf_counter()
        work()
        synchronise(run.device)
        peak = round(peak_gib(run.device), 2)
        found[name] = {"seconds": round(time.perf_counter() - start, 2), "peak_gib": peak}
        if run.size == "paper" and run.cuda:
            bars[f"{name}: peak GiB"] = at_most(peak, round(needed_gib(rule), 1))
    return found | {"bars": bars}


#: Name, seconds that it usually takes at the paper's size (estimates for an H100), function.
PARTS: tuple[tuple[str, float, Callable[[Run], dict]], ...] = (
    ("machine", 10, machine),
    ("stages", 30, stages),
    ("training equals CPU", 15, training_equals_cpu),
    ("resume after SIGTERM", 15, resume_after_sigterm),
    ("sampling equals CPU", 10, sampling_equals_cpu),
    ("batch sizes", 10, batch_sizes),
    ("waits for GPU", 10, waits_for_gpu),
    *((f"training: {way}", 10, training_way(way)) for way in ("plain_bf16", "ours_bf16", "official_bf16")),
    *((f"training: {way}", 10, training_way(way)) for way in ("ours_bf16_nchw", "ours_bf16_checkpointing")),
    *((f"sampling: {way}", 20, sampling_way(way)) for way in ("ours", "plain_fp16", "plain_bf16", "diffusers_bf16")),
    *((f"sampling: {way}", 10, sampling_way(way)) for way in ("ours_bf16", "ours_bf16_nchw")),
    ("images through the VAE", 25, vae_round_trip),
    ("images", 30, images),
    ("attention", 5, attention),
    ("trainer", 70, whole_trainer),
    ("largest batch", 20, largest_batch),
    ("short last batch", 45, short_last_batch),
    ("sampling: ours_bf16_compiled", 80, sampling_way("ours_bf16_compiled")),
    ("training: ours_bf16_compiled", 80, training_way("ours_bf16_compiled")),
)


def write(path: Path, found: dict) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(found, indent=2) + "\n")
    os.replace(temporary, path)


def run_parts(run: Run, minutes: float, out: Path) -> list[dict]:
    """Run all parts for which there is time; `out` is written before and after each."""
    end, parts = STARTED + 60 * minutes, []
    for name, usual, function in PARTS:
        part: dict[str, Any] = {"name": name, "status": "running", "usual_seconds": usual}
        parts.append(part)
        left = end - time.monotonic()
        if left < usual:
            part |= {"status": "left out", "why": f"{left:.0f} s left, it usually takes {usual:.0f}"}
        else:
            write(out, {"size": run.size, "device": str(run.device), "parts": parts})
            forget(run.device)
            start = time.perf_counter()
            try:
                found = function(run)
                run.results[name] = found
                part |= {"status": "done", "bars": found.pop("bars", {}), "found": found}
            except LeftOut as reason:
                part |= {"status": "left out", "why": str(reason)}
            except Exception as error:
                part |= {"status": "failed", "why": f"{type(error).__name__}: {error}", "error": traceback.format_exc()}
            part["seconds"] = round(time.perf_counter() - start, 1)
        write(out, {"size": run.size, "device": str(run.device), "parts": parts})
        print(f"{time.monotonic() - STARTED:6.0f} s  {name}: {part['status']}", file=sys.stderr, flush=True)
    return parts


def table(parts: list[dict]) -> str:
    lines = []
    for part in parts:
        figures = [f"{name} {value}" for name, value in part.get("found", {}).items() if isinstance(value, int | float)]
        lines.append(f"{part['name']:34}{part['status']:10}{part.get('seconds', 0):7.1f} s  {', '.join(figures[:6])}")
        for name, bar in part.get("bars", {}).items():
            limit = next(f"{kind.replace('_', ' ')} {bar[kind]}" for kind in ("at_most", "at_least") if kind in bar)
            lines.append(f"    {'holds ' if bar['holds'] else 'BROKEN'} {name}: {bar['value']} ({limit})")
        if "why" in part:
            lines.append(f"    {part['why'][:300]}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=7.0, help="until no further part is begun (default: 7)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--size", choices=("paper", "tiny"), default="paper")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    given = parser.parse_args()
    if given.device.type == "cuda" and not torch.cuda.is_available():
        sys.exit(f"--device {given.device}: torch {torch.__version__} finds no GPU here; allowed: cpu with --size tiny")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="gpu-"))
    try:
        parts = run_parts(Run(given.device, given.size, folder), given.minutes, given.out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(table(parts))
    broken = [part["name"] for part in parts for bar in part.get("bars", {}).values() if not bar["holds"]]
    failed = [part["name"] for part in parts if part["status"] == "failed"]
    if broken or failed:
        sys.exit(f"broken bars: {', '.join(broken) or 'none'}; failed parts: {', '.join(failed) or 'none'}")


if __name__ == "__main__":
    main()
