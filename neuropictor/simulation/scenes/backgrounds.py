"""Fourteen kinds of background, each painted into a square image with its own palette, texture and layout.

A background function gets a ``Canvas`` and a seeded generator and paints in coordinates 0..1 (x right, y down), so the
same generator gives the same image at every size.
"""

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

RGB = tuple[int, int, int]


def tone(rng: np.random.Generator, hue: float, saturation: float, value: float, spread: float = 0.04) -> np.ndarray:
    """A colour near (hue, saturation, value), all 0..1, as float RGB [3] in 0..255."""
    jitter = rng.uniform(-1, 1, 3) * [spread, 0.12, 0.1]
    h, s, v = (hue + jitter[0]) % 1, np.clip(saturation + jitter[1], 0, 1), np.clip(value + jitter[2], 0.05, 1)
    return np.array(colorsys.hsv_to_rgb(h, s, v)) * 255


class Canvas:
    """A square image under construction; ``size`` in pixels, coordinates 0..1."""

    def __init__(self, size: int):
        self.size = size
        self.image = Image.new("RGB", (size, size))
        self.draw = ImageDraw.Draw(self.image)
        axis = (np.arange(size, dtype=np.float32) + 0.5) / size
        self.x, self.y = np.meshgrid(axis, axis)

    def gradient(self, start: np.ndarray, end: np.ndarray, position: np.ndarray) -> None:
        """Fill with a blend of two colours; ``position`` [size, size], 0..1, is the second's share."""
        position = np.clip(position, 0, 1, dtype=np.float32)[..., None]
        self.paste(start.astype(np.float32) + (end - start).astype(np.float32) * position)

    def paste(self, pixels: np.ndarray) -> None:
        """Replace the image by float RGB ``pixels`` [size, size, 3] in 0..255; float32 is clipped in place."""
        self.image = Image.fromarray(
            np.clip(pixels, 0, 255, out=pixels if pixels.dtype == np.float32 else None).astype(np.uint8)
        )
        self.draw = ImageDraw.Draw(self.image)

    def pixels(self) -> np.ndarray:
        """The image as float32 RGB [size, size, 3]."""
        return np.asarray(self.image, dtype=np.float32)

    def polygon(
        self, points: ArrayLike, colour: np.ndarray, outline: np.ndarray | None = None, width: float = 0
    ) -> None:
        """Fill a polygon given in 0..1; an outline of ``width`` (fraction of the image) if asked."""
        corners = [tuple(corner) for corner in (np.asarray(points) * self.size).tolist()]
        self.draw.polygon(corners, fill=as_rgb(colour))
        if outline is not None:
            self.draw.line([*corners, corners[0]], as_rgb(outline), max(1, round(width * self.size)), joint="curve")

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: np.ndarray) -> None:
        """Fill an axis-parallel ellipse."""
        box = [(x - rx) * self.size, (y - ry) * self.size, (x + rx) * self.size, (y + ry) * self.size]
        self.draw.ellipse(box, fill=as_rgb(colour))

    def noise(self, rng: np.random.Generator, cells: int, strength: float, stretch: float = 1.0) -> None:
        """Multiply by smooth noise of ``cells`` cells a side; ``strength`` is its relative sd."""
        grid = rng.standard_normal((max(2, round(cells * stretch)), cells)).astype(np.float32)
        smooth = Image.fromarray(grid).resize((self.size, self.size), Image.Resampling.BICUBIC)
        self.paste(self.pixels() * (1 + np.float32(strength) * np.asarray(smooth))[..., None])

    def ridge(
        self, rng: np.random.Generator, base: float, height: float, colour: np.ndarray, rough: int, tilt: float = 0.0
    ) -> None:
        """Fill below a random skyline around y = ``base``."""
        x = np.linspace(-0.02, 1.02, 60)
        line = sum(
            rng.uniform(-1, 1) / k * np.sin(2 * np.pi * (k * x * 0.8 + rng.random())) for k in range(1, rough + 1)
        )
        y = base + height * line + tilt * (x - 0.5)
        self.polygon(np.concatenate([np.stack([x, y], 1), [[1.02, 1.02], [-0.02, 1.02]]]), colour)


def as_rgb(colour: np.ndarray) -> RGB:
    """Float RGB to Pillow's 8-bit triple."""
    red, green, blue = (int(c) for c in np.clip(colour, 0, 255))
    return red, green, blue


def _sky(canvas: Canvas, rng: np.random.Generator) -> None:
    top = tone(rng, rng.choice([0.58, 0.6, 0.08, 0.9, 0.75, 0.5]), rng.uniform(0.15, 0.6), rng.uniform(0.35, 0.95))
    low = tone(rng, rng.choice([0.55, 0.6, 0.12, 0.95, 0.45]), rng.uniform(0.05, 0.5), rng.uniform(0.5, 1.0))
    canvas.gradient(top, low, canvas.y / rng.uniform(0.4, 1.0) + rng.uniform(-0.5, 0.5) * (canvas.x - 0.5))
    if rng.random() < 0.5:
        x, y, r = rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.3), rng.uniform(0.04, 0.1)
        canvas.ellipse(x, y, r, r, tone(rng, 0.13, rng.uniform(0.1, 0.5), 1.0))
    for _ in range(rng.integers(0, 4)):
        x, y, shade = rng.random(), rng.uniform(0.05, 0.35), tone(rng, 0.6, 0.04, rng.uniform(0.75, 1.0))
        for _ in range(4):
            canvas.ellipse(x + rng.uniform(-0.09, 0.09), y + rng.uniform(-0.015, 0.015), 0.08, 0.032, shade)


def _hills(canvas: Canvas, rng: np.random.Generator) -> None:
    _sky(canvas, rng)
    base, hue, value = rng.uniform(0.3, 0.65), rng.uniform(0.12, 0.42), rng.uniform(0.35, 0.8)
    for layer in range(3):
        colour = tone(rng, hue, 0.35 + 0.12 * layer, value - 0.1 * layer)
        canvas.ridge(rng, base + 0.16 * layer, 0.06, colour, 3, rng.uniform(-0.2, 0.2))


def _sea(canvas: Canvas, rng: np.random.Generator) -> None:
    _sky(canvas, rng)
    base, colour = (
        rng.uniform(0.12, 0.6),
        tone(rng, rng.uniform(0.45, 0.62), rng.uniform(0.4, 0.75), rng.uniform(0.35, 0.8)),
    )
    canvas.polygon([[0, base], [1, base], [1, 1], [0, 1]], colour)
    for _ in range(26):
        depth = rng.random() ** 1.4
        y, x, half = base + (1 - base) * depth, rng.random(), 0.03 + 0.1 * depth
        canvas.ellipse(x, y, half, 0.004 + 0.006 * depth, colour + rng.uniform(-20, 55))
    if rng.random() < 0.5:
        edge, side = rng.uniform(0.65, 0.9), rng.uniform(-0.25, 0.25)
        canvas.polygon([[0, edge - side], [1, edge + side], [1, 1], [0, 1]], tone(rng, 0.11, 0.3, 0.85))


def _desert(canvas: Canvas, rng: np.random.Generator) -> None:
    _sky(canvas, rng)
    hue, value = rng.uniform(0.03, 0.14), rng.uniform(0.55, 0.95)
    base = rng.uniform(0.15, 0.5)
    for layer in range(4):
        canvas.ridge(
            rng, base + 0.17 * layer, 0.07, tone(rng, hue, 0.5, value - 0.11 * (layer % 2)), 2, rng.uniform(-0.45, 0.45)
        )


def _forest(canvas: Canvas, rng: np.random.Generator) -> None:
    hue = rng.choice([0.25, 0.3, 0.36, 0.1, 0.06])
    deep, glow = tone(rng, hue, 0.6, rng.uniform(0.15, 0.4)), tone(rng, hue - 0.05, 0.4, rng.uniform(0.5, 0.95))
    x, y = rng.uniform(0.1, 0.9), rng.uniform(0.0, 0.7)
    canvas.gradient(glow, deep, np.hypot(canvas.x - x, canvas.y - y) * rng.uniform(1.2, 2))
    canvas.noise(rng, 14, 0.16)
    bark = tone(rng, 0.07, 0.4, rng.uniform(0.15, 0.5))
    for depth in np.sort(rng.random(rng.integers(5, 10))):
        at, half, lean = rng.random(), 0.012 + 0.035 * depth, rng.uniform(-0.05, 0.05)
        colour = bark * (0.5 + 0.5 * depth) + deep * (0.5 - 0.5 * depth)
        canvas.polygon(
            [[at - half + lean, 0], [at + half + lean, 0], [at + half * 1.3, 1], [at - half * 1.3, 1]], colour
        )


def _city(canvas: Canvas, rng: np.random.Generator) -> None:
    _sky(canvas, rng)
    hue, lit = rng.choice([0.6, 0.7, 0.05, 0.0, 0.1]), tone(rng, 0.14, 0.45, 1.0)
    for layer in range(2):
        left = -0.1
        while left < 1:
            width, top = rng.uniform(0.09, 0.2), rng.uniform(0.05, 0.5) + 0.22 * layer
            colour = tone(rng, hue, rng.uniform(0.1, 0.4), rng.uniform(0.2, 0.75))
            canvas.polygon([[left, top], [left + width, top], [left + width, 1], [left, 1]], colour)
            for row in np.arange(top + 0.04, 0.98, 0.075):
                for column in np.arange(left + 0.02, left + width - 0.02, 0.05):
                    pane = lit if rng.random() < 0.45 else colour * 0.7
                    canvas.polygon(
                        [[column, row], [column + 0.026, row], [column + 0.026, row + 0.038], [column, row + 0.038]],
                        pane,
                    )
            left += width + rng.uniform(0, 0.02)


def _mountains(canvas: Canvas, rng: np.random.Generator) -> None:
    _sky(canvas, rng)
    rock, snow = tone(rng, rng.choice([0.6, 0.75, 0.05]), 0.25, rng.uniform(0.3, 0.6)), tone(rng, 0.6, 0.05, 0.97)
    for layer in range(4):
        x, y, half = rng.uniform(0, 1), rng.uniform(0.1, 0.35) + 0.08 * layer, rng.uniform(0.35, 0.6)
        canvas.polygon([[x - half, 1], [x, y], [x + half, 1]], rock * (0.8 + 0.12 * layer))
        canvas.polygon([[x, y], [x + half, 1], [x + 0.1 * half, 1]], rock * (0.6 + 0.12 * layer))
        canvas.polygon(
            [
                [x, y],
                [x + 0.27 * half, y + 0.24],
                [x + 0.05, y + 0.17],
                [x - 0.06, y + 0.25],
                [x - 0.25 * half, y + 0.22],
            ],
            snow,
        )
    if rng.random() < 0.6:
        canvas.ridge(rng, rng.uniform(0.7, 0.85), 0.04, snow, 3)


def _room(canvas: Canvas, rng: np.random.Generator) -> None:
    wall = tone(rng, rng.random(), rng.uniform(0.1, 0.5), rng.uniform(0.45, 0.95), 0)
    canvas.gradient(wall, wall * 0.75, canvas.x if rng.random() < 0.5 else 1 - canvas.x)
    stripes = rng.integers(0, 9)
    for i in range(stripes):
        x = (i + 0.25) / stripes
        canvas.polygon([[x, 0], [x + 0.4 / stripes, 0], [x + 0.4 / stripes, 1], [x, 1]], wall * rng.uniform(0.86, 0.9))
    base, skew = rng.uniform(0.6, 0.85), rng.uniform(-0.12, 0.12)
    canvas.polygon(
        [[0, base - skew], [1, base + skew], [1, 1], [0, 1]], tone(rng, rng.random(), 0.35, rng.uniform(0.3, 0.8), 0)
    )
    x, y, w, h = rng.uniform(0.05, 0.65), rng.uniform(0.06, 0.25), rng.uniform(0.18, 0.3), rng.uniform(0.2, 0.35)
    canvas.polygon(
        [
            [x - 0.025, y - 0.025],
            [x + w + 0.025, y - 0.025],
            [x + w + 0.025, y + h + 0.025],
            [x - 0.025, y + h + 0.025],
        ],
        tone(rng, 0.08, 0.4, rng.uniform(0.3, 1)),
    )
    canvas.polygon([[x, y], [x + w, y], [x + w, y + h], [x, y + h]], tone(rng, rng.random(), 0.35, rng.uniform(0.4, 1)))


def _table(canvas: Canvas, rng: np.random.Generator) -> None:
    plank, angle = (
        tone(rng, rng.uniform(0.03, 0.12), rng.uniform(0.25, 0.65), rng.uniform(0.35, 0.9)),
        rng.uniform(0, np.pi),
    )
    count = rng.integers(4, 9)
    along = canvas.x * np.cos(angle) + canvas.y * np.sin(angle) + 1
    board = np.floor(along * count).astype(int) % 16
    seam = np.minimum(along * count % 1, 1 - along * count % 1) < 0.05
    shade = rng.uniform(0.75, 1.1, 16)[board] * np.where(seam, 0.6, 1)
    canvas.paste(plank * shade[..., None])
    canvas.noise(rng, 10, 0.05)


def _meadow(canvas: Canvas, rng: np.random.Generator) -> None:
    hue = rng.uniform(0.2, 0.4)
    start, end = tone(rng, hue, 0.55, rng.uniform(0.3, 0.8)), tone(rng, hue, 0.5, rng.uniform(0.3, 0.8))
    angle = rng.uniform(0, 2 * np.pi)
    canvas.gradient(start, end, 0.5 + (canvas.x - 0.5) * np.cos(angle) + (canvas.y - 0.5) * np.sin(angle))
    canvas.noise(rng, 24, 0.1)
    petals = tone(rng, rng.random(), rng.uniform(0.1, 0.7), 0.95, 0)
    for _ in range(rng.integers(25, 70)):
        x, y, r = rng.random(), rng.random(), rng.uniform(0.008, 0.022)
        canvas.ellipse(x, y, r, r, petals)


def _underwater(canvas: Canvas, rng: np.random.Generator) -> None:
    hue = rng.uniform(0.45, 0.65)
    bright, deep = tone(rng, hue, 0.5, rng.uniform(0.65, 0.95)), tone(rng, hue, 0.8, rng.uniform(0.15, 0.5))
    x = rng.uniform(0, 1)
    canvas.gradient(bright, deep, np.hypot(canvas.x - x, canvas.y + 0.1) * rng.uniform(0.7, 1.2))
    for _ in range(4):
        at, to = x + rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 1.2)
        canvas.polygon(
            [[at, 0], [at + 0.04, 0], [to + 0.12, 1], [to, 1]], canvas.pixels()[canvas.size // 3].mean(0) * 1.15
        )
    if rng.random() < 0.6:
        canvas.ridge(rng, rng.uniform(0.75, 0.9), 0.04, tone(rng, 0.11, 0.35, rng.uniform(0.4, 0.8)), 4)
    for _ in range(rng.integers(6, 16)):
        r = rng.uniform(0.008, 0.024)
        canvas.ellipse(rng.random(), rng.random(), r, r, bright * 0.6 + 100)


def _space(canvas: Canvas, rng: np.random.Generator) -> None:
    angle, hue = rng.uniform(0, 2 * np.pi), rng.random()
    dark, cloud = tone(rng, hue, 0.7, 0.12), tone(rng, hue + rng.uniform(-0.15, 0.15), 0.7, rng.uniform(0.3, 0.6))
    band = (canvas.x - rng.uniform(0.2, 0.8)) * np.cos(angle) + (canvas.y - rng.uniform(0.2, 0.8)) * np.sin(angle)
    canvas.gradient(dark, cloud, np.exp(-((band / 0.25) ** 2)))
    canvas.noise(rng, 7, 0.25)
    for _ in range(70):
        r = rng.uniform(0.002, 0.008)
        canvas.ellipse(rng.random(), rng.random(), r, r, tone(rng, 0.14, 0.15, 1.0))
    if rng.random() < 0.7:
        x, y, r, planet = rng.random(), rng.random(), rng.uniform(0.1, 0.28), tone(rng, rng.random(), 0.5, 0.85, 0)
        canvas.ellipse(x, y, r, r, planet * 0.6)
        canvas.ellipse(x - 0.12 * r, y - 0.12 * r, r * 0.86, r * 0.86, planet)


def _studio(canvas: Canvas, rng: np.random.Generator) -> None:
    hue, x, y = rng.random(), rng.uniform(0, 1), rng.uniform(0, 1)
    near, far = (
        tone(rng, hue, rng.uniform(0.05, 0.6), rng.uniform(0.4, 1)),
        tone(rng, hue, rng.uniform(0.1, 0.7), rng.uniform(0.15, 0.8)),
    )
    canvas.gradient(near, far, np.hypot(canvas.x - x, canvas.y - y) * rng.uniform(0.9, 1.6))


def _tiles(canvas: Canvas, rng: np.random.Generator) -> None:
    one, two = (
        tone(rng, rng.random(), rng.uniform(0.1, 0.6), rng.uniform(0.25, 0.95), 0),
        tone(rng, rng.random(), rng.uniform(0.05, 0.5), rng.uniform(0.3, 1), 0),
    )
    angle, count = rng.uniform(0, np.pi / 2), rng.uniform(3.5, 7)
    u = (canvas.x - 0.5) * np.cos(angle) + (canvas.y - 0.5) * np.sin(angle)
    v = -(canvas.x - 0.5) * np.sin(angle) + (canvas.y - 0.5) * np.cos(angle)
    check = (np.floor(u * count + 20) + np.floor(v * count + 20)) % 2
    canvas.paste(np.where(check[..., None] > 0, one, two))


def _street(canvas: Canvas, rng: np.random.Generator) -> None:
    _sky(canvas, rng)
    x, y = rng.uniform(0.15, 0.85), rng.uniform(0.25, 0.6)
    canvas.polygon(
        [[0, y], [1, y], [1, 1], [0, 1]], tone(rng, rng.choice([0.3, 0.1, 0.6]), 0.3, rng.uniform(0.4, 0.75))
    )
    for side in (-1, 1):
        wall = tone(rng, rng.random(), rng.uniform(0.15, 0.45), rng.uniform(0.3, 0.9), 0)
        outer, far = (0.0, x - 0.05) if side < 0 else (1.0, x + 0.05)
        canvas.polygon([[outer, rng.uniform(-0.5, 0)], [far, y - 0.12], [far, y], [outer, y + 0.35]], wall)
    road = tone(rng, 0.65, 0.08, rng.uniform(0.2, 0.55))
    canvas.polygon(
        [[x - 0.015, y], [x + 0.015, y], [x + rng.uniform(0.35, 0.6), 1], [x - rng.uniform(0.35, 0.6), 1]], road
    )
    for step in (0.25, 0.5, 0.8):
        half, down = 0.012 * step + 0.003, y + (1 - y) * step
        canvas.polygon(
            [
                [x - half, down],
                [x + half, down],
                [x + 1.3 * half, down + 0.12 * step],
                [x - 1.3 * half, down + 0.12 * step],
            ],
            np.full(3, 240.0),
        )


PAINTERS: dict[str, Callable[[Canvas, np.random.Generator], None]] = {
    "city": _city,
    "desert": _desert,
    "forest": _forest,
    "hills": _hills,
    "meadow": _meadow,
    "mountains": _mountains,
    "room": _room,
    "sea": _sea,
    "space": _space,
    "street": _street,
    "studio": _studio,
    "table": _table,
    "tiles": _tiles,
    "underwater": _underwater,
}
