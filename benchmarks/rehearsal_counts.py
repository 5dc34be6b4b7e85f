"""What grows with NSD's counts, at these counts, with cheap stand-ins for the networks.

    PYTHONPATH=.:tests python benchmarks/rehearsal_counts.py NAME --work DIR [--make]

Used by `rehearsal.py`: each measurement is a process of its own, after one that makes its input (``--make``).
Inputs have the true shapes and types and random values, or nothing but zeros (chunks that were never written), where
values do not matter. The stand-in for a backbone has Stable Diffusion's sizes of images, latents and text, and few
channels; the stand-ins for published networks give features of the true lengths.
"""

import argparse
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from rehearsal_data import SEED, TEXT, folder_once, full_order, write_notice

from neuropictor.config import AlignConfig, EvaluateConfig, NsdConfig, PreprocessConfig, RuntimeConfig, SampleConfig
from neuropictor.data.responses import ResponseWriter
from neuropictor.data.stimuli import StimulusWriter
from neuropictor.fetching.nsd import ARCHIVES
from neuropictor.nsd import keys
from neuropictor.nsd.constants import SUBJECTS, TRIALS_PER_SESSION
from neuropictor.nsd.design import Design, load_design
from neuropictor.records.files import atomic_path
from neuropictor.simulation.scenes.scene import BACKGROUNDS, CATEGORIES
from neuropictor.simulation.writer.coco import CocoImages
from neuropictor.simulation.writer.design import write_experiment_design, write_stimulus_info
from neuropictor.simulation.writer.nsd import BETA_VERSION

SUBJECT, RELEASE, VERTICES, SIDE = 1, 37, 8921, 512
LATENTS, TEXT_SHAPE = (4, 64, 64), (77, 1024)
MODELS = ("refined", "pretrained", "ridge_diffusion", "ridge", "nearest", "mean_image")
#: Length of the features that each published network gives.
FEATURES = {
    "alexnet": {"alexnet_2": 184_512, "alexnet_5": 57_600},
    "inception": {"inception": 2048},
    "clip": {"clip": 768},
    "effnet": {"effnet": 1280},
    "swav": {"swav": 2048},
}
RUNTIME = RuntimeConfig(device="cpu", threads=2)


def folder(work: Path) -> Path:
    return work / "counts"


# Inputs ---------------------------------------------------------------------------------------------------------------


def make_root(work: Path) -> None:
    """Make a root with NSD's whole design; its bank holds no bytes of images, and reads as black ones."""
    with folder_once(folder(work) / "nsd") as root:
        if not root:
            return
        design = full_order()
        write_experiment_design(root, design)
        write_stimulus_info(root, design, CocoImages(design.n_images, SEED))
        write_notice(root / keys.SIMULATED)
        for key in ARCHIVES:
            with zipfile.ZipFile(work / "bucket" / key) as packed:
                packed.extractall(root)
        bank = root / keys.STIMULI
        bank.parent.mkdir(parents=True)
        bank.symlink_to(work / "bucket" / keys.STIMULI)


def design_of(work: Path) -> Design:
    return load_design(folder(work) / "nsd")


def make_sessions(work: Path) -> None:
    """Make what `preprocess_session` keeps of all sessions of a subject."""
    make_root(work)
    betas = np.random.default_rng(0).normal(0, 2, (TRIALS_PER_SESSION, VERTICES)).astype(np.float32)
    for session, path in kept_sessions(work).items():
        if not path.is_file():
            with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
                file["betas"] = betas
                file.attrs.update(subject=SUBJECT, session=session, beta_version=BETA_VERSION)
                file.attrs.update(mesh="fsaverage", data="simulated")


def kept_sessions(work: Path) -> dict[int, Path]:
    return {n: folder(work) / keys.kept_session(SUBJECT, n, BETA_VERSION) for n in range(1, RELEASE + 1)}


def _write_stores(design: Design, subject: int, release: int, out: Path, random: np.random.Generator | None) -> None:
    """Write responses and latents of a subject: random, or nothing but zeros."""
    counted = design.counted_sessions(subject, release)
    trials, split = design.trials(subject, counted), design.splits(subject, 0, counted)
    names = {"subject": f"{subject:02d}", "data": "simulated", "beta_version": BETA_VERSION, "mesh": "fsaverage"}
    with atomic_path(out / "responses.h5") as temporary, h5py.File(temporary, "w") as file:
        writer = ResponseWriter(file, len(trials), VERTICES, **names)
        if random:
            for _ in range(0, len(trials), TRIALS_PER_SESSION):
                writer.append(random.standard_normal((TRIALS_PER_SESSION, VERTICES), np.float32))
        writer._filled = len(trials)  # what was not appended reads as zeros
        fields = {name: trials[name].to_numpy() for name in ("nsd_id", "session", "repeat")}
        writer.finish(ncsnr=np.full(VERTICES, 0.4), split=split, **fields)
    nsd_ids = np.unique(trials["nsd_id"])
    with atomic_path(out / "latents.h5") as temporary, h5py.File(temporary, "w") as file:
        sizes = {"mean": LATENTS, "logvar": LATENTS, "text": TEXT_SHAPE}
        made = {name: file.create_dataset(name, (len(nsd_ids), *size), "f2") for name, size in sizes.items()}
        made["caption_tokens"] = file.create_dataset("caption_tokens", (len(nsd_ids), 5, TEXT_SHAPE[0]), "i4")
        for dataset in made.values():
            dataset[-1] = 0  # its place in the file is taken, and no bytes but these
        file["nsd_id"] = nsd_ids.astype(np.int32)
        file.attrs.update(data="simulated", backbone="stand-in")
        if random:
            # Slices of one long row of random numbers: making all of them anew would take a quarter of an hour.
            pool = random.standard_normal(2**25, np.float32).astype(np.float16)
            for row in range(len(nsd_ids)):
                for name, size in sizes.items():
                    start = random.integers(len(pool) - int(np.prod(size)))
                    made[name][row] = pool[start : start + int(np.prod(size))].reshape(size)


def make_subject(work: Path) -> None:
    """Make the stores of one subject of the 37-session release: 8,859 training and 982 test images."""
    make_root(work)
    with folder_once(folder(work) / "subject") as out:
        if out:
            _write_stores(design_of(work), SUBJECT, RELEASE, out, np.random.default_rng(1))
    make_stimuli(work)
    make_small_backbone(work)


def make_stimuli(work: Path) -> None:
    """Make the images of the same subject; only those of the test are there, the others are black."""
    make_root(work)
    design, out = design_of(work), folder(work) / "stimuli.h5"
    if out.is_file():
        return
    nsd_ids, test = design.images([SUBJECT], RELEASE), test_images(design)
    with atomic_path(out) as temporary, h5py.File(temporary, "w") as file:
        writer = StimulusWriter(file, nsd_ids, SIDE, "simulated")
        for row, image in zip(np.searchsorted(nsd_ids, test), images(test, 0), strict=True):
            writer.dataset[row] = image
        writer._filled = len(nsd_ids)
        numbers = range(len(nsd_ids))
        writer.finish(
            [[f"image {number}"] * 5 for number in nsd_ids],
            [CATEGORIES[number % len(CATEGORIES)] for number in numbers],
            [BACKGROUNDS[number % len(BACKGROUNDS)] for number in numbers],
        )


def test_images(design: Design) -> np.ndarray:
    trials = design.trials(SUBJECT, design.counted_sessions(SUBJECT, RELEASE))
    return np.unique(trials.loc[trials["shared"], "nsd_id"])


def images(nsd_ids: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yield images of 16 x 16 random patches, which take little room in a file."""
    for nsd_id in nsd_ids:
        small = np.random.default_rng([seed, int(nsd_id)]).integers(0, 256, (16, 16, 3), np.uint8)
        yield small.repeat(SIDE // 16, 0).repeat(SIDE // 16, 1)


def make_small_backbone(work: Path) -> None:
    """Make a backbone with Stable Diffusion's sizes of images, latents and text, and hardly any weights."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from stable_diffusion_folder import save_stable_diffusion
    from transformers import CLIPTextConfig, CLIPTextModel

    with folder_once(folder(work) / "backbone") as out:
        if not out:
            return
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=1024,
            attention_head_dim=(2, 4),
            norm_num_groups=4,
            use_linear_projection=True,
        )
        vae = AutoencoderKL(
            block_out_channels=(4, 8, 8, 8),
            layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4,
            sample_size=SIDE,
        )
        text = CLIPTextConfig(**TEXT | {"intermediate_size": 16}, num_hidden_layers=1)
        save_stable_diffusion(out, unet, vae, CLIPTextModel(text))


def make_samples(work: Path) -> None:
    """Make the reconstructions of five models."""
    from neuropictor.data.reconstructions import Reconstructions, write_reconstructions

    make_stimuli(work)
    make_small_backbone(work)
    test = test_images(design_of(work))
    for number, model in enumerate(MODELS, start=1):
        path = folder(work) / "sample" / f"sub-{SUBJECT:02d}" / f"{model}.h5"
        if not path.is_file():
            drawn = np.stack(list(images(test, number)))[:, None]
            write_reconstructions(path, Reconstructions(drawn, test, model, f"{SUBJECT:02d}", "simulated"))


def make_everyone(work: Path) -> None:
    """Make stores of all eight subjects with all their sessions, of zeros."""
    make_root(work)
    for subject in SUBJECTS:
        with folder_once(folder(work) / f"everyone/sub-{subject:02d}") as out:
            if out:
                _write_stores(design_of(work), subject, 40, out, None)


# Measurements ---------------------------------------------------------------------------------------------------------


def preprocess_subject(work: Path) -> dict:
    from neuropictor.data.preprocess import preprocess_subject

    out, kept = folder(work) / "preprocessed/responses.h5", list(kept_sessions(work).values())
    preprocess_subject(folder(work) / "nsd", SUBJECT, PreprocessConfig(validation_images=0), _nsd(), out, kept)
    return {"sessions": RELEASE, "trials": RELEASE * TRIALS_PER_SESSION, "vertices": VERTICES}


def preprocess_stimuli(work: Path) -> dict:
    from neuropictor.data.preprocess import preprocess_stimuli

    out = folder(work) / "preprocessed/stimuli.h5"
    preprocess_stimuli(folder(work) / "nsd", [SUBJECT], PreprocessConfig(image_size=SIDE), _nsd(), out)
    with h5py.File(out) as file:
        count = len(file["nsd_id"])
    out.unlink()
    return {"images": count, "pixels": SIDE}


def _nsd() -> NsdConfig:
    return NsdConfig(source="fetch", release=RELEASE, terms_accepted=True)


def stand_in_judges() -> None:
    """Put what cuts pixels off in the place of the published networks; their outputs have the true lengths."""
    import torch

    from neuropictor.evaluation import judging

    class Clip(torch.nn.Module):
        visual = argparse.Namespace(image_size=(224, 224))

        def encode_image(self, images):
            return images.flatten(1)[:, : FEATURES["clip"]["clip"]]

        def encode_text(self, tokens):
            return tokens.float().repeat(1, 10)[:, : FEATURES["clip"]["clip"]]

    def stand_in(self, network, place, device):
        self.network, self.device, lengths = network, device, FEATURES[network.name]
        self._forward = lambda images: {name: images.flatten(1)[:, :n] for name, n in lengths.items()}

    judging.load_network = lambda network, place, device: Clip()
    judging.LoadedNetwork.__init__ = stand_in
    judging.PerceptualDistance.__init__ = lambda self, *arguments: None
    judging.PerceptualDistance.__call__ = lambda self, one, other: np.zeros(len(one))


def evaluate(work: Path) -> dict:
    from neuropictor.evaluation.evaluate import evaluate

    stand_in_judges()
    place = folder(work) / "sample" / f"sub-{SUBJECT:02d}"
    evaluate(
        samples={f"{SUBJECT:02d}": {model: place / f"{model}.h5" for model in MODELS}},
        stimuli=[folder(work) / "stimuli.h5"],
        backbone=folder(work) / "backbone",
        config=EvaluateConfig(networks="published", protocols=["ours", "neuropictor", "mindeye2"]),
        runtime=RUNTIME,
        out=folder(work) / "evaluated/metrics.csv",
        weights=folder(work),
    )
    return {"models": len(MODELS) + 1, "test_images": len(test_images(design_of(work))), "pixels": SIDE}


ALIGNED = AlignConfig(text_components=256, latent_components=192, folds=2)


def align_space(work: Path) -> dict:
    from neuropictor.data.alignment import make_space

    stores, out = folder(work) / "subject", folder(work) / "aligned/space.safetensors"
    make_space([stores / "latents.h5"], [stores / "responses.h5"], None, ALIGNED, out)
    return {"text_components": ALIGNED.text_components, "text_features": int(np.prod(TEXT_SHAPE))}


def align(work: Path) -> dict:
    from neuropictor.data.alignment import align_subject

    stores, out = folder(work) / "subject", folder(work) / "aligned"
    align_subject(
        stores / "responses.h5", stores / "latents.h5", out / "space.safetensors", ALIGNED, out / "components.h5"
    )
    return {**_fitted(work), "folds": ALIGNED.folds}


def baselines(work: Path) -> dict:
    from neuropictor.evaluation.baselines import fit_baselines
    from neuropictor.evaluation.tables import FITTED

    stores = folder(work) / "subject"
    stand_in_judges()
    fit_baselines(
        stores / "responses.h5",
        folder(work) / "stimuli.h5",
        stores / "latents.h5",
        folder(work) / "backbone",
        EvaluateConfig(networks="published"),
        SampleConfig(steps=1, batch_size=16),
        RUNTIME,
        {model: folder(work) / f"fitted/{model}.h5" for model in FITTED},
        folder(work),
    )
    return {**_fitted(work), "latents": int(np.prod(LATENTS)), "text_features": int(np.prod(TEXT_SHAPE))}


def _fitted(work: Path) -> dict:
    from neuropictor.data.responses import ResponseStore

    store = ResponseStore(folder(work) / "subject/responses.h5")
    counts = {f"{split}_images": len(store.images(split)) for split in ("train", "test")}
    return counts | {"trials": len(store), "vertices": VERTICES}


def loader(work: Path) -> dict:
    """Start the loader of a pretraining on all subjects, as `training.reconstruct` does, and take four batches."""
    from neuropictor.data.datasets import ImageResponses, TrainingBatches
    from neuropictor.data.latents import LatentStore

    places = [folder(work) / f"everyone/sub-{subject:02d}" for subject in SUBJECTS]
    responses = [place / "responses.h5" for place in places]
    latents = LatentStore(*(place / "latents.h5" for place in places))
    batches, _ = (
        TrainingBatches(ImageResponses(responses, split), 96, "mean", SEED, latents=latents, captions="random")
        for split in ("train", "validation")
    )
    started = time.monotonic()
    for _ in batches.loader(0, 4, workers=2):
        print(f"a batch after {time.monotonic() - started:.1f} s", flush=True)
    trials = sum(h5py.File(path)["nsd_id"].shape[0] for path in responses)
    return {"subjects": len(SUBJECTS), "trials": trials, "items": len(batches.responses), "workers": 2}


#: Name: what makes its input, the measurement, the rule whose memory must do, and further limits (GiB).
COUNTS = {
    "preprocess_subject": (make_sessions, preprocess_subject, "preprocess_subject"),
    "preprocess_stimuli": (make_root, preprocess_stimuli, "preprocess_stimuli"),
    "loader": (make_everyone, loader, "pretrain"),
    "evaluate": (make_samples, evaluate, "evaluate"),
    "align_space": (make_subject, align_space, "align_space"),
    "align": (make_subject, align, "align"),
    "baselines": (make_subject, baselines, "baselines"),
}
RULES = {name: rule for name, (_, _, rule) in COUNTS.items()}
#: Less than the rule gives, since the image bank of the paper is to be scored on a laptop (GiB).
LIMITS = {"evaluate": 12.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=COUNTS)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--make", action="store_true", help="make the input, and measure nothing")
    given = parser.parse_args()
    make, measure, _ = COUNTS[given.name]
    if given.make:
        make(given.work)
        return
    started = time.monotonic()
    counts = measure(given.work)
    print(json.dumps({"seconds": round(time.monotonic() - started, 1), "counts": counts}))


if __name__ == "__main__":
    main()
