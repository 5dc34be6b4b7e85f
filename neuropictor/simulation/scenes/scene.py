"""Procedurally rendered scenes: the images of the simulated NSD and of the miniature backbone's training.

A scene is a function of (seed, nsd_id) alone. It has one of fourteen kinds of background with its own light and view,
and one to three objects of twelve categories in eight colours, any size and place, overlapping at times. Structure
(layout, light, colour) and meaning (category, background) vary independently, so that neither reveals the other.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from neuropictor.simulation.scenes.backgrounds import PAINTERS, Canvas
from neuropictor.simulation.scenes.shapes import SHAPES

CATEGORIES = tuple(SHAPES)
BACKGROUNDS = tuple(PAINTERS)
LIGHTS = ("day", "dusk", "fog", "night")
VIEWS = ("close", "wide")
# Float RGB of each colour name, before jitter.
_COLOURS = {
    "blue": (45, 95, 215),
    "green": (50, 160, 65),
    "orange": (240, 135, 30),
    "pink": (240, 130, 180),
    "purple": (130, 60, 170),
    "red": (210, 40, 40),
    "white": (235, 235, 230),
    "yellow": (245, 210, 50),
}
COLOURS = tuple(_COLOURS)
_FIXED = {
    "white": (245, 245, 240),
    "black": (30, 28, 32),
    "glass": (165, 210, 235),
    "wood": (125, 82, 48),
    "skin": (240, 165, 165),
    "leaf": (60, 140, 60),
}
_PLACE = {
    "city": "a city",
    "desert": "a desert",
    "forest": "a forest",
    "hills": "green hills",
    "meadow": "a meadow",
    "mountains": "snowy mountains",
    "room": "a room",
    "sea": "the sea",
    "space": "outer space",
    "street": "a street",
    "studio": "a plain studio wall",
    "table": "a wooden table",
    "tiles": "a tiled floor",
    "underwater": "blue water",
}
_LIGHT = {"day": "in daylight", "dusk": "at dusk", "fog": "in fog", "night": "at night"}


@dataclass(frozen=True)
class SceneObject:
    """One object: names, centre (0..1, y down), width (fraction of the image), turn (degrees), mirrored or not."""

    category: str
    colour: str
    x: float
    y: float
    size: float
    turn: float
    mirrored: bool


@dataclass(frozen=True)
class Scene:
    """Content of an image; ``objects`` has the main object first, ``texture_seed`` drives all other details."""

    background: str
    light: str
    view: str
    objects: tuple[SceneObject, ...]
    texture_seed: tuple[int, int, int]


def scene(seed: int, nsd_id: int) -> Scene:
    """Draw the scene of one image number.

    Parameters
    ----------
    seed
        The simulation's seed; other seeds give other images for the same numbers.
    nsd_id
        0-based image number.
    """
    rng = np.random.default_rng([seed, nsd_id, 0])
    view = VIEWS[int(rng.random() < 0.55)]
    sizes = [rng.uniform(0.62, 0.85) if view == "close" else rng.uniform(0.4, 0.6)]
    sizes += [rng.uniform(0.2, 0.32) for _ in range(rng.choice([0, 1, 2], p=[0.45, 0.35, 0.2]))]
    objects = []
    for rank, size in enumerate(sizes):
        margin = size * (0.42 if rank == 0 else 0.45)
        objects.append(
            SceneObject(
                category=str(rng.choice(CATEGORIES)),
                colour=str(rng.choice(COLOURS)),
                x=float(rng.uniform(margin, 1 - margin)),
                y=float(rng.uniform(margin, 1 - margin)),
                size=float(size),
                turn=float(rng.normal(0, 8)),
                mirrored=bool(rng.random() < 0.5),
            )
        )
    return Scene(
        background=str(rng.choice(BACKGROUNDS)),
        light=str(rng.choice(LIGHTS, p=[0.4, 0.2, 0.15, 0.25])),
        view=view,
        objects=tuple(objects),
        texture_seed=(seed, nsd_id, 1),
    )


def render(scene: Scene, size: int) -> np.ndarray:
    """Paint a scene.

    Parameters
    ----------
    scene
        From :func:`scene`.
    size
        Side in pixels; painted at three times the size (large images: 1.5 times) and shrunk, for smooth edges.

    Returns
    -------
    numpy.ndarray
        uint8 RGB [size, size, 3].
    """
    rng = np.random.default_rng(scene.texture_seed)
    canvas = Canvas(size * 3 if size <= 128 else size * 3 // 2)
    PAINTERS[scene.background](canvas, rng)
    _light_background(canvas, scene.light, rng)
    for item in reversed(scene.objects):
        _paint_object(canvas, item, scene.light, rng)
    return np.asarray(canvas.image.resize((size, size), Image.Resampling.BOX), dtype=np.uint8)


def reduce_image(image: np.ndarray, size: int) -> np.ndarray:
    """Shrink a uint8 RGB image [S, S, 3] to [size, size, 3] by area averaging."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BOX))


def captions(scene: Scene) -> list[str]:
    """Five descriptions of a scene, as five people would give them."""
    main, place, light = scene.objects[0], _PLACE[scene.background], _LIGHT[scene.light]
    thing = f"{main.colour} {main.category}"
    others = [f"a {item.colour} {item.category}" for item in scene.objects[1:]]
    company = " and ".join(others)
    side = "on the left" if main.x < 0.42 else "on the right" if main.x > 0.58 else "in the middle"
    view = "a close view of" if scene.view == "close" else "a wide view of"
    return [
        f"a {thing} in front of {place} {light}",
        f"{view} a {thing} and {place}" + (f" with {company}" if others else ""),
        f"a {thing} {side} with {company}" if others else f"a {thing} {side} and nothing else",
        f"{place} {light} with a {thing} {side}",
        f"a photo of a {main.category} before {place}" + (f" and {others[0]}" if others else ""),
    ]


def _light_background(canvas: Canvas, light: str, rng: np.random.Generator) -> None:
    """Tint the background by the time of day and let the light fall from a random side."""
    gain = {"day": (1, 1, 1), "dusk": (0.92, 0.76, 0.95), "fog": (0.6, 0.64, 0.7), "night": (0.42, 0.45, 0.62)}[light]
    lift = 75 if light == "fog" else 0
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.4)
    along = (canvas.x - 0.5) * np.float32(slope * np.cos(angle)) + (canvas.y - 0.5) * np.float32(slope * np.sin(angle))
    pixels = canvas.pixels() * np.array(gain, np.float32)
    pixels += np.float32(lift)
    pixels *= (1 + along)[..., None]
    canvas.paste(pixels)


def _paint_object(canvas: Canvas, item: SceneObject, light: str, rng: np.random.Generator) -> None:
    """Paint one object with a soft dark outline; its own light is dimmed less than the background's."""
    body = np.array(_COLOURS[item.colour], dtype=float) * rng.uniform(0.88, 1.08) + rng.uniform(-12, 12, 3)
    accent = np.array(_COLOURS[str(rng.choice([name for name in COLOURS if name != item.colour]))], dtype=float)
    palette = {name: np.array(value, dtype=float) for name, value in _FIXED.items()}
    palette |= {"body": body, "dark": body * 0.68, "light": body * 0.6 + 100, "accent": accent}
    dim = {"day": 1.0, "dusk": 0.92, "fog": 0.9, "night": 0.75}[light]
    turn = np.radians(item.turn)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    flip = np.array([-1.0 if item.mirrored else 1.0, 1.0])
    for role, points in SHAPES[item.category]():
        placed = (points * flip) @ rotation * (item.size / 2) + [item.x, item.y]
        canvas.polygon(placed, palette[role] * dim, outline=palette[role] * dim * 0.45, width=0.012 * item.size)
