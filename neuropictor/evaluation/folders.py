"""Scores of any images: a folder of seen images, and folders of reconstructions named after them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuropictor.data.image_files import SUFFIXES, composed, read_image
from neuropictor.evaluation.evaluate import USED, Scorer, score_all, write_scores
from neuropictor.evaluation.judges import Held, Judge, load_describer
from neuropictor.evaluation.metrics import METRICS
from neuropictor.evaluation.statistics import ABOVE_CHANCE, Pairings, tests_of
from neuropictor.evaluation.tables import STATISTICS, TEST_COLUMNS, write_table
from neuropictor.models.backbone import MINIATURE, Backbone
from neuropictor.models.device import prepare_device
from neuropictor.nsd.imagery import ARTWORK_CUE, SET_A
from neuropictor.nsd.set_b import SET_B
from neuropictor.nsd.synthetic import read_classes
from neuropictor.records.files import atomic_path
from neuropictor.records.record import RunRecord

if TYPE_CHECKING:
    from neuropictor.config import EvaluateConfig, RuntimeConfig

_SHOWN = 5  # names in a message
_UNSAFE = re.compile(r"[=+@-](?!\d+$)|.*[\x00-\x1f\x7f\ud800-\udfff]", re.DOTALL)  # a spreadsheet's formula; no text


@dataclass(frozen=True)
class Pairs:
    """Seen images and their reconstructions.

    Attributes
    ----------
    names
        Of the images, sorted.
    seen
        uint8 [N, S, S, 3].
    reconstructed
        dict of uint8 [N, K, s, s, 3]: by name of the folder; K and s may differ from folder to folder.
    """

    names: list[str]
    seen: np.ndarray
    reconstructed: dict[str, np.ndarray]

    def of(self, names: Collection[str]) -> Pairs:
        """Return those of some names."""
        rows = [row for row, name in enumerate(self.names) if name in names]
        reconstructed = {model: images[rows] for model, images in self.reconstructed.items()}
        return Pairs([self.names[row] for row in rows], self.seen[rows], reconstructed)


def read_pairs(reconstructions: Sequence[Path], images: Path) -> Pairs:
    """Read folders and pair their images by name.

    Parameters
    ----------
    reconstructions
        Folders. The reconstruction of `dog.png` is `dog` with any suffix, or several samples are `dog_0`, `dog_1` ...
    images
        Folder of the seen images; all square and of one size.

    Raises
    ------
    FileNotFoundError, ValueError
        For an image without reconstruction, a reconstruction without image, two files of one name, different
        numbers of samples, files that cannot be read, and images of several sizes.
    """
    files = _by_name(images)
    names = sorted(files)
    if len(names) < 2:
        raise ValueError(
            f"{images}: {len(names)} images; identification needs at least 2, for example 982 files seen/00000.png ..."
        )
    folders = {_safe(folder, folder.resolve().name): folder for folder in reconstructions}
    if len(folders) < len(reconstructions):
        raise ValueError(
            f"folders of reconstructions have the same name: {', '.join(map(str, reconstructions))}; each gives a"
            f" model its"
            " name, for example results/a and results/b"
        )
    seen = _read_all(images, [[files[name]] for name in names])[:, 0]
    return Pairs(names, seen, {name: _read_all(folder, _samples(folder, names)) for name, folder in folders.items()})


def _by_name(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    kinds = sorted(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
    for path in sorted(Path(folder).iterdir()):
        # Names with a dot before them are no images: macOS puts ._dog.png beside dog.png.
        if path.suffix.lower() not in kinds or path.name.startswith(".") or path.is_dir():
            continue
        stem = _safe(path, composed(path.stem))
        if stem in files:
            raise ValueError(
                f"{folder}: {files[stem].name} and {path.name} have the same name; allowed is one file an image,"
                f" for example {files[stem].name} alone"
            )
        files[stem] = path
    if not files:
        kinds = ", ".join(kinds)
        raise ValueError(f"{folder} holds no images; allowed are {kinds}, for example 00000.png")
    return files


def _safe(path: Path, name: str) -> str:
    if _UNSAFE.match(name):
        raise ValueError(
            f"{str(path)!r}: spreadsheets would take the name for a formula, or it holds characters that are no text; "
            "allowed: names that begin with a letter or digit, for example dog.png"
        )
    return name


def _samples(folder: Path, names: list[str]) -> list[list[Path]]:
    """Files of each image's samples, in order."""
    known, samples, extra = set(names), {name: {} for name in names}, []
    for stem, path in _by_name(folder).items():
        numbered = re.fullmatch(r"(.+)_(\d+)", stem)
        if stem in known:
            name, number = stem, -1
        elif numbered and numbered[1] in known:
            name, number = numbered[1], int(numbered[2])
        else:
            extra.append(path.name)
            continue
        if number in samples[name] or (samples[name] and (number == -1) != (-1 in samples[name])):
            raise ValueError(
                f"{folder}: {path.name} and {next(iter(samples[name].values())).name} are both reconstructions of"
                f" {name};"
                f" allowed is one of that name, or numbered samples, for example {name}_0{path.suffix} and"
                f" {name}_1{path.suffix}"
            )
        samples[name][number] = path
    lacking = [name for name in names if not samples[name]]
    if lacking or extra:
        parts = [f"no reconstruction of {_list(lacking)}"] if lacking else []
        parts += [f"no seen image for {_list(extra)}"] if extra else []
        raise ValueError(
            f"{folder}: {', and '.join(parts)}. Files are paired by name: allowed for {names[0]} is {names[0]}.png, or"
            f" {names[0]}_0.png, {names[0]}_1.png for samples"
        )
    counts = {name: len(by_number) for name, by_number in samples.items()}
    usual = max(counts.values())
    fewer = [f"{name} ({count})" for name, count in counts.items() if count != usual]
    if fewer:
        raise ValueError(
            f"{folder}: others have {usual} samples, but {_list(fewer)} not; allowed is the same number of all"
        )
    return [[path for _, path in sorted(by_number.items())] for by_number in samples.values()]


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _read_all(folder: Path, files: list[list[Path]]) -> np.ndarray:
    """Read images as uint8 [N, K, S, S, 3]."""
    out = None
    for row, samples in enumerate(files):
        for place, path in enumerate(samples):
            values = read_image(path)
            if out is None:
                out = np.empty((len(files), len(samples), *values.shape), np.uint8)
            if values.shape != out.shape[2:] or values.shape[0] != values.shape[1]:
                raise ValueError(
                    f"{path} is {values.shape[1]} x {values.shape[0]} pixels; allowed: all images of {folder}"
                    f" square and of"
                    f" one size, for example {out.shape[-2]} x {out.shape[-2]}; reduce or crop them all alike"
                )
            out[row, place] = values
    assert out is not None
    return out


def imagery_sets(images: Path) -> dict[str, list[str]]:
    """Return the names of sets A and B of NSD-Imagery, by which its protocol scores, in a folder of seen images.

    Raises
    ------
    ValueError
        If the images are not named after the cues of both sets.
    """
    sets = {"A": list(SET_A), "B": [*SET_B, ARTWORK_CUE]}
    expected, there = sorted(name for names in sets.values() for name in names), sorted(_by_name(images))
    if there != expected:
        raise ValueError(
            f"{images} holds {_list(there)}; protocol nsd-imagery needs the twelve images of sets A and B that are no "
            f"words, named after their cues: {', '.join(expected)}, for example H.png"
        )
    return sets


def synthetic_classes(images: Path, table: Path) -> dict[str, list[str]]:
    """Return the names of the images of each class of NSD-synthetic in a folder of seen images.

    Parameters
    ----------
    images
        The folder.
    table
        NSD's nsdsyntheticimageinformation.csv.

    Raises
    ------
    ValueError
        If an image of the folder is not in the table, or a class has only one of them.
    """
    class_of = dict(read_classes(table)[["name", "category"]].itertuples(index=False))
    names = sorted(_by_name(images))
    unknown = [name for name in names if name not in class_of]
    if unknown:
        raise ValueError(
            f"{images}: {_list(unknown)} not among the images of {table}; allowed: names of its column Image, "
            f"for example {next(iter(class_of))}.png"
        )
    classes: dict[str, list[str]] = {}
    for name in names:
        classes.setdefault(class_of[name], []).append(name)
    alone = [name for name, members in classes.items() if len(members) < 2]
    if alone:
        raise ValueError(f"{images}: one image of class {alone[0]}; identification needs at least 2 of each class")
    return classes


def evaluate_folders(
    reconstructions: Sequence[Path],
    images: Path,
    config: EvaluateConfig,
    runtime: RuntimeConfig,
    out: Path,
    weights: Path | None = None,
    groups: Mapping[str, Collection[str]] | None = None,
) -> str:
    """Score folders of reconstructions.

    Parameters
    ----------
    reconstructions, images
        As for `read_pairs`; with several folders, each is compared with the first.
    config
        `protocols`, `bootstrap`, `permutations` and `seed` are used.
    runtime
        Section of the configuration.
    out
        Folder for metrics.csv, scores.csv (of every image), statistics.csv and metrics.json; `report.folder_page`
        makes a page of them.
    weights
        Folder of `fetch_weights`. Without it the miniature judges: `ours` says so, and for the published protocols only
        PixCorr and SSIM are given.
    groups
        Names of images by group: each is scored as if there were no other, too, into a folder of its name in `out`.

    Returns
    -------
    str
        The table as text: a line for each protocol, model and score, of all images and of each group.
    """
    pairs = read_pairs(reconstructions, images)
    config = config.model_copy(update={"networks": "published" if weights else "miniature"})
    files = sorted(path for folder in (images, *reconstructions) for path in _by_name(folder).values())
    text = _evaluate(pairs, files, config, runtime, out, weights)
    for group, names in (groups or {}).items():
        text += f"\n\n{group}: " + _evaluate(pairs.of(names), files, config, runtime, out / group, weights)
    return text


def _evaluate(
    pairs: Pairs,
    files: list[Path],
    config: EvaluateConfig,
    runtime: RuntimeConfig,
    out: Path,
    weights: Path | None,
) -> str:
    device = prepare_device(runtime)
    rows = np.arange(len(pairs.names))
    used = {name: getattr(config, name) for name in USED}
    outputs = [out / name for name in ("metrics.csv", "scores.csv", STATISTICS, "metrics.json")]
    with RunRecord(
        out / "metrics.run.json", "evaluate", config=used, seed=config.seed, inputs=files, outputs=outputs
    ) as record:
        describer = load_describer(config.networks, Backbone.load(MINIATURE).to(device), weights, device)
        unknown = np.full(len(rows), "")
        judge = Judge(describer, Held(pairs.seen[:, None]), unknown, unknown, [], config.seed)
        scorer = Scorer(judge, config.protocols, weights, device)
        pairings = Pairings(len(rows), config.permutations, config.seed)
        models = {("images", model): (Held(images), rows) for model, images in pairs.reconstructed.items()}
        scores, nulls = score_all(scorer, models, np.array(pairs.names), pairings, None, config.seed)
        table = write_scores(scores, "folders", config, out / "metrics.csv", mean=False)
        tests = tests_of(scores, nulls, next(iter(pairs.reconstructed)), "folders", config)
        write_table(tests, TEST_COLUMNS, out / STATISTICS)
        facts = {
            "images": len(rows),
            "samples": {model: images.shape[1] for model, images in pairs.reconstructed.items()},
            "judge": describer.name,
            "networks": config.networks,
            "protocols": list(scores["protocol"].unique()),
        }
        _write_json(facts, table, tests, out / "metrics.json")
        record.add(**facts)
    lines = [f"{len(rows)} images; 95 % intervals"]
    for row in table:
        name = f"{row['protocol']:14}{row['model']:20.19}{METRICS[row['metric']].title:18}"
        lines.append(f"{name}{row['value']:8.3f} ({row['ci_low']:.3f} to {row['ci_high']:.3f})")
    return "\n".join(lines)


def _write_json(facts: dict, table: list[dict], tests: list[dict], out: Path) -> None:
    """Write all numbers by protocol, model and score."""
    chance = {(row["protocol"], row["model"], row["metric"]): row for row in tests if row["test"] == ABOVE_CHANCE}
    scores: dict = {}
    for row in table:
        key = (row["protocol"], row["model"], row["metric"])
        entry = {name: round(row[name], 6) for name in ("value", "ci_low", "ci_high")} | {"n_images": row["n_images"]}
        if key in chance:
            entry |= {"p_above_chance": round(chance[key]["p_corrected"], 6)}
        scores.setdefault(row["protocol"], {}).setdefault(row["model"], {})[row["metric"]] = entry
    with atomic_path(out) as temporary:
        temporary.write_text(json.dumps(facts | {"scores": scores}, indent=1) + "\n", encoding="utf-8")
