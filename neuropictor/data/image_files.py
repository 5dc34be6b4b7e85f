"""From an image file to the colours that a person sees in it; all commands that read images do it here."""

from __future__ import annotations

import unicodedata
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from neuropictor.records.files import need

SUFFIXES = {
    "BMP": (".bmp",),
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
"""Endings by the formats that are read, in Pillow's words: no others are tried, of which some start programs."""

BACKGROUND = "white"
"""What transparent parts are laid over, as most viewers and pages do."""


def read_image(path: Path) -> np.ndarray:
    """Read an image file as it is shown: turned as its EXIF says, 16-bit greys scaled, transparency over white.

    Returns
    -------
    uint8 array [height, width, 3]

    Raises
    ------
    FileNotFoundError, ValueError
        If it is missing, damaged, animated, of another kind, or of more pixels than Pillow's limit; with its name.
    """
    need(path, "expected an image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=list(SUFFIXES)) as file:
                file.verify()  # a PNG's checksums, which are not compared otherwise
            with Image.open(path, formats=list(SUFFIXES)) as file:
                # A camera's MPO holds further views of the same scene.
                if file.format != "MPO" and getattr(file, "n_frames", 1) > 1:
                    raise ValueError(f"it holds {file.n_frames} images")  # pyright: ignore[reportAttributeAccessIssue]
                image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I;16") and not image.has_transparency_data:
            image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))  # 65535 is 255
        if image.mode[0] in "IF":
            raise ValueError(f"its numbers of mode {image.mode} have no known black and white")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image)
        return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow's readers raise errors of all kinds, SyntaxError among them
        raise ValueError(
            f"{path} cannot be read as an image ({error}); allowed: one whole image of 8 or 16 bits a channel as "
            f"{', '.join(SUFFIXES)}, up to {Image.MAX_IMAGE_PIXELS:,} pixels, for example a PNG"
        ) from error


def middle_square(values: np.ndarray) -> np.ndarray:
    """Cut the square in the middle out of an image [height, width, 3]."""
    height, width = values.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return values[top : top + side, left : left + side]


def composed(name: str) -> str:
    """Return a name in the form that is compared: macOS takes letters with accents apart (NFD)."""
    return unicodedata.normalize("NFC", name)
