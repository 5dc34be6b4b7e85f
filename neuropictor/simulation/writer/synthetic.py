"""A simulated NSD-synthetic in NSD's layout: order of trials, table and bricks of images, betas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import h5py
import numpy as np
import pandas as pd
import scipy.io

from neuropictor.fetching import manifest
from neuropictor.nsd import keys, synthetic
from neuropictor.nsd.constants import PLANNED_SESSIONS, SCREEN_GREY
from neuropictor.nsd.experiments import beta_keys
from neuropictor.records.files import atomic_path
from neuropictor.simulation.brain.features import SEEN_SIZE
from neuropictor.simulation.scenes import patterns
from neuropictor.simulation.scenes.scene import Scene, reduce_image, render, scene
from neuropictor.simulation.writer.design import MAT_TEXT
from neuropictor.simulation.writer.nsd import BETA_VERSION, brain_of, write_betas

if TYPE_CHECKING:
    from neuropictor.config import SimulateConfig

#: Rows and columns of an image: a third of NSD's 714 x 1360.
SCREEN = (238, 454)
# The natural scenes, which nobody sees in the core: beyond all image numbers.
_SCENES = 1_910_000_000
_NATURAL, _ALTERED = 8, 4
_CONTRASTS, _COHERENCES = (100, 50, 10, 6, 4), (75, 50, 25, 0)
# Least coherence (%) at which the simulated brain makes out what a scene shows; a choice.
_LEGIBLE = 50
_WORDS = {4: ("bird", "lamp", "milk", "tree"), 6: ("bridge", "garden", "pencil", "window")}
_PLACES = ((0.5, 0.5), (0.5, 0.2), (0.8, 0.5), (0.5, 0.8), (0.2, 0.5))
# Gratings by kind: how much of their frequency is radial and how much angular.
_GRATINGS = {"A": (1, 0), "B": (0, 1), "C": (1, 1), "D": (1, -1)}
_FREQUENCIES = (6, 8, 11, 16, 23, 32, 45)
_VERSIONS, _HUES = 4, 16
# Images shown more often than twice, and how often, so that each run has 83 trials besides ten repeats of the last.
_OFTEN, _MOST = 16, 8
_REPEATS_OF_THE_LAST = 10
_SESSION, _STREAM = PLANNED_SESSIONS + 2, 72


class Drawn(NamedTuple):
    """An image: name, class and subclass as in NSD's table, pixels uint8 [238, 238, 3] as seen, and scene, if any."""

    name: str
    category: str
    subclass: str
    image: np.ndarray
    scene: Scene | None


def write_synthetic_images(root: str | Path, config: SimulateConfig) -> None:
    """Write what everybody shares: 220 grey images, the table of all 284, and the order of trials.

    Parameters
    ----------
    root
        Folder of the simulated NSD.
    config
        Section ``simulate``; its seed is used.
    """
    root = Path(root)
    keys.check_free_for_simulation(root)
    grey, coloured = list(_draw_grey(config.seed)), list(_draw_coloured(config.seed, 0))
    _write_brick(root / keys.SYNTHETIC_STIMULI, grey)
    drawn = [*grey, *coloured]
    classes, subclasses = ([*dict.fromkeys(item[part] for item in drawn)] for part in (1, 2))
    table = pd.DataFrame(
        {
            "Image number": np.arange(1, len(drawn) + 1),
            "Image": [item.name for item in drawn],
            "Image subclass number": [subclasses.index(item.subclass) + 1 for item in drawn],
            "Image subclass": [item.subclass for item in drawn],
            "Image class number": [classes.index(item.category) + 1 for item in drawn],
            "Image class": [item.category for item in drawn],
        }
    )
    with atomic_path(root / keys.SYNTHETIC_IMAGES) as temporary:
        table.to_csv(temporary, index=False)
    with atomic_path(root / keys.SYNTHETIC_DESIGN) as temporary:
        scipy.io.savemat(temporary, {"masterordering": (draw_order(config.seed) + 1.0)[None]}, do_compression=True)
        with open(temporary, "r+b") as file:
            file.write(MAT_TEXT)
    manifest.note_simulated(root, [keys.SYNTHETIC_STIMULI, keys.SYNTHETIC_IMAGES, keys.SYNTHETIC_DESIGN])


def write_synthetic_subject(root: str | Path, subject: int, config: SimulateConfig) -> None:
    """Write one subject's 64 coloured images, and betas of all 744 trials; parameters as `write_synthetic_images`."""
    root = Path(root)
    keys.check_free_for_simulation(root)
    coloured = list(_draw_coloured(config.seed, subject))
    drawn = [*_draw_grey(config.seed), *coloured]
    written = [keys.synthetic_colours(subject)]
    _write_brick(root / written[0], coloured)
    brain = brain_of(subject, config)
    seen = np.stack([reduce_image(item.image, SEEN_SIZE) for item in drawn])
    signal = brain.signal(seen, [item.scene for item in drawn])[draw_order(config.seed)]
    written += beta_keys("synthetic", subject, BETA_VERSION)
    blocks = brain.response_blocks(signal, _SESSION)
    write_betas([root / key for key in written[1:]], blocks, len(signal), len(brain.columns) // 2)
    manifest.note_simulated(root, written)


def draw_order(seed: int) -> np.ndarray:
    """Draw the image of each trial, int [744], from 0: eight runs of 83 trials and ten repeats of the one before."""
    rng = np.random.default_rng([seed, _STREAM])
    shown = np.full(synthetic.IMAGES, 2)
    shown[rng.choice(synthetic.IMAGES, _OFTEN, replace=False)] = _MOST
    order = rng.permutation(np.repeat(np.arange(synthetic.IMAGES), shown))
    while len(again := np.flatnonzero(order[1:] == order[:-1])):  # by chance
        pair = [again[0], rng.integers(len(order))]
        order[pair] = order[pair[::-1]]
    runs = []
    for run in order.reshape(synthetic.ROWS // synthetic.TRIALS_PER_RUN, -1):
        again = np.sort(rng.choice(len(run), _REPEATS_OF_THE_LAST, replace=False))
        runs.append(np.insert(run, again, run[again]))
    return np.concatenate(runs)


def _draw_grey(seed: int) -> Iterator[Drawn]:
    """Draw the 220 images without colour; the first four natural scenes are those that the others alter."""
    side = SCREEN[0]
    rng = np.random.default_rng([seed, _STREAM, 1])
    kinds = {"White noise": {}, "White noise, large": {"cells": 17}, "Pink noise": {"pink": True}}
    for number, (kind, options) in enumerate(kinds.items()):
        name = ("whitenoise", "whitenoiselarge", "pinknoise")[number]
        for version in range(1, _VERSIONS + 1):
            yield Drawn(f"{name}_{version}", "Noise", kind, patterns.noise(side, rng, **options), None)
    scenes = [scene(seed, _SCENES + number) for number in range(_NATURAL)]
    natural = [patterns.grey(render(content, side)) for content in scenes]
    for number, (content, image) in enumerate(zip(scenes, natural, strict=True), start=1):
        yield Drawn(f"natscene_{number}", "Natural scenes", "Natural scenes", image, content)
    altered = list(enumerate(zip(scenes[:_ALTERED], natural, strict=False), start=1))
    ways = {"Upside-down": np.flipud, "Mooney": patterns.two_toned, "Line drawing": patterns.lines}
    for way, alter in ways.items():
        for number, (content, image) in altered:
            name = f"{way.lower().replace(' ', '')}_{number}"
            yield Drawn(name, "Manipulated scenes", way, np.ascontiguousarray(alter(image)), content)
    for percent in _CONTRASTS:
        for number, (content, image) in altered:
            lower = patterns.contrast(image, percent / 100)
            yield Drawn(f"contrast{percent}_{number}", "Contrast modulation", f"Contrast {percent}%", lower, content)
    for percent in _COHERENCES:
        for number, (content, image) in altered:
            mixed = patterns.scrambled(image, percent / 100, rng)
            known = content if percent >= _LEGIBLE else None
            category, subclass = "Phase-coherence modulation", f"Phase coherence {percent}%"
            yield Drawn(f"phase{percent}_{number}", category, subclass, mixed, known)
    for length, words in _WORDS.items():
        for place, middle in enumerate(_PLACES, start=1):
            for number, text in enumerate(words, start=1):
                subclass = f"{length} letters, position {place}"
                image = patterns.word(text, side, middle)
                yield Drawn(f"word{length}_pos{place}_{number}", "Single words", subclass, image, None)
    for kind, (radial, angular) in _GRATINGS.items():
        for step, frequency in enumerate(_FREQUENCIES, start=1):
            scale = frequency / np.hypot(radial, angular)
            for version in range(1, _VERSIONS + 1):
                phase = 2 * np.pi * version / _VERSIONS
                image = patterns.spiral(side, radial * scale, round(angular * scale), phase)
                yield Drawn(f"spiral_{kind}_sf{step}_{version}", "Spiral gratings", f"{kind}, {frequency}", image, None)


def _draw_coloured(seed: int, subject: int) -> Iterator[Drawn]:
    """Draw a person's 64 coloured images."""
    for hue in range(_HUES):
        for version in range(1, _VERSIONS + 1):
            rng = np.random.default_rng([seed, _STREAM, 2, subject, version])
            image = patterns.coloured_noise(SCREEN[0], rng, hue / _HUES)
            yield Drawn(f"chromatic_hue{hue + 1}_{version}", "Chromatic noise", f"Hue {hue + 1}", image, None)


def _write_brick(path: Path, drawn: list[Drawn]) -> None:
    """Write images as NSD does: in the middle of a grey screen, in the screen's linear light, whose root is seen."""
    height, width = SCREEN
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        shape = (len(drawn), height, width, 3)
        brick = file.create_dataset("imgBrick", shape, np.uint8, chunks=(1, *shape[1:]), compression="gzip")
        left = (width - height) // 2
        for row, item in enumerate(drawn):
            screen = np.full(shape[1:], SCREEN_GREY, np.uint8)
            screen[:, left : left + height] = item.image
            brick[row] = np.rint(np.square(screen / 255.0) * 255)
