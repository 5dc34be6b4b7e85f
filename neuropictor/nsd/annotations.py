"""COCO's annotations of NSD's pictures: captions, main object and background."""

import json
from pathlib import Path

import pandas as pd

from neuropictor.nsd import keys
from neuropictor.nsd.constants import CAPTIONS_PER_PICTURE


def load_annotations(root: str | Path, stimulus_info: pd.DataFrame, nsd_ids: list[int] | None = None) -> pd.DataFrame:
    """Join COCO's captions, instances and stuff to NSD's pictures by (cocoSplit, cocoId).

    The main object is the instance, and the background the stuff, of the largest area that lies in NSD's square crop.

    Parameters
    ----------
    root
        Folder in NSD's layout, with COCO's files in ``annotations/``.
    stimulus_info
        Table of `Design.stimulus_info`.
    nsd_ids
        Pictures wanted; default: all of the table.

    Returns
    -------
    pandas.DataFrame
        Indexed by nsd_id in the order asked for: captions (list of five; fewer are repeated), category and background
        (empty string where COCO has none).

    Raises
    ------
    FileNotFoundError
        If an annotation file is missing.
    ValueError
        If a picture has no captions, or is not in the table.
    """
    wanted = stimulus_info.index if nsd_ids is None else pd.Index(nsd_ids)
    unknown = wanted.difference(stimulus_info.index)
    if len(unknown):
        raise ValueError(
            f"nsd_id {unknown[0]} is not in the stimulus table; allowed: 0 to {len(stimulus_info) - 1} (e.g. 0)"
        )
    info = stimulus_info.loc[wanted]
    parts = [_of_split(Path(root), split, part) for split, part in info.groupby("cocoSplit")]
    table = pd.concat(parts).loc[wanted]
    table.index.name = "nsd_id"
    return table


def parse_crop_box(text: str) -> tuple[float, float, float, float]:
    """Read a ``cropBox``: the fractions of the COCO picture cut away from top, bottom, left and right.

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
    for item in _load(root, "captions", split)["annotations"]:
        if item["image_id"] in captions:
            captions[item["image_id"]].append(item["caption"].strip())
    bare = [coco_id for coco_id, texts in captions.items() if not texts]
    if bare:
        raise ValueError(
            f"{root / keys.annotations('captions', split)} has no caption of COCO picture {bare[0]}; expected "
            "COCO's captions of 2017"
        )
    five = [
        [texts[i % len(texts)] for i in range(CAPTIONS_PER_PICTURE)]
        for texts in (captions[int(coco_id)] for coco_id in info["cocoId"])
    ]
    crops = {int(coco_id): parse_crop_box(box) for coco_id, box in zip(info["cocoId"], info["cropBox"], strict=True)}
    columns = {"captions": five}
    for column, kind in (("category", "instances"), ("background", "stuff")):
        largest = _largest(_load(root, kind, split), crops)
        columns[column] = [largest.get(int(coco_id), "") for coco_id in info["cocoId"]]
    return pd.DataFrame(columns, index=info.index)


def _largest(content: dict, crops: dict[int, tuple[float, float, float, float]]) -> dict[int, str]:
    """Return the category with the largest visible area of each picture."""
    names = {category["id"]: category["name"] for category in content["categories"]}
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"] if image["id"] in crops}
    best: dict[int, tuple[float, str]] = {}
    for item in content["annotations"]:
        image = item["image_id"]
        if image in crops and image in sizes:
            area = item["area"] * _visible_share(item["bbox"], *sizes[image], crops[image])
            if area > best.get(image, (0.0, ""))[0]:
                best[image] = (area, names[item["category_id"]])
    return {image: name for image, (_, name) in best.items()}


def _visible_share(box: list[float], width: int, height: int, crop: tuple[float, float, float, float]) -> float:
    """Return the fraction of a bounding box (x, y, width, height in pixels) that a crop leaves."""
    top, bottom, left, right = crop
    across = min(box[0] + box[2], (1 - right) * width) - max(box[0], left * width)
    down = min(box[1] + box[3], (1 - bottom) * height) - max(box[1], top * height)
    return max(0.0, across) * max(0.0, down) / max(box[2] * box[3], 1e-9)


def _load(root: Path, kind: str, split: str) -> dict:
    path = root / keys.annotations(kind, split)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; unpack COCO's annotations of 2017 (annotations_trainval2017, "
            "stuff_annotations_trainval2017) there"
        )
    return json.loads(path.read_bytes())
