"""The scenes' captions, objects and backgrounds in the format of COCO 2017."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from neuropictor.nsd import keys
from neuropictor.records.files import atomic_path
from neuropictor.simulation.scenes.scene import BACKGROUNDS, CATEGORIES, Scene, captions

# COCO's stuff categories start at 92, after the 91 things.
_FIRST_STUFF = 92
# Sides of the imagined COCO images; NSD shows a square of the shorter one.
_SHORT_SIDE, _LONG_SIDE = 480, 640
# An object's share of its bounding box.
_FILL = 0.6
_INFO = {
    "description": "Simulated scenes in the format of COCO 2017",
    "version": "1.0",
    "year": 2017,
    "contributor": "neuropictor",
}
_LICENCES = [{"id": 1, "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}]


class CocoImages:
    """Place of each simulated image in COCO: an id, one of two splits, and a square crop of a larger image.

    Parameters
    ----------
    n_images
        Images in the bank.
    seed
        Of the simulation.

    Attributes
    ----------
    coco_id
        int [n], unique and not ascending with nsd_id, as in NSD.
    split
        list of ``train2017`` or ``val2017``.
    crop
        list of (top, bottom, left, right), fractions cut away; two are always zero.
    """

    def __init__(self, n_images: int, seed: int):
        rng = np.random.default_rng([seed, 61])
        self.coco_id = rng.choice(np.arange(100, 581_930), n_images, replace=False)
        # 118,287 of COCO's 123,287 images of 2017 are in the training split.
        self.split = [keys.COCO_SPLITS[int(part)] for part in rng.random(n_images) < 5000 / 123_287]
        self._wide = rng.random(n_images) < 0.75
        cut = 1 - _SHORT_SIDE / _LONG_SIDE
        # Crops in steps of 1/64 keep their sum exact.
        before = np.round(rng.uniform(0, cut, n_images) * 64) / 64
        self.crop = [
            (0, 0, float(b), float(cut - b)) if wide else (float(b), float(cut - b), 0, 0)
            for b, wide in zip(before, self._wide, strict=True)
        ]

    def size(self, nsd_id: int) -> tuple[int, int]:
        """Return width and height of the full COCO image."""
        return (_LONG_SIDE, _SHORT_SIDE) if self._wide[nsd_id] else (_SHORT_SIDE, _LONG_SIDE)

    def box(self, nsd_id: int, x: float, y: float, width: float, height: float) -> list[float]:
        """Turn a box of the crop (centre and size, 0..1) into COCO's (left, top, width, height) in pixels."""
        top, _, left, _ = self.crop[nsd_id]
        across, down = self.size(nsd_id)
        low = np.clip([x - width / 2, y - height / 2], 0, 1) * _SHORT_SIDE
        high = np.clip([x + width / 2, y + height / 2], 0, 1) * _SHORT_SIDE
        corner = low + np.array([left * across, top * down])
        return [round(float(value), 2) for value in (*corner, *(high - low))]


def write_annotations(root: Path, scenes: list[Scene], images: CocoImages) -> None:
    """Write COCO's six annotation files: captions, instances and stuff of both splits.

    Parameters
    ----------
    root
        Folder of the simulated NSD.
    scenes
        By nsd_id.
    images
        Their places in COCO.
    """
    for split in keys.COCO_SPLITS:
        members = [i for i in range(len(scenes)) if images.split[i] == split]
        entries = [_image(i, split, images) for i in members]
        contents = {
            "captions": {"annotations": _numbered(row for i in members for row in _captions(i, scenes[i], images))},
            "instances": {
                "annotations": _numbered(row for i in members for row in _instances(i, scenes[i], images)),
                "categories": [
                    {"supercategory": "simulated", "id": i + 1, "name": name} for i, name in enumerate(CATEGORIES)
                ],
            },
            "stuff": {
                "annotations": _numbered(_background(i, scenes[i], images) for i in members),
                "categories": [
                    {"supercategory": "simulated", "id": i + _FIRST_STUFF, "name": name}
                    for i, name in enumerate(BACKGROUNDS)
                ],
            },
        }
        for kind, content in contents.items():
            with atomic_path(root / keys.annotations(kind, split)) as temporary:
                text = json.dumps({"info": _INFO, "licenses": _LICENCES, "images": entries, **content})
                temporary.write_text(text, encoding="utf-8")


def _image(nsd_id: int, split: str, images: CocoImages) -> dict:
    width, height = images.size(nsd_id)
    coco_id = int(images.coco_id[nsd_id])
    return {
        "license": 1,
        "file_name": f"{coco_id:012d}.jpg",
        "coco_url": f"simulated://{split}/{coco_id:012d}.jpg",
        "height": height,
        "width": width,
        "date_captured": "2017-01-01 00:00:00",
        "flickr_url": "",
        "id": coco_id,
    }


def _captions(nsd_id: int, scene: Scene, images: CocoImages) -> list[dict]:
    return [{"image_id": int(images.coco_id[nsd_id]), "caption": text} for text in captions(scene)]


def _instances(nsd_id: int, scene: Scene, images: CocoImages) -> list[dict]:
    rows = []
    for item in scene.objects:
        box = images.box(nsd_id, item.x, item.y, item.size, item.size)
        rows.append(_region(nsd_id, CATEGORIES.index(item.category) + 1, box, box[2] * box[3] * _FILL, images))
    # The main object, which is the first, stays the largest even where the edge cuts it.
    for row in rows[1:]:
        row["area"] = round(min(row["area"], 0.95 * rows[0]["area"]), 2)
    return rows


def _background(nsd_id: int, scene: Scene, images: CocoImages) -> dict:
    covered = min(0.9, sum(item.size**2 * _FILL for item in scene.objects))
    box = images.box(nsd_id, 0.5, 0.5, 1, 1)
    return _region(
        nsd_id, BACKGROUNDS.index(scene.background) + _FIRST_STUFF, box, (1 - covered) * _SHORT_SIDE**2, images
    )


def _region(nsd_id: int, category: int, box: list[float], area: float, images: CocoImages) -> dict:
    left, top, width, height = box
    right, bottom = round(left + width, 2), round(top + height, 2)
    return {
        "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
        "area": round(area, 2),
        "iscrowd": 0,
        "image_id": int(images.coco_id[nsd_id]),
        "bbox": box,
        "category_id": category,
    }


def _numbered(rows) -> list[dict]:
    return [row | {"id": number} for number, row in enumerate(rows, start=1)]
