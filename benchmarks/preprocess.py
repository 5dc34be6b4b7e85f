"""Preprocessing one session of NSD's real size: against reading its files once, and against the plain way.

    python benchmarks/preprocess.py

Writes two files of 491.5 MB (simulated noise) into a temporary folder and then, each in a process of its own:

- read: both files read into memory, page cache warm;
- ours: `preprocess_subject` on the same files (z-scored, float16, noise ceiling and record), page cache warm;
- plain: load with nibabel, z-score, and for each trial draw the full 1023 x 2514 map, crop, resize, save one .npy, all
  in nibabel's float64; the trials are measured on some and scaled to all.

Each way runs twice in a process of its own, one way after the other, in several rounds; the first and the second runs
are told apart, since the first one also pays for memory that the system has not lent yet. Ratios are those of the
shortest times (others on the machine only add to a time), beside them of medians and of CPU seconds. Imports and what a
process loads once for all sessions (geometry, the plain way's index of vertices) are not counted.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import machine

TRIALS, VERTICES = 750, 163_842
PLAIN_ROUNDS = 3  # it takes a minute
RESULT = Path(__file__).parent / "results" / "preprocess.json"


def write_session(root: Path) -> None:
    from neuropictor.config import SimulateConfig
    from neuropictor.nsd import keys
    from neuropictor.simulation.writer.design import write_experiment_design
    from neuropictor.simulation.writer.nsd import write_betas
    from neuropictor.simulation.writer.trial_order import make_order

    generator = np.random.default_rng(0)
    # The first session of a design of NSD's size: about 30 of its images come three times.
    order = make_order(SimulateConfig(sessions=40, trials_per_session=TRIALS, shared_images=1000))
    (root / keys.SIMULATED).write_text(json.dumps({"sessions": {"1": 1}}))
    write_experiment_design(root, order)
    blocks = (1.75 * generator.standard_normal((50, 2 * VERTICES), np.float32) for _ in range(TRIALS // 50))
    write_betas(files(root), blocks, TRIALS, VERTICES)


def now() -> np.ndarray:
    """Seconds that have passed, and CPU seconds of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def files(root: Path) -> list[Path]:
    from neuropictor.nsd import keys
    from neuropictor.simulation.writer.nsd import BETA_VERSION

    return [root / keys.betas(1, 1, side, BETA_VERSION) for side in ("lh", "rh")]


def read(root: Path, trials: int) -> np.ndarray:
    paths = files(root)
    start = now()
    kept = [np.fromfile(path, np.uint8) for path in paths]
    seconds = now() - start
    assert sum(part.size for part in kept) > 2 * 4 * VERTICES * TRIALS
    return seconds


def ours(root: Path, trials: int) -> np.ndarray:
    from neuropictor.config import NsdConfig, PreprocessConfig
    from neuropictor.data.preprocess import preprocess_subject
    from neuropictor.surface import load_geometry

    load_geometry()
    with tempfile.TemporaryDirectory(dir=root) as folder:
        start = now()
        preprocess_subject(root, 1, PreprocessConfig(validation_images=10), NsdConfig(), Path(folder) / "responses.h5")
        return now() - start


def plain(root: Path, trials: int) -> np.ndarray:
    import nibabel
    from skimage.transform import resize

    from neuropictor.surface.atlas import CROP_COLUMNS, CROP_ROWS

    index, mask = plain_map()
    inside = index < 2 * VERTICES
    vertices = index[inside]
    with tempfile.TemporaryDirectory(dir=root) as folder:
        start = now()
        betas = np.concatenate([nibabel.load(path).get_fdata()[:, 0, 0] for path in files(root)])
        betas = (betas - betas.mean(axis=1, keepdims=True)) / betas.std(axis=1, ddof=1, keepdims=True)
        loaded = now() - start
        start = now()
        for trial in range(trials):
            image = np.zeros(index.shape)
            image[inside] = betas[vertices, trial]
            small = resize(image[CROP_ROWS, CROP_COLUMNS], (256, 256), order=1, anti_aliasing=False)
            small[~mask] = 0
            np.save(Path(folder) / f"{trial:06d}.npy", small)
        return loaded + (now() - start) / trials * TRIALS


def plain_map() -> tuple[np.ndarray, np.ndarray]:
    """Nearest vertex of fsaverage for each pixel of the full map; the number of vertices where there is no cortex."""
    from scipy.spatial import cKDTree

    from neuropictor.surface import load_geometry

    geometry = load_geometry()
    xy = geometry.source_xy("fsaverage")
    there = np.flatnonzero(np.isfinite(xy[:, 0]))
    x, y = np.linspace(-445.59, 449.014, 2515)[:2514], np.linspace(187.598, -176.607, 1024)[:1023]
    distance, nearest = cKDTree(xy[there]).query(np.stack(np.meshgrid(x, y), axis=-1), distance_upper_bound=2.0)
    index = np.where(np.isfinite(distance), np.append(there, 0)[nearest], 2 * VERTICES)
    return index, geometry.map_mask(256)


WAYS = {way.__name__: way for way in (read, ours, plain)}


def run(way: str, root: Path, trials: int) -> dict:
    command = [sys.executable, __file__, "--way", way, "--root", str(root), "--trials", str(trials)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--way", choices=WAYS, help="measure one way on --root and print it (used by the script itself)"
    )
    parser.add_argument("--root", type=Path, help="folder for the files; default: a temporary one")
    parser.add_argument("--trials", type=int, default=20, help="trials of the plain way that are measured")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    if given.way:
        seconds = [np.round(WAYS[given.way](given.root, given.trials), 4).tolist() for _ in range(2)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "peak_gib": round(peak, 3)}))
        return
    described = machine() | {"numpy": np.__version__}
    with tempfile.TemporaryDirectory() as folder:
        root = given.root or Path(folder)
        if not all(path.is_file() for path in files(root)):
            write_session(root)
        size = sum(path.stat().st_size for path in files(root))
        run("read", root, 0)  # warms the page cache
        found = {way: [] for way in WAYS}
        for number in range(given.repeats):
            for way in WAYS if number < PLAIN_ROUNDS else ("read", "ours"):
                found[way].append(run(way, root, given.trials))
    runs = {}
    for place, name in enumerate(("first", "second")):
        times = {way: np.array([item["seconds"][place] for item in items]) for way, items in found.items()}
        seen = {"shortest": {way: values[:, 0].min() for way, values in times.items()}}
        seen["median"] = {way: np.median(values[:, 0]) for way, values in times.items()}
        seen["cpu"] = {way: values[:, 1].min() for way, values in times.items()}
        runs[name] = {
            kind: {
                "ours_over_read": round(seconds["ours"] / seconds["read"], 3),
                "plain_over_ours": round(seconds["plain"] / seconds["ours"], 1),
                "seconds": {way: round(float(value), 4) for way, value in seconds.items()},
            }
            for kind, seconds in seen.items()
        } | {"all_seconds": {way: values[:, 0].tolist() for way, values in times.items()}}
    result = {
        "what": f"one session: {TRIALS} trials x {2 * VERTICES} vertices, {size / 1e6:.1f} MB in two files (simulated)",
        "wanted": {"ours_over_read": "at most 1.2", "peak_gib": "at most 1.5", "plain_over_ours": "at least 50"},
        "peak_gib": {way: max(item["peak_gib"] for item in items) for way, items in found.items()},
        "runs_in_a_process": runs,
        "plain_trials_measured": given.trials,
        "machine": described,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
