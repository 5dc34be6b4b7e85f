"""Train the population start: the networks on simulated people who are none of the subjects.

The paper's encoder has seen thousands of other people before it meets NSD. Here simulated people, none of them subjects
1 to 8, see scenes that no subject sees; calibration and pretraining run on them from random weights, and the outcome is
shipped with the backbone as ``population/``.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from scipy import sparse

from neuropictor.config import (
    AlignConfig,
    BackboneTrainingConfig,
    CalibrateConfig,
    EncoderConfig,
    PopulationConfig,
    ReconstructConfig,
    RuntimeConfig,
    SimulateConfig,
)
from neuropictor.data.alignment import align_subject, make_space
from neuropictor.data.latents import cache_latents
from neuropictor.data.responses import ResponseWriter
from neuropictor.data.sessions import Resampler
from neuropictor.data.stimuli import StimulusWriter
from neuropictor.data.z_scores import Statistics, z_score
from neuropictor.miniature.networks import render_scenes
from neuropictor.models.backbone import Backbone
from neuropictor.models.networks import load_weights, save_weights
from neuropictor.models.pipeline import NeuroPictorPipeline
from neuropictor.models.pipeline_folder import INDEX, read_networks
from neuropictor.models.population import AUTOENCODER, SPACE
from neuropictor.nsd.constants import REPEATS, TRIALS_PER_SESSION
from neuropictor.records.files import Folder, atomic_path
from neuropictor.records.progress import progress
from neuropictor.records.record import RunRecord
from neuropictor.simulation.brain.brain import SimulatedBrain
from neuropictor.simulation.brain.features import picture_features
from neuropictor.simulation.scenes.scene import Scene, captions
from neuropictor.surface import load_geometry
from neuropictor.training.calibrate import calibrate
from neuropictor.training.reconstruct import pretrain

FIRST_PERSON = 101
VALIDATION_PICTURES = 16


def write_stimuli(rows: np.ndarray, pictures: np.ndarray, scenes: Sequence[Scene], out: Path) -> None:
    """Write the rendered scenes of ``rows`` as a stimuli file; ``nsd_id`` is the row."""
    chosen = [scenes[row] for row in rows]
    with atomic_path(out) as temporary, h5py.File(temporary, "w") as file:
        writer = StimulusWriter(file, rows, pictures.shape[1], "simulated")
        writer.append(pictures[rows])
        writer.finish(
            [captions(item) for item in chosen],
            [item.objects[0].category for item in chosen],
            [item.background for item in chosen],
        )


def write_person(
    person: int, rows: np.ndarray, pictures: np.ndarray, scenes: Sequence[Scene], config: SimulateConfig, out: Path
) -> None:
    """Simulate one person's responses to the pictures of ``rows``, three repeats each, as a response store."""
    geometry = load_geometry()
    columns = geometry.columns(config.mesh)
    resample = Resampler(sparse.csr_array(geometry.resampler(config.mesh)[:, columns]))
    brain = SimulatedBrain(
        geometry,
        config.mesh,
        person,
        config.seed,
        ncsnr=config.ncsnr,
        smooth_noise=config.smooth_noise,
        columns=columns,
    )
    signal = brain.signal_of(picture_features(pictures[rows], [scenes[row] for row in rows], config.seed))
    order = np.random.default_rng([config.seed, person]).permutation(np.repeat(np.arange(len(rows)), REPEATS))
    session = np.arange(len(order)) // TRIALS_PER_SESSION + 1
    with atomic_path(out) as temporary, h5py.File(temporary, "w") as file:
        writer = ResponseWriter(
            file,
            len(order),
            geometry.n_vertices,
            subject=person,
            data="simulated",
            beta_version="simulated",
            mesh=config.mesh,
        )
        for number in np.unique(session):
            here = order[session == number]
            betas = resample(brain.responses(signal[here], int(number)))
            scored = z_score(betas, Statistics.of(betas, np.ones(len(here), bool)), f"person {person}")
            writer.append(np.nan_to_num(np.clip(scored, -8, 8)))
        repeat = np.empty(len(order), int)
        repeat[np.argsort(order, kind="stable")] = np.tile(np.arange(REPEATS), len(rows))
        writer.finish(
            ncsnr=np.zeros(geometry.n_vertices),
            nsd_id=rows[order],
            session=session,
            repeat=repeat,
            split=(order < VALIDATION_PICTURES).astype(int),
        )


def train_population(
    backbone: str | Path,
    training: BackboneTrainingConfig,
    config: PopulationConfig,
    simulate: SimulateConfig,
    encoder: EncoderConfig,
    align: AlignConfig,
    runtime: RuntimeConfig,
    out: Folder,
) -> None:
    """Train and write the start weights of a backbone: autoencoder, shared space and networks.

    All that is made on the way stays in ``work/`` of the folder until the end; a stopped training goes on from there.

    Parameters
    ----------
    backbone
        Source of the frozen backbone.
    training
        Its scenes are shown to the people.
    config
        How many people see how much, and how long is trained.
    simulate, encoder, align, runtime
        Sections of the configuration: the people's brains, and the sizes of encoder and alignment.
    out
        Folder ``population`` of the backbone; ``run.json`` is written into it last.
    """
    out = Path(out)
    work = out / "work"
    align = align.model_copy(update={"folds": config.folds})
    sections = {"population": config, "simulate": simulate, "encoder": encoder, "align": align}
    with RunRecord(out / "run.json", "population", config=sections, seed=config.seed):
        responses = _simulate_people(training, config, simulate, max(1, runtime.threads), work)
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


def _simulate_people(
    training: BackboneTrainingConfig, config: PopulationConfig, simulate: SimulateConfig, processes: int, work: Path
) -> list[Path]:
    """Write the pictures that anyone sees as ``stimuli.h5``, and everyone's responses; finished files are kept."""
    stimuli = work / "stimuli.h5"
    people = range(FIRST_PERSON, FIRST_PERSON + config.people)
    responses = [work / f"person-{person}.h5" for person in people]
    missing = [path for path in (stimuli, *responses) if not path.is_file()]
    if not missing:
        return responses
    pictures, scenes = render_scenes(range(training.scenes), training.seed, processes)
    seen = [
        np.sort(np.random.default_rng([simulate.seed, number]).choice(len(pictures), config.pictures, replace=False))
        for number in range(config.people)
    ]
    if stimuli in missing:
        write_stimuli(np.unique(np.concatenate(seen)), pictures, scenes, stimuli)
    for person, rows, path in zip(progress(people, "Simulating people", unit="person"), seen, responses, strict=True):
        if path in missing:
            write_person(person, rows, pictures, scenes, simulate, path)
    return responses
