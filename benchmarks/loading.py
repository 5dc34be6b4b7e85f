"""Loading of training batches at NSD's real size, against the shortest training step that a GPU could take.

    python benchmarks/loading.py --root /scratch/loading

Writes, once, what a subject of 40 sessions has at the paper's size (numbers without meaning, on real shapes): responses
of 30,000 trials x 8,921 vertices, and of 8,859 images the VAE's moments (4 x 64 x 64 each) and the captions' mean
text features (77 x 1024), all float16; 2.5 GB. Then reads batches of 16 as training does:

- alone: in the main process, one after the other, with files in the page cache and without (dropped from it before);
- waited: what a training waits for a batch, with worker processes that load while it computes (here: sleeps).

A step cannot take less time than its floating-point operations at the highest rate that a GPU's data sheet names. They
are counted (torch's FlopCounterMode, forward and backward, the UNet frozen) on networks of the paper's size without
weights, so that the comparison needs no GPU. Real steps, which reach half of that rate at best, take twice as long and
more.
"""

import argparse
import json
import os
import time
from pathlib import Path

import h5py
import numpy as np
import torch
from machine import machine
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from neuropictor import config
from neuropictor.data.datasets import ImageResponses, TrainingBatches
from neuropictor.data.latents import LatentStore
from neuropictor.data.responses import ResponseWriter
from neuropictor.models.encoder import FMRIEncoder
from neuropictor.models.guiding import GuidingNetwork
from neuropictor.models.manipulation import ManipulationNetwork
from neuropictor.nsd.constants import CAPTIONS_PER_IMAGE

RESULT = Path(__file__).parent / "results" / "loading.json"
PRESET = Path(__file__).resolve().parents[1] / "presets" / "nsd.yaml"
TRIALS, VERTICES, IMAGES, BATCH = 30_000, 8_921, 8_859, 16
LATENT, CONTEXT = (4, 64, 64), (77, 1024)
#: Dense bf16 with float32 sums, 1e12 operations a second: NVIDIA's data sheets of A100 and of H100 and H200 (SXM).
PEAK = {"A100": 312, "H100 or H200": 989}
#: Stable Diffusion 2.1-base, as its unet/config.json.
UNET = {
    "sample_size": 64,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}


def write_stores(root: Path) -> None:
    """Write stores of real size; rows repeat a few random ones, since it is only their number and size that matter."""
    random = np.random.default_rng(0)
    nsd_id = np.concatenate([np.repeat(np.arange(IMAGES), 3), np.arange(TRIALS - 3 * IMAGES) // 3 + IMAGES])
    order = random.permutation(TRIALS)
    some = random.standard_normal((500, VERTICES), np.float32)
    with h5py.File(root / "responses.h5", "w") as file:
        labels = {"subject": 1, "data": "simulated", "beta_version": "none", "mesh": "fsaverage"}
        writer = ResponseWriter(file, TRIALS, VERTICES, **labels)
        for _ in range(TRIALS // len(some)):
            writer.append(some)
        split = np.where(nsd_id < IMAGES, 0, 2)
        fields = {"session": np.arange(TRIALS) // 750 + 1, "repeat": np.zeros(TRIALS)}
        writer.finish(ncsnr=np.ones(VERTICES), nsd_id=nsd_id[order], split=split[order], **fields)
    with h5py.File(root / "latents.h5", "w") as file:
        file["nsd_id"] = np.arange(IMAGES)
        file["caption_tokens"] = np.zeros((IMAGES, CAPTIONS_PER_IMAGE, CONTEXT[0]), np.int32)
        for name, shape in (("mean", LATENT), ("logvar", LATENT), ("text", CONTEXT)):
            rows = random.standard_normal((100, *shape), np.float32).astype(np.float16)
            dataset = file.create_dataset(name, (IMAGES, *shape), "f2")
            for start in range(0, IMAGES, len(rows)):
                dataset[start : start + len(rows)] = rows[: IMAGES - start]


def forget(root: Path) -> None:
    """Drop the files from the page cache."""
    for path in root.glob("*.h5"):
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def batches(root: Path, captions: str) -> TrainingBatches:
    paper = config.read(PRESET).pretrain
    responses = ImageResponses([root / "responses.h5"], "train")
    latents = LatentStore(root / "latents.h5")
    return TrainingBatches(responses, BATCH, paper.trial_averaging, 0, latents, 0.18215, captions=captions)


def summary(seconds: list[float]) -> dict:
    values = 1e3 * np.array(seconds)
    return {"median_ms": round(float(np.median(values)), 2), "p95_ms": round(float(np.quantile(values, 0.95)), 2)}


def alone(root: Path, captions: str, steps: int, cold: bool) -> dict:
    made, seconds, cpu = batches(root, captions), [], []
    if cold:
        forget(root)
    else:
        for step in range(steps):
            made[step]
    for step in range(steps):
        start, used = time.perf_counter(), time.process_time()
        made[step]
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
    return summary(seconds) | {"cpu_ms": summary(cpu)["median_ms"]}


def waited(root: Path, captions: str, steps: int, workers: int, computing: float) -> dict:
    forget(root)
    loader, seconds = iter(batches(root, captions).loader(0, steps, workers)), []
    next(loader)
    for _ in range(steps - 1):
        time.sleep(computing)
        start = time.perf_counter()
        next(loader)
        seconds.append(time.perf_counter() - start)
    return summary(seconds)


class Step(nn.Module):
    """All that one training step of the paper's size computes, without weights."""

    def __init__(self):
        from diffusers import UNet2DConditionModel

        super().__init__()
        size = config.read(PRESET).encoder
        self.size = size.image_size
        self.encoder = FMRIEncoder(
            size.image_size, size.patch_size, width=size.width, depth=size.depth, heads=size.heads
        )
        self.unet = UNet2DConditionModel(**UNET)
        tokens = self.encoder.n_tokens
        self.guiding = GuidingNetwork(tokens, size.width, *CONTEXT)
        self.manipulation = ManipulationNetwork.from_unet(self.unet, tokens, size.width, LATENT[1:])
        self.unet.requires_grad_(False)

    def forward(self) -> torch.Tensor:
        noisy, when = torch.empty(1, *LATENT), torch.zeros(1, dtype=torch.long)
        tokens = self.encoder(torch.empty(1, 1, self.size, self.size))
        context, _ = self.guiding(tokens)
        skips, middle = self.manipulation(noisy, when, context, self.manipulation.hint(tokens))
        given = {"down_block_additional_residuals": skips, "mid_block_additional_residual": middle}
        return self.unet(noisy, when, context, **given).sample.square().mean()


def operations() -> float:
    """Floating-point operations of one image in a training step."""
    with torch.device("meta"):
        step = Step()
        with FlopCounterMode(display=False) as counter:
            step().backward()
    return float(counter.get_total_flops())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root", type=Path, required=True, help="folder for 8.1 GB of stores; reused if they are there"
    )
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    described = machine()
    counted = operations()
    shortest = {name: BATCH * counted / peak / 1e12 for name, peak in PEAK.items()}
    given.root.mkdir(parents=True, exist_ok=True)
    if not (given.root / "latents.h5").is_file():
        write_stores(given.root)
    computing = min(shortest.values())
    found = {}
    for captions in ("random", "mean"):
        found[captions] = {
            "alone_in_page_cache": alone(given.root, captions, given.steps, cold=False),
            "alone_from_disk": alone(given.root, captions, given.steps, cold=True),
            "waited_with_2_workers_from_disk": waited(given.root, captions, given.steps, 2, computing),
        }
    result = {
        "what": f"batches of {BATCH}: {TRIALS} trials x {VERTICES} vertices, {IMAGES} images, float16 stores",
        "wanted": "waited well below the shortest step",
        "bytes": {path.name: path.stat().st_size for path in sorted(given.root.glob("*.h5"))},
        "teraflop_a_image": round(counted / 1e12, 3),
        "shortest_step_ms": {name: round(1e3 * seconds, 1) for name, seconds in shortest.items()},
        "captions": found,
        "machine": described | {"torch": torch.__version__},
    }
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
