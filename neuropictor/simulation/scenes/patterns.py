"""Images without objects (bars, words, noise, gratings), and scenes altered on purpose.

Altered scenes and all patterns but `coloured_noise` are grey, as in NSD-synthetic.
"""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from neuropictor.nsd.constants import SCREEN_GREY

# Bars of NSD-Imagery are 450 long and 43 wide, by their names; that these are pixels of NSD's square of 714 (NSD Data
# Manual), and that bars are black, is our reading.
_SQUARE, _BAR_LENGTH, _BAR_WIDTH = 714, 450, 43
_FINER = 3  # drawn so many times larger, for smooth edges
# Contrast of noise and gratings around the grey of the screen.
_DEVIATION = 50.0


def bars(degrees: tuple[float, ...], size: int) -> np.ndarray:
    """Draw bars through the middle, one at each angle (anticlockwise from the horizontal); uint8 [size, size, 3]."""
    canvas = Image.new("L", (size * _FINER, size * _FINER), SCREEN_GREY)
    draw, unit = ImageDraw.Draw(canvas), size * _FINER / _SQUARE
    for angle in np.radians(degrees):
        along = np.array([np.cos(angle), -np.sin(angle)]) * _BAR_LENGTH / 2 * unit
        across = np.array([np.sin(angle), np.cos(angle)]) * _BAR_WIDTH / 2 * unit
        corners = np.array([along + across, along - across, -along - across, -along + across]) + size * _FINER / 2
        draw.polygon([tuple(corner) for corner in corners.tolist()], fill=0)
    return _grey(np.asarray(canvas.resize((size, size), Image.Resampling.BOX)))


def word(text: str, size: int, place: tuple[float, float] = (0.5, 0.5), height: float = 0.12) -> np.ndarray:
    """Write a word, its middle at (x, y) of the image; uint8 [size, size, 3]. `height`: of letters, a share of it."""
    canvas = Image.new("L", (size * _FINER, size * _FINER), SCREEN_GREY)
    font = ImageFont.load_default(height * size * _FINER)
    ImageDraw.Draw(canvas).text((place[0] * canvas.width, place[1] * canvas.height), text, 0, font, anchor="mm")
    return _grey(np.asarray(canvas.resize((size, size), Image.Resampling.BOX)))


def noise(size: int, rng: np.random.Generator, cells: int | None = None, pink: bool = False) -> np.ndarray:
    """Draw noise, white in `cells` squares a side (default: pixels), or pink; uint8 [size, size, 3]."""
    field = rng.standard_normal((cells or size,) * 2)
    if pink:
        field = _pink(field)
    if cells:
        place = np.arange(size) * cells // size
        field = field[np.ix_(place, place)]
    return _grey(SCREEN_GREY + _DEVIATION * field)


def coloured_noise(size: int, rng: np.random.Generator, hue: float) -> np.ndarray:
    """Draw pink noise between grey and one hue (0..1); uint8 [size, size, 3]."""
    colour = 255 * np.array(colorsys.hsv_to_rgb(hue, 1, 1))
    colour -= colour.mean()
    share = np.clip(0.5 + 0.25 * _pink(rng.standard_normal((size, size))), 0, 1)
    return _bytes(SCREEN_GREY + 0.5 * share[..., None] * colour)


def spiral(size: int, radial: float, angular: int, phase: float) -> np.ndarray:
    """Draw a log-polar grating (Broderick, Simoncelli & Winawer 2022), uint8 [size, size, 3].

    Parameters
    ----------
    size
        Pixels a side.
    radial, angular
        Cycles as the distance from the middle grows e-fold times 2 pi, and around the middle.
    phase
        Radians.
    """
    axis = (np.arange(size) + 0.5) / size - 0.5
    x, y = np.meshgrid(axis, axis)
    wave = np.cos(radial * np.log(np.hypot(x, y)) + angular * np.arctan2(y, x) + phase)
    return _grey(SCREEN_GREY + 2 * _DEVIATION * wave)


def grey(image: np.ndarray) -> np.ndarray:
    """Take the colours out of an image; uint8 [S, S, 3]."""
    return _grey(_luminance(image))


def contrast(image: np.ndarray, share: float) -> np.ndarray:
    """Lower an image's contrast to a share of it, around the grey of the screen."""
    return _grey(SCREEN_GREY + share * (_luminance(image) - SCREEN_GREY))


def scrambled(image: np.ndarray, coherence: float, rng: np.random.Generator) -> np.ndarray:
    """Mix an image's phases with those of noise: 1 leaves them as they are, 0 keeps the amplitudes alone."""
    spectrum, other = np.fft.fft2(_luminance(image)), np.fft.fft2(rng.standard_normal(image.shape[:2]))
    mixed = coherence * np.exp(1j * np.angle(spectrum)) + (1 - coherence) * np.exp(1j * np.angle(other))
    phases = np.exp(1j * np.angle(mixed))
    phases[0, 0] = 1  # the mean stays
    return _grey(np.fft.ifft2(np.abs(spectrum) * phases).real)


def two_toned(image: np.ndarray) -> np.ndarray:
    """Blur an image and make it black and white, as Mooney's."""
    blurred = ndimage.gaussian_filter(_luminance(image), image.shape[0] / 60)
    return _grey(np.where(blurred > np.median(blurred), 255.0, 0.0))


def lines(image: np.ndarray) -> np.ndarray:
    """Draw an image's contours, dark on white."""
    smooth = ndimage.gaussian_filter(_luminance(image), image.shape[0] / 200)
    edge = np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1))
    return _grey(255 * (1 - np.clip(edge / np.percentile(edge, 98), 0, 1)))


def _pink(field: np.ndarray) -> np.ndarray:
    """Give white noise a spectrum of 1 / frequency in amplitude; mean 0, variance 1."""
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(length) for length in field.shape), indexing="ij"))
    frequency[0, 0] = np.inf
    shaped = np.fft.ifft2(np.fft.fft2(field) / frequency).real
    return shaped / shaped.std()


def _luminance(image: np.ndarray) -> np.ndarray:
    return image.astype(float) @ np.array([0.299, 0.587, 0.114])


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(_bytes(values)[..., None], 3, axis=-1)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
