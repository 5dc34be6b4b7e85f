"""Two sessions of twelve trials of one subject on fsaverage5, in NSD's layout."""

import json

import h5py
import nibabel
import numpy as np
import pandas as pd
import scipy.io

from neuropictor.config import PreprocessConfig
from neuropictor.nsd import keys
from neuropictor.surface import load_geometry

BETAS = "betas_fithrf_GLMdenoise_RR"
VERTICES, SESSIONS, PER_SESSION = 10242, 2, 12
SLOTS, SHARED = 8, 2


def write_root(root):
    """Two sessions of twelve trials of one subject on fsaverage5, in NSD's layout, with some invalid vertices."""
    generator = np.random.default_rng(3)
    order = np.repeat(np.arange(SLOTS), 3)
    order = np.concatenate([order[::2], order[1::2]])
    images = np.tile(np.array([4, 9, 1, 2, 3, 6, 7, 8]), (8, 1))  # 0-based; the first two slots are shared
    pattern = np.zeros((SESSIONS, 12, 75))
    pattern[:, :, 3] = 1
    (root / keys.EXPERIMENT_DESIGN).parent.mkdir(parents=True)
    fields = {"masterordering": order[None] + 1.0, "subjectim": images + 1.0, "sharedix": np.array([[5.0, 10.0]])}
    scipy.io.savemat(root / keys.EXPERIMENT_DESIGN, {**fields, "stimpattern": pattern, "basiccnt": np.zeros((3, 2))})
    write_info(root, 10)
    write_annotations(root, 10)
    (root / keys.STIMULI).parent.mkdir(parents=True)
    with h5py.File(root / keys.STIMULI, "w") as file:
        file["imgBrick"] = generator.integers(0, 256, (10, 40, 40, 3), dtype=np.uint8)
    (root / keys.SIMULATED).write_text(json.dumps({"sessions": {"1": SESSIONS}}))
    signal = generator.standard_normal((SLOTS, 2 * VERTICES)).astype(np.float32)
    missing = load_geometry().columns("fsaverage5")[[5, 700]]
    for session in range(SESSIONS):
        shown = order[session * PER_SESSION : (session + 1) * PER_SESSION]
        noise = generator.standard_normal((PER_SESSION, 2 * VERTICES)).astype(np.float32)
        betas = (2 + session) * (signal[shown] + noise) + 5 * session
        betas[:, missing[session]] = np.nan
        for side, half in zip(("lh", "rh"), np.split(betas, 2, axis=1), strict=True):
            path = root / keys.betas(1, session + 1, side, BETAS)
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.MGHImage(half.T.reshape(VERTICES, 1, 1, -1).astype(np.float32), np.eye(4)), path)
    return root


def write_info(root, count):
    table = pd.DataFrame({"cocoId": np.arange(count) + 100, "cocoSplit": "train2017", "cropBox": "(0, 0, 0, 0)"})
    table["loss"], table["nsdId"] = 0.0, np.arange(count)
    for name in ("flagged", "BOLD5000", "shared1000"):
        table[name] = False
    for subject in range(1, 9):
        table[f"subject{subject}"] = 0
    for subject in range(1, 9):
        for repeat in range(3):
            table[f"subject{subject}_rep{repeat}"] = 0
    table.to_csv(root / keys.STIMULUS_INFO)


def write_annotations(root, count):
    images = [{"id": 100 + i, "width": 40, "height": 40} for i in range(count)]
    captions = [{"image_id": 100 + i, "caption": f"caption {k} of {i}"} for i in range(count) for k in range(6)]
    names = {"instances": ["cat", "dog"], "stuff": ["sea", "city"]}
    content = {"captions": {"images": images, "annotations": captions}}
    for kind, pair in names.items():
        items = [
            {"image_id": 100 + i, "category_id": 1 + which, "area": 50 + 10 * (which == i % 2), "bbox": [0, 0, 10, 10]}
            for i in range(count)
            for which in range(2)
        ]
        categories = [{"id": place + 1, "name": name} for place, name in enumerate(pair)]
        content[kind] = {"images": images, "annotations": items, "categories": categories}
    for kind, value in content.items():
        for split in keys.COCO_SPLITS:
            path = root / keys.annotations(kind, split)
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(value))


def config(**changes):
    return PreprocessConfig(**{"validation_images": 2, "image_size": 20, **changes})
