"""Scoring at NSD's size: two-way identification against np.corrcoef, and how often networks are loaded.

    python benchmarks/evaluation.py

- ours, corrcoef: two-way identification of 982 reconstructions by features of AlexNet's second layer (184,512 numbers
  an image, float32, random with a weak signal), each in a process of its own that reads the features first; corrcoef
  is the published evaluation's way, `np.corrcoef` of all features stacked. Peak memory is the process's, features
  included.
- networks: all scores of a published protocol that networks give, for 982 images and 5 models. Forward passes are
  not what is measured, so each network is a stand-in of one averaging layer whose outputs have the published sizes;
  loads and looks are counted where the true ones are loaded and look.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from machine import machine

IMAGES, FEATURES, MODELS = 982, 184_512, 5
RESULT = Path(__file__).parent / "results" / "evaluation.json"


def write_features(root: Path) -> None:
    generator = np.random.default_rng(0)
    seen = generator.standard_normal((IMAGES, FEATURES), np.float32)
    np.save(root / "seen.npy", seen)
    seen *= np.float32(0.0025)
    seen += generator.standard_normal((IMAGES, FEATURES), np.float32)
    np.save(root / "drawn.npy", seen)


def ours(root: Path) -> tuple[float, np.ndarray]:
    from neuropictor.evaluation.similarity import identify

    drawn, seen = np.load(root / "drawn.npy"), np.load(root / "seen.npy")
    start = time.perf_counter()
    scores = identify(drawn, seen)
    return time.perf_counter() - start, scores


def corrcoef(root: Path) -> tuple[float, np.ndarray]:
    drawn, seen = np.load(root / "drawn.npy"), np.load(root / "seen.npy")
    start = time.perf_counter()
    matrix = np.corrcoef(seen, drawn)[:IMAGES, IMAGES:]
    scores = (matrix < np.diag(matrix)).sum(0) / (IMAGES - 1)
    return time.perf_counter() - start, scores


def networks(root: Path) -> dict:
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    from neuropictor.evaluation import evaluate
    from neuropictor.evaluation import judging as published
    from neuropictor.evaluation.judges import Held, Judge, load_describer
    from neuropictor.evaluation.metrics import METRICS
    from neuropictor.evaluation.statistics import Pairings
    from neuropictor.models.backbone import Backbone

    lengths = {"alexnet_2": (192, 31), "alexnet_5": (256, 15), "inception": (2048, 1), "clip": (768, 1)}
    lengths |= {"effnet": (1280, 1), "swav": (2048, 1)}
    loads, looks = Counter(), Counter()

    def load(self, network: published.JudgingNetwork, folder: Path, device: torch.device) -> None:
        self.network, self.device, name = network, device, network.name
        loads[name] += 1
        mixes = {
            metric: torch.randn(lengths[metric][0], 3, generator=torch.Generator().manual_seed(7))
            for metric in METRICS
            if METRICS[metric].needs == name
        }

        def forward(images: torch.Tensor) -> dict[str, torch.Tensor]:
            looks[name] += len(images)
            return {
                metric: torch.einsum("cd,ndhw->nchw", mix, adaptive_avg_pool2d(images, lengths[metric][1])).relu()
                for metric, mix in mixes.items()
            }

        self._forward = forward

    published.LoadedNetwork.__init__ = load
    evaluate.PerceptualDistance = lambda *given: no_networks
    METRICS.update({n: replace(m, function=no_pixels) for n, m in METRICS.items() if m.needs == "images"})
    generator = np.random.default_rng(1)
    seen = generator.integers(0, 256, (IMAGES, 64, 64, 3), dtype=np.uint8)
    rows = np.arange(IMAGES)
    drawn = {
        f"model {number}": ((0.6 * seen + 0.4 * generator.integers(0, 256, seen.shape)).astype(np.uint8)[:, None], rows)
        for number in range(MODELS)
    }
    device, none = torch.device("cpu"), np.full(IMAGES, "")
    judge = Judge(load_describer("miniature", Backbone.load(), None, device), Held(seen[:, None]), none, none, [])
    start = time.perf_counter()
    scorer = evaluate.Scorer(judge, ["mindeye2"], Path(), device)
    pairings = Pairings(IMAGES, 999, 0)
    scores = {name: scorer.score(Held(images), rows, pairings)[0] for name, (images, rows) in drawn.items()}
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "loads": dict(loads),
        "looks": dict(looks),
        "images": IMAGES,
        "models": MODELS,
        "protocols": sorted({label for by_metric in scores.values() for label, _ in by_metric}),
    }


def no_networks(made: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Stand in for LPIPS."""
    return np.zeros(len(made))


def no_pixels(made: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Stand in for PixCorr and SSIM, which no network is loaded for."""
    return np.zeros((len(made), 1))


WAYS = {"ours": ours, "corrcoef": corrcoef}


def run(way: str, root: Path) -> dict:
    command = [sys.executable, __file__, "--way", way, "--root", str(root)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=[*WAYS, "networks"], help="measure one way and print it (used by the script)")
    parser.add_argument("--root", type=Path, help="folder for the features (1.45 GB); default: a temporary one")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    if given.way:
        if given.way == "networks":
            found = networks(given.root)
        else:
            seconds, scores = WAYS[given.way](given.root)
            np.save(given.root / f"{given.way}.npy", scores)
            found = {"seconds": round(seconds, 3)}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(found | {"peak_gib": round(peak, 3)}))
        return
    described = machine() | {"numpy": np.__version__}
    with tempfile.TemporaryDirectory() as folder:
        root = given.root or Path(folder)
        if not (root / "drawn.npy").is_file():
            write_features(root)
        found = {way: [] for way in WAYS}
        for _ in range(given.repeats):
            for way in WAYS:
                found[way].append(run(way, root))
        scores = [np.load(root / f"{way}.npy") for way in WAYS]
    seconds = {way: statistics.median(item["seconds"] for item in items) for way, items in found.items()}
    peaks = {way: max(item["peak_gib"] for item in items) for way, items in found.items()}
    result = {
        "what": f"two-way identification, {IMAGES} images x {FEATURES} features in float32 (random)",
        "wanted": {"corrcoef_over_ours": "at least 4", "ours_over_corrcoef_peak": "at most 0.5", "loads": "1 each"},
        "corrcoef_over_ours": round(seconds["corrcoef"] / seconds["ours"], 2),
        "ours_over_corrcoef_peak": round(peaks["ours"] / peaks["corrcoef"], 3),
        "equal_scores": bool(np.array_equal(*scores)),
        "mean_score": round(float(scores[0].mean()), 6),
        "seconds": seconds,
        "all_seconds": {way: [item["seconds"] for item in items] for way, items in found.items()},
        "peak_gib": peaks,
        "features_gib": round(2 * IMAGES * FEATURES * 4 / 2**30, 3),
        "machine": described,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    result["networks"] = run("networks", given.out.parent)
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
