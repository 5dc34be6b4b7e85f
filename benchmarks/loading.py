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

    python benchmarks/loading.py --people --root /scratch/loading-people

does it for as many people as MOSAIC has: 93 people of eight data sets, 430,007 trials, 7.7 GB, about as unevenly spread
(the trials of each are rounded from its description). Fresh processes start a training, from opening the stores to the
first batch, with nothing of the stores in the page cache, then wait for batches, which are computed with for 50 ms:

- mapped: as training does; `balanced`: with balance: data_sets; `pretrain`: with latents and texts of the paper's size
  beside, of which only the start is measured (42 GB of files without contents, which take no room);
- held: the same batches of responses that were all read into memory first, as is usual;
- selected: the same batches by HDF5's own selection of rows.
"""

import argparse
import json
import os
import subprocess
import sys
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
from neuropictor.data.rows import Rows
from neuropictor.models.encoder import FMRIEncoder
from neuropictor.models.guiding import GuidingNetwork
from neuropictor.models.manipulation import ManipulationNetwork
from neuropictor.nsd.constants import CAPTIONS_PER_IMAGE
from neuropictor.records.checksums import checksum

RESULTS = Path(__file__).parent / "results"
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


#: People, trials and images of each, and whether all see the same images, by data set of MOSAIC (rounded).
DATA_SETS = {
    "NSD": (8, 26_625, 9_000, False),
    "BOLD5000": (4, 5_254, 4_916, True),
    "BOLDMoments": (10, 4_020, 1_102, True),
    "deeprecon": (3, 7_200, 1_250, True),
    "GOD": (5, 2_950, 1_250, True),
    "HAD": (30, 720, 720, False),
    "NOD": (30, 2_170, 1_900, False),
    "THINGS": (3, 9_840, 8_740, True),
}
PEOPLE_TRIALS = 430_007
PEOPLE_BATCH, PEOPLE_WORKERS, COMPUTING = 96, 2, 0.05


def write_people(root: Path) -> None:
    """Write everybody's responses and, without contents, latents."""
    random = np.random.default_rng(0)
    some = random.standard_normal((500, VERTICES), np.float32).astype(np.float16)
    left = PEOPLE_TRIALS - sum(people * trials for people, trials, *_ in DATA_SETS.values())
    first = 0
    for name, (people, trials, images, same) in DATA_SETS.items():
        for person in range(people):
            count, left = trials + left, 0
            numbers = first + np.arange(images)
            shown = np.resize(numbers, count)
            with h5py.File(root / f"{name}{person + 1:02d}.responses.h5", "w") as file:
                labels = {"subject": f"{name}{person + 1:02d}", "data": "simulated", "beta_version": "none"}
                writer = ResponseWriter(file, count, VERTICES, mesh="fs_LR_32k", **labels)
                for start in range(0, count, len(some)):
                    writer.append(some[: count - start])
                split = np.select([shown % 10 == 0, shown % 20 == 1], [2, 1], 0)
                fields = {"session": np.arange(count) // 750 + 1, "repeat": np.arange(count) // images}
                writer.finish(ncsnr=np.ones(VERTICES), nsd_id=shown, split=split, **fields)
            with h5py.File(root / f"{name}{person + 1:02d}.latents.h5", "w") as file:
                file["nsd_id"] = numbers
                file["caption_tokens"] = np.zeros((images, CAPTIONS_PER_IMAGE, CONTEXT[0]), np.int32)
                for part, shape in (("mean", LATENT), ("logvar", LATENT), ("text", CONTEXT)):
                    empty = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                    empty.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                    empty.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
                    space = h5py.h5s.create_simple((images, *shape))
                    h5py.h5d.create(file.id, part.encode(), h5py.h5t.IEEE_F16LE, space, empty)
            first += 0 if same else images
        first += images if same else 0


class Selected:
    """Rows by HDF5's own selection."""

    def __init__(self, path: Path):
        self.path, self.dataset, self.process = path, None, -1
        self.shape = Rows(path, "responses").shape

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        if self.process != os.getpid():
            self.dataset, self.process = h5py.File(self.path)["responses"], os.getpid()
        unique, inverse = np.unique(rows, return_inverse=True)
        return self.dataset[unique][inverse]


def memory(process: int | str) -> dict[str, int]:
    """Memory of a process in MiB: the most that it had, files' pages included, and what it has of its own now."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return {name: int(lines[key].split()[0]) // 1024 for name, key in (("peak", "VmHWM"), ("own", "RssAnon"))}


def start_training(root: Path, way: str, steps: int) -> dict:
    """Start a training, wait for its batches, and tell times and memory of its processes."""
    paths, began, used = sorted(root.glob("*.responses.h5")), time.perf_counter(), time.process_time()
    names = {path.name.split(".")[0]: path.name[:-15] for path in paths} if way == "balanced" else None
    responses, validation = (ImageResponses(paths, split, data_sets=names) for split in ("train", "validation"))
    if way == "held":
        responses._rows["responses"] = [h5py.File(path)["responses"][:] for path in paths]
    if way == "selected":
        responses._rows["responses"] = [Selected(path) for path in paths]
    latents = LatentStore(*sorted(root.glob("*.latents.h5"))) if way == "pretrain" else None
    balance = "data_sets" if way == "balanced" else "images"
    made = TrainingBatches(responses, PEOPLE_BATCH, "random", 0, latents, balance=balance)
    loader = iter(made.loader(0, steps, PEOPLE_WORKERS))
    next(loader)
    found = {"first_batch_s": round(time.perf_counter() - began, 2), "cpu_s": round(time.process_time() - used, 2)}
    seconds = []
    found["images"] = len(responses) + len(validation)
    if way == "pretrain":
        return found | {"main_process_mib": memory("self")}
    for _ in range(steps - 1):
        time.sleep(COMPUTING)
        start = time.perf_counter()
        next(loader)
        seconds.append(time.perf_counter() - start)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    found |= {"waited": summary(seconds), "main_process_mib": memory("self")}
    found["worker_mib"] = max((memory(child) for child in children), key=lambda child: child["peak"])
    seconds = []
    for step in range(steps, steps + 30):  # in this process, of rows that may not have been read
        start = time.process_time()
        made[step]
        seconds.append(time.process_time() - start)
    return found | {"made_alone_cpu": summary(seconds)}


def people(given: argparse.Namespace) -> dict:
    """Compare the ways, each in a process of its own."""
    found = {}
    for way in ("mapped", "balanced", "pretrain", "held", "selected"):
        forget(given.root)
        command = [sys.executable, __file__, "--root", given.root, "--steps", given.steps]
        command += ["--start", way]
        done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
        found[way] = json.loads(done.stdout)
        print(way, done.stdout, file=sys.stderr)
    forget(given.root)
    began, used = time.perf_counter(), time.process_time()
    for path in given.root.glob("*.responses.h5"):
        checksum(path)
    ours, held, selected = (found[way] for way in ("mapped", "held", "selected"))
    return {
        "what": f"start of a training on {sum(people for people, *_ in DATA_SETS.values())} people, {PEOPLE_TRIALS} "
        f"trials x {VERTICES} vertices, batches of {PEOPLE_BATCH}, {PEOPLE_WORKERS} workers, nothing in the page cache",
        "wanted": "first batch in less than 30 s, less than 4,000 MiB a process",
        "bytes": sum(path.stat().st_size for path in given.root.glob("*.responses.h5")),
        "ways": found,
        "checksums": {
            "seconds": round(time.perf_counter() - began, 2),
            "cpu_s": round(time.process_time() - used, 2),
        },
        "held_by_mapped": {
            "first_batch_s": round(held["first_batch_s"] / ours["first_batch_s"], 1),
            "own_memory": round(held["main_process_mib"]["own"] / ours["main_process_mib"]["own"], 1),
        },
        "selected_by_mapped": {
            "made_alone_cpu": round(selected["made_alone_cpu"]["median_ms"] / ours["made_alone_cpu"]["median_ms"], 1)
        },
    }


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
    parser.add_argument("--people", action="store_true", help="93 people in place of one")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--start", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.start:
        print(json.dumps(start_training(given.root, given.start, given.steps)))
        return
    described = machine()
    given.root.mkdir(parents=True, exist_ok=True)
    if given.people:
        if not list(given.root.glob("*.responses.h5")):
            write_people(given.root)
        write(people(given) | {"machine": described | {"torch": torch.__version__}}, given.out, "loading-people")
        return
    counted = operations()
    shortest = {name: BATCH * counted / peak / 1e12 for name, peak in PEAK.items()}
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
    write(result, given.out, "loading")


def write(result: dict, out: Path | None, name: str) -> None:
    (out or RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
