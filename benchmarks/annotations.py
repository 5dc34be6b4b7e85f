"""COCO's annotations of one subject, from files of the real sizes: entry by entry against json.load.

    python benchmarks/annotations.py --work /tmp/annotations

Writes files of the size and shape of COCO's of 2017 (118,287 and 5,000 images, 860,001 and 36,781 objects with
polygons, 779,130 stretches of stuff with run lengths) of random numbers, and reads those of 10,000 images from them,
in a process of its own for each way: `load_annotations`, and the same with each file parsed whole. Peak memory is that
of the whole process, imports included.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from machine import machine

RESULT = Path(__file__).parent / "results" / "annotations.json"
IMAGES = {"train2017": 118_287, "val2017": 5_000}
# Annotations a split: COCO 2017 has 860,001 + 36,781 objects, 591,753 + 25,014 captions; stuff: 747,458 + 31,672.
COUNTS = {"captions": (591_753, 25_014), "instances": (860_001, 36_781), "stuff": (747_458, 31_672)}
# Numbers of a polygon, and characters of run lengths, that bring the files to 469 MB (instances) and 1.1 GB (stuff).
NUMBERS, CHARACTERS = 50, 1250
SUBJECT = 10_000


def annotation(kind: str, number: int, image: int, generator: np.random.Generator) -> dict:
    if kind == "captions":
        return {"image_id": image, "id": number, "caption": "A person is standing beside a table full of food outside."}
    box = [round(float(value), 2) for value in generator.uniform(10, 300, 4)]
    if kind == "instances":
        shape: list | dict = [np.round(generator.uniform(10, 600, NUMBERS), 2).tolist()]
    else:
        shape = {"counts": "Y_kaB3l0" * (CHARACTERS // 8), "size": [480, 640]}
    rest = {"area": round(box[2] * box[3], 4), "iscrowd": 0, "image_id": image, "bbox": box}
    return {"segmentation": shape, **rest, "category_id": number % 80 + 1, "id": number}


def write_files(root: Path) -> None:
    from neuropictor.nsd import keys

    generator = np.random.default_rng(0)
    for kind, counts in COUNTS.items():
        for split, count in zip(IMAGES, counts, strict=True):
            path = root / keys.annotations(kind, split)
            if path.is_file():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            address = "http://images.cocodataset.org"
            images = [
                {"license": 3, "file_name": f"{number:012d}.jpg", "coco_url": f"{address}/{split}/{number:012d}.jpg"}
                | {
                    "height": 480,
                    "width": 640,
                    "date_captured": "2013-11-14 11:18:45",
                    "flickr_url": address,
                    "id": number,
                }
                for number in range(IMAGES[split])
            ]
            with open(path.with_suffix(".partial"), "w") as file:
                file.write(f'{{"info": {{}}, "images": {json.dumps(images)}, "licenses": [], "annotations": [')
                for number in range(count):
                    item = annotation(kind, number, number % IMAGES[split], generator)
                    file.write(("" if number == 0 else ", ") + json.dumps(item))
                names = [{"supercategory": "x", "id": number, "name": f"name {number}"} for number in range(1, 81)]
                file.write(f'], "categories": {json.dumps(names)}}}')
            path.with_suffix(".partial").rename(path)


def read(root: Path, way: str) -> None:
    """Read one subject's annotations, and print what it took and what came out as JSON."""
    from neuropictor.nsd import annotations

    generator = np.random.default_rng(1)
    split = np.where(generator.random(SUBJECT) < 0.04, "val2017", "train2017")
    ids = [int(generator.integers(IMAGES[name])) for name in split]
    info = pd.DataFrame({"cocoId": ids, "cocoSplit": split, "cropBox": "(0, 0, 0.125, 0.125)"})
    if way == "whole":

        def members(file):
            for name, value in json.loads(file.read()).items():
                yield from ((name, item) for item in value) if isinstance(value, list) else [(name, value)]

        annotations.stream_members = members
    start = time.perf_counter(), time.process_time()
    table = annotations.load_annotations(root, info)
    print(
        json.dumps(
            {
                "seconds": round(time.perf_counter() - start[0], 1),
                "cpu_seconds": round(time.process_time() - start[1], 1),
                "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
                "digest": str(pd.util.hash_pandas_object(table.astype(str)).sum()),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the files, 1.8 GB")
    parser.add_argument("--way", choices=["ours", "whole"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        read(given.work, given.way)
        return
    write_files(given.work)
    result: dict = {"machine": machine()}
    result["bytes"] = {path.name: path.stat().st_size for path in sorted(given.work.glob("annotations/*.json"))}
    for way in ("ours", "whole"):
        command = [sys.executable, __file__, "--work", str(given.work), "--way", way]
        result[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    same = result["ours"].pop("digest") == result["whole"].pop("digest")
    RESULT.write_text(json.dumps(result | {"same": same}, indent=2) + "\n", encoding="utf-8")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
