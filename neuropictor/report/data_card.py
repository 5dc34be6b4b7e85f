"""The data card: measured facts about the data, to read any score against. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuropictor.config.types import Subject
from neuropictor.data.origin import title_mark
from neuropictor.data.responses import SPLITS, ResponseStore
from neuropictor.data.stimuli import StimulusStore
from neuropictor.evaluation.judges import blocks
from neuropictor.evaluation.metrics import pixcorr
from neuropictor.evaluation.protocols import OURS
from neuropictor.evaluation.tables import read_metrics
from neuropictor.records.checksums import verify
from neuropictor.report.pages import Cell, Table, write_page

if TYPE_CHECKING:
    from neuropictor.config import EvaluateConfig, PreprocessConfig, SampleConfig

MEAN_IMAGE_LIMIT = 0.15
"""Pixel correlation of mean training image and test images above which a layout is too easy to guess."""
MEAN_COLOUR_LIMIT = 0.75
"""Two-way identification by mean colour alone above which identification says little."""
VAE_CATEGORY_LIMIT = 0.90
"""Least share of the category accuracy on true images that must survive the VAE."""

_PAIRS = 2000
_IMAGES_AT_ONCE = 256


def data_card(
    responses: dict[Subject, Path],
    stimuli: Sequence[Path],
    config: EvaluateConfig,
    sample: SampleConfig,
    out: Path,
    metrics: Path | None = None,
    release: str = "",
    preprocess: PreprocessConfig | None = None,
) -> None:
    """Measure the data and write the page.

    Parameters
    ----------
    responses
        Prepared responses by subject.
    stimuli
        Prepared images of the subjects.
    config
        `seed` is used, for the choice of image pairs.
    sample
        `trial_averaging` is shown.
    out
        HTML page, with all numbers as JSON at its end.
    metrics
        `metrics.csv`, for what needs the backbone: mean-colour identification and ceilings.
    release
        Which sessions of NSD count, see `neuropictor.nsd.constants.describe_release`; "" without subjects of NSD.
    preprocess
        How the responses were z-scored; not shown without it.
    """
    verify(*responses.values(), *stimuli, *([metrics] if metrics else []))
    facts = measure(responses, stimuli, config.seed)
    facts |= {"backbone": _ceilings(metrics), "test_responses": sample.trial_averaging}
    write_page(
        "data_card.html",
        out,
        "Data card" + title_mark(facts["data"]),
        facts=facts,
        one=next(iter(facts["subjects"].values())),
        sources=dict.fromkeys(f"{one['beta_version']} on {one['mesh']}" for one in facts["subjects"].values()),
        subjects=_subject_table(facts),
        images=_image_table(facts["images"], facts["backbone"]),
        release=release,
        preprocess=preprocess,
        numbers=json.dumps(facts, indent=1),
    )


def measure(responses: dict[str, Path], stimuli: Sequence[Path], seed: int) -> dict:
    """Return the facts that need no backbone, as plain numbers and texts."""
    store = StimulusStore(*stimuli)
    subjects, train, test, both = {}, set(), set(), 0
    for subject, path in responses.items():
        one = ResponseStore(path)
        subjects[subject] = _subject_facts(one)
        of_train, of_test = (set(one.images(name).tolist()) for name in ("train", "test"))
        train, test, both = train | of_train, test | of_test, both + len(of_train & of_test)
        one.close()
    train_ids, test_ids = np.array(sorted(train - test)), np.array(sorted(test))
    return {
        "data": store.data,
        "subjects": subjects,
        "images": {
            "size": store.size,
            "all": len(store),
            "train": len(train_ids),
            "test": len(test_ids),
            "train_and_test": both,
            "left_out": len(train & test) - both,
            "categories": len(store.categories),
            "backgrounds": len(set(store.background(store.nsd_id)) - {""}),
            "mean_training_image_pixcorr": _mean_image_pixcorr(store, train_ids, test_ids),
            "random_pair_pixcorr": _pair_pixcorr(store, test_ids, seed),
            "commonest_category_share": _largest_share(store.category(test_ids)),
            "commonest_background_share": _largest_share(store.background(test_ids)),
        },
    }


def _subject_facts(store: ResponseStore) -> dict:
    """Counts of trials and images by split, repeats and noise ceiling of one subject."""
    ncsnr = store.ncsnr[np.isfinite(store.ncsnr)]
    quartiles = np.quantile(ncsnr, [0.25, 0.5, 0.75]) if len(ncsnr) else [np.nan] * 3
    splits = {
        name: {"trials": int((store.split == code).sum()), "images": len(store.images(name))}
        for code, name in enumerate(SPLITS)
    }
    return {
        "mesh": store.mesh,
        "beta_version": store.beta_version,
        "sessions": len(np.unique(store.session)),
        "training_sessions": len(np.unique(store.session[store.split != SPLITS.index("test")])),
        "vertices": store.n_vertices,
        "most_repeats": int(store.repeat.max()) + 1,
        "splits": splits,
        "ncsnr_quartiles": [None if np.isnan(value) else round(float(value), 4) for value in quartiles],
    }


def _mean_image_pixcorr(store: StimulusStore, train: np.ndarray, test: np.ndarray) -> float:
    """Mean pixel correlation of the mean training image (unrounded) with the test images."""
    total = np.zeros((store.size, store.size, 3))
    for start in range(0, len(train), _IMAGES_AT_ONCE):
        total += store.images(train[start : start + _IMAGES_AT_ONCE]).sum(0, dtype=np.int64)
    mean = total / max(1, len(train))
    values = [
        pixcorr(np.broadcast_to(mean, (len(rows), 1, *mean.shape)), store.images(test[rows]))
        for rows in blocks(len(test))
    ]
    return round(float(np.concatenate(values).mean()), 4)


def _pair_pixcorr(store: StimulusStore, test: np.ndarray, seed: int) -> float | None:
    """Mean pixel correlation of random pairs of different test images."""
    if len(test) < 2:
        return None
    generator = np.random.default_rng(seed)
    left = generator.integers(0, len(test), _PAIRS)
    right = (left + generator.integers(1, len(test), _PAIRS)) % len(test)
    values = [
        pixcorr(store.images(test[left[pairs]])[:, None], store.images(test[right[pairs]])) for pairs in blocks(_PAIRS)
    ]
    return round(float(np.concatenate(values).mean()), 4)


def _largest_share(names: np.ndarray) -> float:
    return round(float(np.unique(names, return_counts=True)[1].max() / len(names)), 4)


def _ceilings(metrics: Path | None) -> dict | None:
    """Return the evaluation's measurements of the backbone; None where it has not run."""
    if metrics is None:
        return None
    frame = read_metrics(metrics)
    frame = frame[(frame["subject"] == "mean") & (frame["protocol"] == OURS)]
    values = {(row.model, row.metric): row.value for row in frame.itertuples()}
    seen, vae = values.get(("seen", "category")), values.get(("vae", "category"))
    return {
        "mean_colour_two_way": values.get(("mean_colour", "two_way")),
        "vae_pixcorr": values.get(("vae", "pixcorr")),
        "category_true_images": seen,
        "category_after_vae": vae,
        "category_after_vae_share": round(vae / seen, 4) if seen and vae is not None else None,
        "category_from_true_caption": values.get(("text", "category")),
    }


def _subject_table(facts: dict) -> Table:
    rows = []
    for subject, of_subject in facts["subjects"].items():
        splits = of_subject["splits"]
        low, median, high = of_subject["ncsnr_quartiles"]
        sessions, training = of_subject["sessions"], of_subject["training_sessions"]
        rows.append(
            [
                subject,
                Cell(str(sessions), (f"training: {training}",) if training < sessions else ()),
                *(Cell(f"{splits[name]['images']:,}", (f"{splits[name]['trials']:,} trials",)) for name in SPLITS),
                str(of_subject["most_repeats"]),
                "unknown" if median is None else Cell(f"{median:.3f}", (f"{low:.3f} to {high:.3f}",)),
            ]
        )
    return Table(["subject", "sessions", *(f"{name} images" for name in SPLITS), "repeats", "ncsnr"], rows)


def _image_table(images: dict, backbone: dict | None) -> Table:
    """Facts, and their limits."""

    def number(value: float | None) -> str:
        return "unknown" if value is None else f"{value:.3f}"

    def verdict(good: bool, limit: str) -> Cell:
        return Cell(limit if good else f"{limit} - missed", mark="good" if good else "bad")

    mean = images["mean_training_image_pixcorr"]
    rows = [
        ["images (training, test)", f"{images['train']:,}, {images['test']:,}", ""],
        [
            "images in both training and test of a subject",
            str(images["train_and_test"]),
            verdict(images["train_and_test"] == 0, "0"),
        ],
        ["training images left out of pretraining, as they test another subject", f"{images['left_out']:,}", ""],
        ["categories, kinds of background", f"{images['categories']}, {images['backgrounds']}", ""],
        [
            "PixCorr of the mean training image with test images",
            number(mean),
            verdict(mean < MEAN_IMAGE_LIMIT, f"below {MEAN_IMAGE_LIMIT:.2f}"),
        ],
        ["PixCorr of two random test images", number(images["random_pair_pixcorr"]), ""],
        ["share of the commonest category in test", number(images["commonest_category_share"]), ""],
        ["share of the commonest background in test", number(images["commonest_background_share"]), ""],
    ]
    if backbone:
        colour, share = backbone["mean_colour_two_way"], backbone["category_after_vae_share"]
        of_colour = "" if colour is None else verdict(colour < MEAN_COLOUR_LIMIT, f"below {MEAN_COLOUR_LIMIT:.2f}")
        least = f"at least {VAE_CATEGORY_LIMIT:.2f} of the line above"
        of_vae = "" if share is None else verdict(share >= VAE_CATEGORY_LIMIT, least)
        rows += [
            ["two-way identification by mean colour alone", number(colour), of_colour],
            ["PixCorr of true images after the VAE", number(backbone["vae_pixcorr"]), ""],
            ["category read off true images", number(backbone["category_true_images"]), ""],
            ["category read off true images after the VAE", number(backbone["category_after_vae"]), of_vae],
            [
                "category read off images drawn from a true caption",
                number(backbone["category_from_true_caption"]),
                "",
            ],
        ]
    return Table(["fact", "measured", "target"], rows)
