"""Train the population start: the networks on simulated people who are none of the subjects.

The paper's encoder has seen thousands of other people before it meets NSD. Here simulated people, none of them subjects
1 to 8, see scenes that no subject sees; calibration and pretraining run on them from random weights, and the outcome is
shipped with the backbone as ``population/``.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from scipy import sparse

from neuropictor.config import CalibrateConfig, EncoderConfig, ReconstructConfig, RuntimeConfig, SimulateConfig
from neuropictor.data.latents import cache_latents
from neuropictor.data.preprocess import resample, z_score
from neuropictor.data.responses import ResponseWriter
from neuropictor.data.stimuli import StimulusWriter
from neuropictor.nsd.constants import REPEATS, TRIALS_PER_SESSION
from neuropictor.runlog import atomic_path, progress
from neuropictor.simulation.brain import SimulatedBrain
from neuropictor.simulation.picture_features import picture_features
from neuropictor.simulation.scenes import Scene, captions
from neuropictor.surface import load_geometry
from neuropictor.training.calibrate import calibrate
from neuropictor.training.reconstruct import pretrain

log = logging.getLogger(__name__)

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
    weights = sparse.csr_array(geometry.resampler(config.mesh)[:, columns])
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
            betas = resample(brain.responses(signal[here], int(number)), weights)
            writer.append(np.nan_to_num(np.clip(z_score(betas, np.ones(len(here), bool), f"person {person}"), -8, 8)))
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
    pictures: np.ndarray,
    scenes: Sequence[Scene],
    backbone: str | Path,
    people: int,
    pictures_each: int,
    simulate: SimulateConfig,
    encoder: EncoderConfig,
    calibration: CalibrateConfig,
    pretraining: ReconstructConfig,
    runtime: RuntimeConfig,
    folder: Path,
) -> None:
    """Make all from rendered pictures to ``calibrate/autoencoder`` and ``pretrain/networks.safetensors`` in ``folder``.

    Parameters
    ----------
    pictures, scenes
        uint8 [N, S, S, 3] and what they show.
    backbone
        Source of the frozen backbone.
    people, pictures_each
        Number of simulated people, and of pictures that each of them sees three times.
    simulate, encoder, calibration, pretraining, runtime
        Sections of the configuration; ``init`` must be scratch.
    folder
        Working folder; finished parts in it are not made again.
    """
    seen = [
        np.sort(np.random.default_rng([simulate.seed, number]).choice(len(pictures), pictures_each, replace=False))
        for number in range(people)
    ]
    stimuli, latents = folder / "stimuli.h5", folder / "latents.h5"
    if not stimuli.is_file():
        write_stimuli(np.unique(np.concatenate(seen)), pictures, scenes, stimuli)
    if not latents.is_file():
        cache_latents(stimuli, backbone, runtime, latents)
    responses = [folder / f"person-{FIRST_PERSON + number}.h5" for number in range(people)]
    for number, path in enumerate(progress(responses, "Simulating people", unit="person")):
        if not path.is_file():
            write_person(FIRST_PERSON + number, seen[number], pictures, scenes, simulate, path)
    autoencoder = folder / "calibrate" / "autoencoder.safetensors"
    networks = folder / "pretrain" / "networks.safetensors"
    if not autoencoder.is_file():
        calibrate(responses, backbone, calibration, encoder, runtime, autoencoder)
    pretrain(responses, latents, backbone, autoencoder, pretraining, runtime, networks)
