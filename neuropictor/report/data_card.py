"""The data card: measured facts of the data that any score must be read against. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuropictor.data.responses import SPLITS, ResponseStore
from neuropictor.data.stimuli import StimulusStore
from neuropictor.evaluation.judges import blocks
from neuropictor.evaluation.measures import pixcorr
from neuropictor.evaluation.tables import title_mark
from neuropictor.nsd.constants import describe_release
from neuropictor.records.checksums import verify
from neuropictor.records.files import atomic_path
from neuropictor.records.record import record_path
from neuropictor.report.pages import page, table

if TYPE_CHECKING:
    from neuropictor.config import EvaluateConfig, SampleConfig

MEAN_PICTURE_LIMIT = 0.15
"""Pixel correlation of mean training picture and test pictures above which a layout is too easy to guess."""
MEAN_COLOUR_LIMIT = 0.75
"""Two-way identification by mean colour alone above which identification says little."""
VAE_CATEGORY_LIMIT = 0.90
"""Least share of the category accuracy on true pictures that must be left after the VAE."""

_AVERAGING = {
    "mean": "Test pictures are reconstructed from the mean response over their repeats.",
    "single": "Test pictures are reconstructed from a single trial, the first.",
}
_PAIRS = 2000
_PICTURES_AT_ONCE = 256


def data_card(
    responses: dict[int, Path],
    stimuli: Sequence[Path],
    config: EvaluateConfig,
    sample: SampleConfig,
    out: Path,
    metrics: Path | None = None,
) -> None:
    """Measure the data and write them down.

    Parameters
    ----------
    responses : dict of Path
        Prepared responses by subject.
    stimuli : sequence of Path
        Prepared pictures of these subjects.
    config : EvaluateConfig
        `seed` is used, for the choice of picture pairs.
    sample : SampleConfig
        `trial_averaging` is told.
    out : Path
        HTML page, with all numbers as JSON at its end.
    metrics : Path, optional
        `metrics.csv`, whose record holds what needs the backbone: mean-colour identification and ceilings.
    """
    verify(*responses.values(), *stimuli, *([metrics] if metrics else []))
    facts = measure(responses, stimuli, config.seed)
    facts["backbone"] = _backbone_facts(metrics)
    facts["test_responses"] = sample.trial_averaging
    body = "\n".join([_subjects(facts), _pictures(facts), _json(facts)])
    with atomic_path(out) as temporary:
        temporary.write_text(page("Data card" + title_mark(facts["data"]), body), encoding="utf-8")


def measure(responses: dict[int, Path], stimuli: Sequence[Path], seed: int) -> dict:
    """Return the facts that need no backbone, as plain numbers and texts."""
    store = StimulusStore(*stimuli)
    subjects, train, test = {}, set(), set()
    for subject, path in responses.items():
        one = ResponseStore(path)
        subjects[str(subject)] = _subject_facts(one)
        train.update(one.pictures("train").tolist())
        test.update(one.pictures("test").tolist())
        one.close()
    train_ids, test_ids = np.array(sorted(train)), np.array(sorted(test))
    return {
        "data": store.data,
        "subjects": subjects,
        "settings": _settings(next(iter(responses.values()))),
        "pictures": {
            "size": store.size,
            "all": len(store),
            "train": len(train_ids),
            "test": len(test_ids),
            "train_and_test": len(train & test),
            "categories": len(store.categories),
            "backgrounds": len(set(store.background(store.nsd_id)) - {""}),
            "mean_training_picture_pixcorr": _mean_picture_pixcorr(store, train_ids, test_ids),
            "random_pair_pixcorr": _pair_pixcorr(store, test_ids, seed),
            "commonest_category_share": _largest_share(store.category(test_ids)),
            "commonest_background_share": _largest_share(store.background(test_ids)),
        },
    }


def _subject_facts(store: ResponseStore) -> dict:
    """Counts of trials and pictures by split, repeats and noise ceiling of one subject."""
    ncsnr = store.ncsnr[np.isfinite(store.ncsnr)]
    quartiles = np.quantile(ncsnr, [0.25, 0.5, 0.75]) if len(ncsnr) else [np.nan] * 3
    splits = {
        name: {"trials": int((store.split == code).sum()), "pictures": len(store.pictures(name))}
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


def _settings(responses: Path) -> dict | None:
    """Read how the responses were made from the record beside them; None where there is none."""
    path = record_path(responses)
    if not path.is_file():
        return None
    config = json.loads(path.read_text(encoding="utf-8"))["config"]
    return config if {"preprocess", "nsd"} <= config.keys() else None


def _mean_picture_pixcorr(store: StimulusStore, train: np.ndarray, test: np.ndarray) -> float:
    """Mean pixel correlation of the mean training picture (unrounded) with the test pictures."""
    total = np.zeros((store.size, store.size, 3))
    for start in range(0, len(train), _PICTURES_AT_ONCE):
        total += store.pictures(train[start : start + _PICTURES_AT_ONCE]).sum(0, dtype=np.int64)
    mean = total / max(1, len(train))
    values = [
        pixcorr(np.broadcast_to(mean, (len(rows), 1, *mean.shape)), store.pictures(test[rows]))
        for rows in blocks(len(test))
    ]
    return round(float(np.concatenate(values).mean()), 4)


def _pair_pixcorr(store: StimulusStore, test: np.ndarray, seed: int) -> float | None:
    """Mean pixel correlation of random pairs of different test pictures."""
    if len(test) < 2:
        return None
    generator = np.random.default_rng(seed)
    left = generator.integers(0, len(test), _PAIRS)
    right = (left + generator.integers(1, len(test), _PAIRS)) % len(test)
    values = [
        pixcorr(store.pictures(test[left[pairs]])[:, None], store.pictures(test[right[pairs]]))
        for pairs in blocks(_PAIRS)
    ]
    return round(float(np.concatenate(values).mean()), 4)


def _largest_share(names: np.ndarray) -> float:
    return round(float(np.unique(names, return_counts=True)[1].max() / len(names)), 4)


def _backbone_facts(metrics: Path | None) -> dict | None:
    """Read the controls that the evaluation measured; None where it has not run."""
    if metrics is None or not record_path(metrics).is_file():
        return None
    results = json.loads(record_path(metrics).read_text(encoding="utf-8"))["results"]
    controls = results.get("controls")
    if not controls:
        return None
    seen, vae, text = (controls[name].get("category") for name in ("seen", "vae", "text"))
    return {
        "name": results["backbone"],
        "mean_colour_two_way": controls["mean_colour"]["two_way"],
        "vae_pixcorr": controls["vae"]["pixcorr"],
        "category_true_pictures": seen,
        "category_after_vae": vae,
        "category_after_vae_share": round(vae / seen, 4) if seen and vae is not None else None,
        "category_from_true_caption": text,
    }


def _subjects(facts: dict) -> str:
    rows = []
    for subject, found in facts["subjects"].items():
        splits = found["splits"]
        low, median, high = found["ncsnr_quartiles"]
        ceiling = "unknown" if median is None else f"{median:.3f}<small>{low:.3f} to {high:.3f}</small>"
        counts = [f"{splits[name]['pictures']:,}<small>{splits[name]['trials']:,} trials</small>" for name in SPLITS]
        sessions, training = found["sessions"], found["training_sessions"]
        fewer = f"<small>training: {training}</small>" if training < sessions else ""
        rows.append([escape(subject), f"{sessions}{fewer}", *counts, str(found["most_repeats"]), ceiling])
    header = ["subject", "sessions", *(f"{name} pictures" for name in SPLITS), "repeats", "ncsnr"]
    one = next(iter(facts["subjects"].values()))
    note = (
        f"<p>{one['vertices']:,} vertices of visual cortex, from {escape(one['beta_version'])} on "
        f"{escape(one['mesh'])}. Test pictures are those that all subjects were to see; validation pictures are taken "
        f"from the others. {_AVERAGING[facts['test_responses']]} ncsnr: noise ceiling signal-to-noise ratio, "
        "median and quartiles over vertices (NSD's subjects: medians 0.32 to 0.54).</p>"
    )
    return "<h2>Responses</h2>" + table(header, rows) + note + _choices(facts["settings"])


def _choices(settings: dict | None) -> str:
    """Say which sessions count and how responses were z-scored."""
    if settings is None:
        return ""
    nsd, made = settings["nsd"], settings["preprocess"]
    over = {"non_test": "trials of no test picture", "all": "all trials"}[made["statistics"]]
    return (
        f"<p>{describe_release(nsd['release'], nsd['sessions'])} Responses are z-scored over {over} of a "
        f"{escape(made['z_score'])} and end at {made['clip']:g} standard deviations.</p>"
    )


def _pictures(facts: dict) -> str:
    found, backbone = facts["pictures"], facts["backbone"]
    rows = [
        ["pictures (training, test)", f"{found['train']:,}, {found['test']:,}", ""],
        [
            "pictures in both training and test",
            str(found["train_and_test"]),
            _verdict(found["train_and_test"] == 0, "0"),
        ],
        ["categories, kinds of background", f"{found['categories']}, {found['backgrounds']}", ""],
        [
            "PixCorr of the mean training picture with test pictures",
            f"{found['mean_training_picture_pixcorr']:.3f}",
            _verdict(found["mean_training_picture_pixcorr"] < MEAN_PICTURE_LIMIT, f"below {MEAN_PICTURE_LIMIT:.2f}"),
        ],
        ["PixCorr of two random test pictures", _number(found["random_pair_pixcorr"]), ""],
        ["share of the commonest category in test", _number(found["commonest_category_share"]), ""],
        ["share of the commonest background in test", _number(found["commonest_background_share"]), ""],
    ]
    if backbone:
        colour, share = backbone["mean_colour_two_way"], backbone["category_after_vae_share"]
        rows += [
            [
                "two-way identification by mean colour alone",
                _number(colour),
                _verdict(colour < MEAN_COLOUR_LIMIT, f"below {MEAN_COLOUR_LIMIT:.2f}"),
            ],
            ["PixCorr of true pictures after the VAE", _number(backbone["vae_pixcorr"]), ""],
            ["category read off true pictures", _number(backbone["category_true_pictures"]), ""],
            [
                "category read off true pictures after the VAE",
                _number(backbone["category_after_vae"]),
                ""
                if share is None
                else _verdict(share >= VAE_CATEGORY_LIMIT, f"at least {VAE_CATEGORY_LIMIT:.2f} of the line above"),
            ],
            [
                "category read off pictures drawn from a true caption",
                _number(backbone["category_from_true_caption"]),
                "",
            ],
        ]
    return "<h2>Pictures</h2>" + table(["fact", "measured", "wanted"], rows)


def _verdict(good: bool, wanted: str) -> str:
    return f'<span class="{"good" if good else "bad"}">{escape(wanted)}{"" if good else " - missed"}</span>'


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _json(facts: dict) -> str:
    return f"<details><summary>All numbers as JSON</summary><pre>{escape(json.dumps(facts, indent=1))}</pre></details>"
