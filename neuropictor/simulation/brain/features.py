"""The simulated brain's view of an image: low-level maps of its pixels, and the meaning of its scene."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter

from neuropictor.simulation.brain.areas import CHANNELS
from neuropictor.simulation.scenes.scene import BACKGROUNDS, CATEGORIES, COLOURS, LIGHTS, VIEWS, Scene, render, scene

#: Side of the images that the brain sees, and of the maps of its channels.
SEEN_SIZE = 64
MAP_SIZE = 32
#: Centres of the coarse places of objects (x, y in 0..1, y down), and one that covers all.
PLACES = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
_PLACE_RADIUS = 0.25
N_PLACES = len(PLACES) + 1
N_MIXED = 48
_MAX_OBJECTS = 3
# How well objects show in each light.
_VISIBILITY = {"day": 1.0, "dusk": 0.95, "fog": 0.75, "night": 0.85}
# Keeps the competition between objects from being complete: a lone small object drives less than a large one.
_SEMISATURATION = 0.25
_MAIN_BONUS = 1.5
# Scenes that set the scale of all features; far beyond the image numbers of any subject.
_REFERENCE_START, _REFERENCE_COUNT = 2_000_000_000, 320


@dataclass(frozen=True)
class ImageFeatures:
    """Features of n images, scaled by the reference scenes.

    Attributes
    ----------
    maps
        float32 [channels, n, MAP_SIZE**2], see `CHANNELS`.
    groups
        name of `visual_areas.GROUPS` -> float32 [n, width]; ``category`` is [n, categories * places].
    """

    maps: np.ndarray
    groups: dict[str, np.ndarray]

    def __len__(self) -> int:
        return self.maps.shape[1]


def image_features(images: np.ndarray, scenes: Sequence[Scene | None], seed: int) -> ImageFeatures:
    """Compute the features of images.

    Parameters
    ----------
    images
        uint8 [n, 64, 64, 3].
    scenes
        The n scenes shown; None for images without objects, which have no meaning, only pixels.
    seed
        Of the simulation; sets the scale and the random mixtures.

    Raises
    ------
    ValueError
        If images have another shape, or there is not one scene per image.
    """
    if images.ndim != 4 or images.shape[1:] != (SEEN_SIZE, SEEN_SIZE, 3) or images.dtype != np.uint8:
        raise ValueError(
            f"images are {images.dtype} {list(images.shape)}; allowed: uint8 [n, {SEEN_SIZE}, {SEEN_SIZE}, 3]"
        )
    if len(scenes) != len(images):
        raise ValueError(f"{len(images)} images but {len(scenes)} scenes; allowed: one scene an image")
    return _scaled(images, scenes, *_scales(seed))


@functools.lru_cache(maxsize=4)
def reference_features(seed: int) -> ImageFeatures:
    """Compute features of scenes that no subject sees; they fix means and spreads for all sets of images."""
    scenes, images = _reference(seed)
    return image_features(images, scenes, seed)


@functools.lru_cache(maxsize=4)
def _reference(seed: int) -> tuple[list[Scene], np.ndarray]:
    scenes = [scene(seed, _REFERENCE_START + i) for i in range(_REFERENCE_COUNT)]
    return scenes, np.stack([render(item, SEEN_SIZE) for item in scenes])


@functools.lru_cache(maxsize=4)
def _scales(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, tuple[np.ndarray, float]]]:
    scenes, images = _reference(seed)
    maps = channel_maps(images)
    centre, spread = maps.mean(axis=(1, 2)), maps.std(axis=(1, 2))
    maps = (maps - centre[:, None, None]) / spread[:, None, None]
    pooled = _pooled(maps)
    mixture = np.random.default_rng([seed, 21]).standard_normal((pooled.shape[1], N_MIXED), dtype=np.float32)
    mixture /= (pooled @ mixture).std(axis=0)
    groups = scene_groups(scenes) | {"mixed": _mixed(pooled, mixture)}
    scale = {name: (values.mean(axis=0), float(np.sqrt(values.var(axis=0).sum()))) for name, values in groups.items()}
    return centre, spread, mixture, scale


def _scaled(images, scenes, centre, spread, mixture, scale) -> ImageFeatures:
    maps = channel_maps(images)
    maps -= centre[:, None, None]
    maps /= spread[:, None, None]
    groups = scene_groups(scenes) | {"mixed": _mixed(_pooled(maps), mixture)}
    return ImageFeatures(maps, {name: (values - scale[name][0]) / scale[name][1] for name, values in groups.items()})


def channel_maps(images: np.ndarray) -> np.ndarray:
    """Compute low-level maps: luminance, two colour opponents, local contrast, contour energy at four orientations.

    Returns
    -------
    numpy.ndarray
        float32 [channels, n, MAP_SIZE**2], row-major.
    """
    red, green, blue = (images[..., i].astype(np.float32) / np.float32(255) for i in range(3))
    luminance = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    contrast = np.abs(luminance - uniform_filter(luminance, size=(0, 7, 7)))
    across = np.zeros_like(luminance)
    across[:, :, 1:-1] = luminance[:, :, 2:] - luminance[:, :, :-2]
    down = np.zeros_like(luminance)
    down[:, 1:-1] = luminance[:, 2:] - luminance[:, :-2]
    diagonal = np.float32(np.sqrt(0.5))
    maps = (
        luminance,
        red - green,
        blue - (red + green) / 2,
        contrast,
        np.abs(down),
        np.abs((across + down) * diagonal),
        np.abs(across),
        np.abs((across - down) * diagonal),
    )
    assert len(maps) == len(CHANNELS)
    step = SEEN_SIZE // MAP_SIZE
    small = [
        item.reshape(-1, MAP_SIZE, step, MAP_SIZE, step).mean(axis=(2, 4)).reshape(len(images), -1) for item in maps
    ]
    return np.stack(small)


def scene_groups(scenes: Sequence[Scene | None]) -> dict[str, np.ndarray]:
    """Compute the meaning of scenes, one array [n, width] a group.

    Objects compete: each counts by its size, the main one more, divided by all objects together.
    """
    n = len(scenes)
    category = np.zeros((n, len(CATEGORIES), N_PLACES), np.float32)
    colour = np.zeros((n, len(COLOURS)), np.float32)
    place = np.zeros((n, N_PLACES), np.float32)
    background = np.zeros((n, len(BACKGROUNDS)), np.float32)
    light = np.zeros((n, len(LIGHTS)), np.float32)
    view = np.zeros((n, len(VIEWS)), np.float32)
    count = np.zeros((n, _MAX_OBJECTS), np.float32)
    for row, item in enumerate(scenes):
        if item is None:
            continue
        salience = np.array([thing.size for thing in item.objects])
        salience[0] *= _MAIN_BONUS
        strength = _VISIBILITY[item.light] * salience / (_SEMISATURATION + salience.sum())
        for thing, amount in zip(item.objects, strength, strict=True):
            where = amount * _places(thing.x, thing.y)
            category[row, CATEGORIES.index(thing.category)] += where
            colour[row, COLOURS.index(thing.colour)] += amount
            place[row] += where * thing.size
        # The background shows less the more the objects cover.
        background[row, BACKGROUNDS.index(item.background)] = 1 - 0.5 * min(1.0, float(np.square(salience).sum()))
        light[row, LIGHTS.index(item.light)] = 1
        view[row, VIEWS.index(item.view)] = 1
        count[row, min(len(item.objects), _MAX_OBJECTS) - 1] = 1
    return {
        "category": category.reshape(n, -1),
        "colour": colour,
        "place": place,
        "background": background,
        "light": light,
        "view": view,
        "count": count,
    }


def _places(x: float, y: float) -> np.ndarray:
    distance = np.square(PLACES - [x, y]).sum(axis=1)
    return np.append(np.exp(-distance / (2 * _PLACE_RADIUS**2)), 0.5).astype(np.float32)


def _pooled(maps: np.ndarray) -> np.ndarray:
    """Average channel maps over an 8 x 8 grid; [n, channels * 64]."""
    channels, n = maps.shape[:2]
    step = MAP_SIZE // 8
    small = maps.reshape(channels, n, 8, step, 8, step).mean(axis=(3, 5))
    return small.transpose(1, 0, 2, 3).reshape(n, -1)


def _mixed(pooled: np.ndarray, mixture: np.ndarray) -> np.ndarray:
    return np.maximum(pooled @ mixture, 0)
