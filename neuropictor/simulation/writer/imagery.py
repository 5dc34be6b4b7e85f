"""A simulated NSD-Imagery in NSD's layout: target images, tables of trials, and betas of seen and imagined targets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd
from PIL import Image

from neuropictor.fetching import manifest
from neuropictor.nsd import imagery, keys
from neuropictor.nsd.constants import PLANNED_SESSIONS, SCREEN_GREY
from neuropictor.nsd.design import load_design
from neuropictor.nsd.experiments import beta_keys
from neuropictor.records.files import atomic_path
from neuropictor.simulation.brain.areas import IMAGINED_HIGH, IMAGINED_LOW
from neuropictor.simulation.brain.features import SEEN_SIZE
from neuropictor.simulation.scenes.patterns import bars, word
from neuropictor.simulation.scenes.scene import Scene, reduce_image, render, scene
from neuropictor.simulation.writer.nsd import BETA_VERSION, brain_of, write_betas

if TYPE_CHECKING:
    from neuropictor.config import SimulateConfig

# Scene of the artwork, which nobody sees in the core: beyond all image numbers.
_ARTWORK = 1_900_000_000
_SESSION, _STREAM = PLANNED_SESSIONS + 1, 71
# Of NSD's tables; buttons and times are missing here.
_COLUMNS = ["SUBJECT", "SESSION", "RUN", "TRIAL", "CONDITION", "CUE", "FRAMEFILE", "IMAGEFILE", "GROUNDTRUTH"]
_COLUMNS += ["ISCORRECT", "CHANGEMIND", "TOTAL1", "TOTAL2", "BUTTON", "TRIALONSET", "TRIALEND", "IMAGEONSET"]
_COLUMNS += ["IMAGESERIESENDS", "FINALDECISIONTIME", "RT"]


def write_imagery_images(root: str | Path, config: SimulateConfig) -> None:
    """Write the twelve target images of sets A and B as PNG.

    Parameters
    ----------
    root
        Folder that `neuropictor.simulation.writer.nsd.write_images` has written.
    config
        Section ``simulate``, as given to it.
    """
    root = Path(root)
    keys.check_free_for_simulation(root)
    targets, images, _ = _targets(root, config)
    written = []
    for name, stimulus_set, image in zip(targets["name"], targets["stimulus_set"], images, strict=True):
        if stimulus_set != "C":
            written.append(keys.imagery_target(stimulus_set, name))
            with atomic_path(root / written[-1]) as temporary:
                Image.fromarray(image).save(temporary)
    manifest.note_simulated(root, written)


def write_imagery_subject(root: str | Path, subject: int, config: SimulateConfig) -> None:
    """Write one subject's tables of trials, and betas of all 720 rows; parameters as `write_imagery_images`."""
    root = Path(root)
    keys.check_free_for_simulation(root)
    targets, images, scenes = _targets(root, config)
    brain = brain_of(subject, config)
    seen = brain.signal(np.stack([reduce_image(image, SEEN_SIZE) for image in images]), scenes)
    blank = brain.signal(np.full((1, SEEN_SIZE, SEEN_SIZE, 3), SCREEN_GREY, np.uint8), [None])
    imagined = blank + (IMAGINED_HIGH + (IMAGINED_LOW - IMAGINED_HIGH) * brain.low_level) * (seen - blank)
    signal, written = np.empty((imagery.ROWS, seen.shape[1]), np.float32), []
    for number, run in enumerate(imagery.RUNS.values()):
        of_set = np.flatnonzero(targets["stimulus_set"] == run.stimulus_set)
        shown, cued = _draw_run(run, of_set, np.random.default_rng([config.seed, _STREAM, number]))
        if run.kind == "att":  # the cue alone, then a rapid series of all images of the set
            pair = np.stack([blank[0], seen[of_set].mean(axis=0)])
            signal[run.rows] = np.tile(pair, (imagery.TRIALS_PER_RUN, 1))
        else:
            signal[run.rows] = (seen if run.kind == "vis" else imagined)[shown]
        written.append(keys.imagery_trials(subject, run.name))
        _write_trials(root / written[-1], subject, number + 1, run, targets, shown, cued)
    betas = beta_keys("imagery", subject, BETA_VERSION)
    blocks = brain.response_blocks(signal, _SESSION)
    write_betas([root / key for key in betas], blocks, len(signal), len(brain.columns) // 2)
    manifest.note_simulated(root, [*written, *betas])


def _targets(root: Path, config: SimulateConfig) -> tuple[pd.DataFrame, list[np.ndarray], list[Scene | None]]:
    """Return the targets, and what a person sees of each: image uint8 [S, S, 3], and scene."""
    targets = imagery.targets_of(load_design(root))
    images, scenes = [], []
    with h5py.File(root / keys.STIMULI, "r") as file:
        bank = file["imgBrick"]
        for stimulus_set, name, nsd_id in targets.itertuples(index=False):
            content = None
            if stimulus_set == "A":
                turn = float(name[4:9])  # as in bar_045.0deg
                angles = (turn,) if name.startswith("bar") else (turn, turn + 90)
                images.append(bars(angles, config.image_size))
            elif stimulus_set == "C":
                images.append(word(name, config.image_size))
            else:
                content = scene(config.seed, _ARTWORK if nsd_id < 0 else nsd_id)
                images.append(render(content, config.image_size) if nsd_id < 0 else bank[nsd_id])
            scenes.append(content)
    return targets, images, scenes


def _draw_run(run: imagery.Run, of_set: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw target and cue of each trial, int [48] each; in half of a vision run, the cue is of another target."""
    shown = rng.permutation(np.repeat(np.arange(len(of_set)), imagery.REPEATS_PER_RUN))
    cued = shown.copy()
    if run.kind == "vis":
        for target in range(len(of_set)):
            other = rng.permutation(np.flatnonzero(shown == target))[: imagery.REPEATS_PER_RUN // 2]
            cued[other] = (target + rng.integers(1, len(of_set), len(other))) % len(of_set)
    return of_set[shown], of_set[cued]


def _write_trials(
    path: Path, subject: int, number: int, run: imagery.Run, targets: pd.DataFrame, shown: np.ndarray, cued: np.ndarray
) -> None:
    """Write a run's table."""
    stems = [Path(name).stem for name in targets["name"].iloc[shown]]
    cues = targets.index[cued]
    frames = [f"{stem if run.kind == 'vis' else 'blank'}_cue{cue}.png" for stem, cue in zip(stems, cues, strict=True)]
    given = {
        "SUBJECT": subject,
        "SESSION": 1,
        "RUN": number,
        "TRIAL": np.arange(1, len(shown) + 1),
        "CONDITION": targets.index[shown],
        "CUE": cues,
        "FRAMEFILE": frames,
        "IMAGEFILE": targets["name"].iloc[shown].to_numpy(),
        "GROUNDTRUTH": (shown == cued).astype(int),
    }
    table = pd.DataFrame(given).reindex(columns=_COLUMNS)
    with atomic_path(path) as temporary:
        table.to_csv(temporary, sep="\t", index=False, na_rep="NaN")
