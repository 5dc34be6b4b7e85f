"""From the name of an image to the number that stands for it in all stores.

The rules are described in docs/own_data.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from neuropictor.data.image_files import SUFFIXES, composed

FIRST_HASHED = 10**9
"""Numbers made of names start here, so that they are none of those that a table gives, of up to nine digits."""

_HASH_BITS = 48  # with the first, below the 53 bits that are whole numbers in browsers and spreadsheets
_ENDING = re.compile(f"({'|'.join(re.escape(suffix) for group in SUFFIXES.values() for suffix in group)})$", re.I)
# Files of COCO, of 2014 and of 2017 on; one number in all splits (cocodataset.org).
_COCO = re.compile(r"(COCO_(?:train|val|test)\d{4}_)?(\d{12})")
_DIGITS = re.compile(r"0*\d{1,9}")


@dataclass(frozen=True)
class ImageNames:
    """Numbers of a data set's images.

    Attributes
    ----------
    nsd_of_coco
        mapping of int: nsd_id by number in COCO, for images that NSD has too.
    data_set
        Its name, where several have different images of one name.
    """

    nsd_of_coco: Mapping[int, int] = field(default_factory=dict)
    data_set: str = ""

    def image_number(self, name: str) -> int:
        """Return the number of an image.

        Digits are the number itself; images of COCO have one number in all data sets, NSD's where NSD has them;
        all others have one made of the data set's and their own name, without folder and ending.

        Raises
        ------
        ValueError
            For nothing, and for numbers that are not whole, negative, or of more than nine digits.
        """
        kind, value = _parsed(name)
        if kind == "coco":
            return self.nsd_of_coco.get(int(value), _hashed(f"coco-{value}"))
        return int(value) if kind == "number" else _hashed(f"{self.data_set}/{value}")

    def numbers(self, names: pd.Series, where: str) -> pd.Series:
        """Return the number of each image, int64.

        Parameters
        ----------
        names
            Texts, indexed by the lines of their file.
        where
            That file, for messages.

        Raises
        ------
        ValueError
            For a name that is none, and for two images with one number; with file and line.
        """
        first: dict[int, tuple[str, str, object]] = {}
        numbers = []
        for line, name in names.items():
            try:
                numbers.append(self.image_number(name))
            except ValueError as error:
                raise ValueError(f"{where}, line {line}: {names.name} is {error}") from None
            kind, value = _parsed(name)
            # Only COCO's names and plain digits say for certain that two spellings are one image.
            image = value if kind == "coco" or name.strip().isdigit() else composed(name.strip())
            earlier = first.setdefault(numbers[-1], (image, name, line))
            if earlier[0] != image:
                raise ValueError(
                    f"{where}, line {line}: {name!r} and {earlier[1]!r} of line {earlier[2]} would both be image "
                    f"{numbers[-1]}, since folders and endings do not count; allowed: one name an image, for example "
                    "faces_01 and houses_01"
                )
        return pd.Series(numbers, names.index, "int64")


def of_coco(name: str) -> bool:
    """Tell whether a name is that of a file of COCO, of which data sets show different parts."""
    return bool(name) and _parsed(name)[0] == "coco"


def _parsed(name: str) -> tuple[str, str]:
    """Return what kind of name it is, "number", "coco" or "name", and what tells the image from others."""
    base = re.split(r"[/\\]", composed(name.strip()))[-1]
    stem = _ENDING.sub("", base)
    if (coco := _COCO.fullmatch(stem)) and (coco[1] or stem != base):
        return "coco", str(int(coco[2]))
    if _DIGITS.fullmatch(stem):
        return "number", str(int(stem))
    if not stem or re.fullmatch(r"[+-]?[\d.,]+", base):
        raise ValueError(f"{name!r}; allowed: whole numbers from 0 to 999999999, or names. Example: 12 or dog.png")
    return "name", stem


def _hashed(text: str) -> int:
    digest = hashlib.sha256(text.encode()).digest()
    return FIRST_HASHED + (int.from_bytes(digest[:8], "big") >> 64 - _HASH_BITS)
