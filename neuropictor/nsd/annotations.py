"""COCO's annotations of NSD's images: captions, main object and background."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from neuropictor.nsd import keys
from neuropictor.nsd.constants import CAPTIONS_PER_IMAGE

# Characters read at a time, and most that one annotation may have: COCO's longest are some 100,000.
_AT_ONCE, _LONGEST = 2**20, 2**24
_SPACE = re.compile(r"[ \t\n\r]*")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON's")


_decode = json.JSONDecoder(parse_constant=_refuse).raw_decode


def load_annotations(root: str | Path, stimulus_info: pd.DataFrame, nsd_ids: list[int] | None = None) -> pd.DataFrame:
    """Join COCO's captions, instances and stuff to NSD's images by (cocoSplit, cocoId).

    The main object is the instance, and the background the stuff, of the largest area that lies in NSD's square crop.

    Parameters
    ----------
    root
        Folder in NSD's layout, with COCO's files in ``annotations/``.
    stimulus_info
        Table of `Design.stimulus_info`.
    nsd_ids
        Images to return; default: all of the table.

    Returns
    -------
    pandas.DataFrame
        Indexed by nsd_id in the given order: captions (list of five; fewer are repeated), category and background
        (empty string where COCO has none).

    Raises
    ------
    FileNotFoundError
        If an annotation file is missing.
    ValueError
        If an image has no captions, or is not in the table; if an annotation file is cut off or damaged.
    """
    index = stimulus_info.index if nsd_ids is None else pd.Index(nsd_ids)
    unknown = index.difference(stimulus_info.index)
    if len(unknown):
        raise ValueError(
            f"nsd_id {unknown[0]} is not in the stimulus table; allowed: 0 to {len(stimulus_info) - 1} (e.g. 0)"
        )
    info = stimulus_info.loc[index]
    parts = [_of_split(Path(root), split, part) for split, part in info.groupby("cocoSplit")]
    table = pd.concat(parts).loc[index]
    table.index.name = "nsd_id"
    return table


def parse_crop_box(text: str) -> tuple[float, float, float, float]:
    """Read a ``cropBox``: the fractions of the COCO image cut away from top, bottom, left and right.

    Raises
    ------
    ValueError
        If it is not four numbers in brackets.
    """
    try:
        top, bottom, left, right = (float(part) for part in text.strip().strip("()").split(","))
    except ValueError as error:
        raise ValueError(
            f"cropBox {text!r} is not four fractions (top, bottom, left, right), e.g. (0, 0, 0.125, 0.125)"
        ) from error
    return top, bottom, left, right


def _of_split(root: Path, split: str, info: pd.DataFrame) -> pd.DataFrame:
    captions: dict[int, list[str]] = {int(coco_id): [] for coco_id in info["cocoId"]}
    with _members(root, "captions", split) as members:
        for key, item in members:
            if key == "annotations" and item["image_id"] in captions:
                captions[item["image_id"]].append(item["caption"].strip())
    bare = [coco_id for coco_id, texts in captions.items() if not texts]
    if bare:
        raise ValueError(
            f"{root / keys.annotations('captions', split)} has no caption of COCO image {bare[0]}; expected "
            "COCO's captions of 2017"
        )
    five = [
        [texts[i % len(texts)] for i in range(CAPTIONS_PER_IMAGE)]
        for texts in (captions[int(coco_id)] for coco_id in info["cocoId"])
    ]
    crops = {int(coco_id): parse_crop_box(box) for coco_id, box in zip(info["cocoId"], info["cropBox"], strict=True)}
    columns: dict[str, list] = {"captions": five}
    for column, kind in (("category", "instances"), ("background", "stuff")):
        with _members(root, kind, split) as members:
            largest = _largest(members, crops)
        columns[column] = [largest.get(int(coco_id), "") for coco_id in info["cocoId"]]
    return pd.DataFrame(columns, index=info.index)


def _largest(
    members: Iterator[tuple[str, dict]], crops: dict[int, tuple[float, float, float, float]]
) -> dict[int, str]:
    """Return the category with the largest visible area of each image."""
    names: dict[int, str] = {}
    sizes: dict[int, tuple[int, int]] = {}
    regions: list[tuple[int, int, float, list[float]]] = []
    for key, item in members:
        if key == "categories":
            names[item["id"]] = item["name"]
        elif key == "images" and item["id"] in crops:
            sizes[item["id"]] = (item["width"], item["height"])
        elif key == "annotations" and item["image_id"] in crops:
            regions.append((item["image_id"], item["category_id"], item["area"], item["bbox"]))
    best: dict[int, tuple[float, str]] = {}
    for image, category, area, box in regions:
        if image in sizes:
            visible = area * _visible_share(box, *sizes[image], crops[image])
            if visible > best.get(image, (0.0, ""))[0]:
                best[image] = (visible, names[category])
    return {image: name for image, (_, name) in best.items()}


def _visible_share(box: list[float], width: int, height: int, crop: tuple[float, float, float, float]) -> float:
    """Return the fraction of a bounding box (x, y, width, height in pixels) that a crop leaves."""
    top, bottom, left, right = crop
    across = min(box[0] + box[2], (1 - right) * width) - max(box[0], left * width)
    down = min(box[1] + box[3], (1 - bottom) * height) - max(box[1], top * height)
    return max(0.0, across) * max(0.0, down) / max(box[2] * box[3], 1e-9)


@contextmanager
def _members(root: Path, kind: str, split: str) -> Iterator[Iterator[tuple[str, Any]]]:
    """Give an annotation file's list entries one by one: read at once, a file takes gigabytes.

    What goes wrong with an entry is told with the file's name.
    """
    path = root / keys.annotations(kind, split)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; unpack COCO's annotations of 2017 (annotations_trainval2017, "
            "stuff_annotations_trainval2017) there"
        )
    with open(path, encoding="utf-8") as file:
        try:
            yield stream_members(file)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{path} is cut off or damaged ({type(error).__name__}: {error}); unpack COCO's annotations of 2017"
                " again"
            ) from error


def stream_members(file: TextIO) -> Iterator[tuple[str, Any]]:
    """Read a JSON object, a few megabytes at a time.

    Parameters
    ----------
    file
        Open text.

    Yields
    ------
    tuple
        Name and value of each member; where a member is a list, its name and each entry in turn.

    Raises
    ------
    ValueError
        If the text ends too early, or is no JSON object.
    """
    text = _Text(file)
    text.take("{")
    if text.next() == "}":
        return
    while True:
        name = text.value()
        text.take(":")
        if text.next() != "[":
            yield name, text.value()
        else:
            text.take("[")
            while text.next() != "]":
                yield name, text.value()
                if text.next() != "]":
                    text.take(",")
            text.take("]")
        if text.take(",}") == "}":
            return


class _Text:
    """JSON text read piece by piece."""

    def __init__(self, file: TextIO):
        self._file, self._text, self._place = file, "", 0

    def _more(self) -> None:
        piece = self._file.read(_AT_ONCE)
        if not piece:
            raise ValueError("it ends too early")
        self._text, self._place = self._text[self._place :] + piece, 0

    def next(self) -> str:
        """Return the next character that is not a space, without taking it."""
        while True:
            space = _SPACE.match(self._text, self._place)
            assert space  # if only of length 0
            self._place = space.end()
            if self._place < len(self._text):
                return self._text[self._place]
            self._more()

    def take(self, allowed: str) -> str:
        """Take the next character that is not a space; it must be one of `allowed`."""
        character = self.next()
        if character not in allowed:
            raise ValueError(f"{character!r} where one of {allowed!r} is expected")
        self._place += 1
        return character

    def value(self) -> Any:
        """Take the next value."""
        self.next()
        while True:
            try:
                value, end = _decode(self._text, self._place)
            except json.JSONDecodeError as error:
                if len(self._text) - self._place > _LONGEST:
                    raise ValueError(str(error)) from error
            else:
                if end < len(self._text):  # otherwise it may be the start of a longer number
                    self._place = end
                    return value
            self._more()
