"""Train the population start: the networks on simulated people who are not subjects.

The paper's encoder has seen thousands of other people before it meets NSD. Here simulated people, none of them subjects
1 to 8, see scenes that no subject sees; calibration and pretraining run on them from random weights, and the result is
shipped with the backbone as ``population/``.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from neuropictor.config import CalibrateConfig, PreprocessConfig, ReconstructConfig, SimulateConfig
from neuropictor.data.alignment import align_subject, make_space
from neuropictor.data.latents import cache_latents
from neuropictor.data.preprocess import write_responses
from neuropictor.data.sessions import Resampler
from neuropictor.data.stimuli import StimulusWriter
from neuropictor.miniature.networks import render_scenes
from neuropictor.miniature.settings import MiniatureSettings
from neuropictor.models.backbone import Backbone
from neuropictor.models.networks import load_weights, save_weights
from neuropictor.models.pipeline import NeuroPictorPipeline
from neuropictor.models.pipeline_folder import INDEX, read_networks
from neuropictor.models.population import AUTOENCODER, SPACE
from neuropictor.nsd.constants import REPEATS, TRIALS_PER_SESSION
from neuropictor.records.files import atomic_path
from neuropictor.records.progress import progress
from neuropictor.records.record import RunRecord
from neuropictor.simulation.brain.brain import SimulatedBrain
from neuropictor.simulation.brain.features import image_features
from neuropictor.simulation.scenes.scene import Scene, captions
from neuropictor.surface import load_geometry
from neuropictor.training.calibrate import calibrate
from neuropictor.training.reconstruct import pretrain

FIRST_PERSON = 101
VALIDATION_IMAGES = 16


def write_stimuli(rows: np.ndarray, images: np.ndarray, scenes: Sequence[Scene], out: Path) -> None:
    """Write the rendered scenes of ``rows`` as a stimuli file; ``nsd_id`` is the row."""
    chosen = [scenes[row] for row in rows]
    with atomic_path(out) as temporary, h5py.File(temporary, "w") as file:
        writer = StimulusWriter(file, rows, images.shape[1], "simulated")
        writer.append(images[rows])
        writer.finish(
            [captions(item) for item in chosen],
            [item.objects[0].category for item in chosen],
            [item.background for item in chosen],
        )


class _Person:
    """Betas of a simulated person on visual cortex, as `write_responses` reads them.

    Parameters
    ----------
    person
        Number of the person.
    images, scenes
        Images seen: uint8 ``[N, 64, 64, 3]``.
    trials
        ``session`` and ``nsd_id`` of each trial, and ``row``, its place in `images`.
    config
        Section simulate.
    """

    def __init__(
        self, person: int, images: np.ndarray, scenes: Sequence[Scene], trials: pd.DataFrame, config: SimulateConfig
    ):
        geometry = load_geometry()
        columns = geometry.columns(config.mesh)
        self.resample = Resampler(sparse.csr_array(geometry.resampler(config.mesh)[:, columns]))
        noise = {"ncsnr": config.ncsnr, "smooth_noise": config.smooth_noise}
        self.brain = SimulatedBrain(geometry, config.mesh, person, config.seed, **noise, columns=columns)
        self.signal = self.brain.signal_of(image_features(images, scenes, config.seed))
        self.trials = trials

    def check(self, sessions: list[int]) -> None:
        """Do nothing: no file can be missing."""

    def files(self, sessions: list[int]) -> list[Path]:
        """Return no files: betas are simulated when read."""
        return []

    def betas(self, session: int) -> np.ndarray:
        """Return betas float32 ``[T, V]`` of one session."""
        rows = self.trials.loc[self.trials["session"] == session, "row"].to_numpy()
        return self.resample(self.brain.responses(self.signal[rows], session))


def write_person(
    person: int,
    rows: np.ndarray,
    split: np.ndarray,
    images: np.ndarray,
    scenes: Sequence[Scene],
    config: SimulateConfig,
    out: Path,
    subject: str = "",
) -> None:
    """Simulate one person's responses to the images of ``rows``, three repeats each, as a response store.

    ``split`` tells for each of them the index into `neuropictor.data.responses.SPLITS`; the subject's label is the
    number unless it is given.
    """
    order = np.random.default_rng([config.seed, person]).permutation(np.repeat(np.arange(len(rows)), REPEATS))
    trials = pd.DataFrame(
        {"row": order, "nsd_id": rows[order], "session": np.arange(len(order)) // TRIALS_PER_SESSION + 1}
    )
    trials["repeat"] = trials.groupby("row").cumcount()
    reader = _Person(person, images[rows], [scenes[row] for row in rows], trials, config)
    labels = {"subject": subject or str(person), "data": "simulated", "beta_version": "simulated", "mesh": config.mesh}
    sessions = trials["session"].unique().tolist()
    write_responses(reader, sessions, trials, split[order], PreprocessConfig(), labels, {"simulate": config}, [], out)


def train_population(backbone: str | Path, settings: MiniatureSettings, out: str | Path) -> None:
    """Train and write the start weights of a backbone: autoencoder, shared space and networks.

    Intermediate files stay in ``work/`` of the folder until the end; a stopped training is resumed from there.

    Parameters
    ----------
    backbone
        Source of the frozen backbone.
    settings
        The backbone's scenes are shown to the people; ``population`` has the number of people and images, and the
        length of the training.
    out
        Folder ``population`` of the backbone; ``run.json`` is written into it last.
    """
    out = Path(out)
    work = out / "work"
    config, encoder, runtime = settings.population, settings.encoder, settings.runtime
    align = settings.align.model_copy(update={"folds": config.folds})
    sections = {"population": config, "simulate": settings.simulate, "encoder": encoder, "align": align}
    with RunRecord(out / "run.json", "population", config=sections, seed=config.seed, outputs=[out]):
        responses = _simulate_people(settings, work)
        latents = work / "latents.h5"
        if not latents.is_file():
            cache_latents(work / "stimuli.h5", backbone, runtime, latents)
        autoencoder, networks = work / "calibrate" / AUTOENCODER, work / "pretrain"
        shared = {"init": "scratch", "batch_size": config.batch_size, "warmup": 50, "seed": config.seed}
        if not autoencoder.is_file():
            stage = CalibrateConfig(steps=config.calibrate_steps, learning_rate=config.calibrate_rate, **shared)
            calibrate(responses, backbone, stage, encoder, runtime, autoencoder)
        components = None
        if align.tokens:
            components = [path.with_name(f"{path.stem}.components.h5") for path in responses]
            if not (work / SPACE).is_file():
                make_space([latents], responses, None, align, work / SPACE)
            for path, aligned in zip(responses, components, strict=True):
                if not aligned.is_file():
                    align_subject(path, latents, work / SPACE, align, aligned)
        stage = ReconstructConfig(
            steps=config.pretrain_steps,
            semantic_steps=config.semantic_steps,
            learning_rate=config.pretrain_rate,
            **shared,
        )
        if not (networks / INDEX).is_file():
            pretrain(responses, [latents], backbone, autoencoder, stage, runtime, networks, components, align.tokens)
        state, described = load_weights(autoencoder)
        save_weights(out / AUTOENCODER, {name: tensor.half() for name, tensor in state.items()}, described)
        halved = read_networks(networks).half()
        NeuroPictorPipeline.from_parts(halved, Backbone.load(backbone)).save_trained(out, backbone)
        if align.tokens:
            shutil.copyfile(work / SPACE, out / SPACE)
    shutil.rmtree(work)


def _simulate_people(settings: MiniatureSettings, work: Path) -> list[Path]:
    """Write the images that anyone sees as ``stimuli.h5``, and everyone's responses, unless they exist."""
    training, config, simulate = settings.backbone, settings.population, settings.simulate
    stimuli = work / "stimuli.h5"
    people = range(FIRST_PERSON, FIRST_PERSON + config.people)
    responses = [work / f"person-{person}.h5" for person in people]
    missing = [path for path in (stimuli, *responses) if not path.is_file()]
    if not missing:
        return responses
    images, scenes = render_scenes(range(training.scenes), training.seed, max(1, settings.runtime.threads))
    seen = [
        np.sort(np.random.default_rng([simulate.seed, number]).choice(len(images), config.images, replace=False))
        for number in range(config.people)
    ]
    if stimuli in missing:
        write_stimuli(np.unique(np.concatenate(seen)), images, scenes, stimuli)
    for person, rows, path in zip(progress(people, "Simulating people", unit="person"), seen, responses, strict=True):
        if path in missing:
            split = (np.arange(len(rows)) < VALIDATION_IMAGES).astype(int)
            write_person(person, rows, split, images, scenes, simulate, path)
    return responses
