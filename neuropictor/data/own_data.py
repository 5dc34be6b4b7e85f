"""A lab's own scans: betas on a surface with a table of trials, and images with a table of captions.

The formats are described in docs/own_data.md.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd

from neuropictor.config import PreprocessConfig
from neuropictor.data.image_files import SUFFIXES, middle_square, read_image
from neuropictor.data.image_names import ImageNames
from neuropictor.data.labs.kinds import KINDS, open_files
from neuropictor.data.labs.reader import LabBetas
from neuropictor.data.preprocess import write_responses
from neuropictor.data.responses import SPLITS, ResponseStore
from neuropictor.data.stimuli import StimulusStore, StimulusWriter, frame_images
from neuropictor.data.tables import (
    VALIDATION_SHARE,
    Splits,
    line_of,
    number_trials,
    read_nsd_images,
    read_shared_images,
    read_table,
    read_trials,
)
from neuropictor.nsd.constants import CAPTIONS_PER_IMAGE
from neuropictor.nsd.design import LEFT_OUT, TEST
from neuropictor.nsd.set_b import leave_out_of_training
from neuropictor.records.files import atomic_path, need
from neuropictor.records.record import RunRecord, record_path

if TYPE_CHECKING:
    from neuropictor.config import RuntimeConfig

CAPTION_SEPARATOR = "|"
NO_CAPTIONS = "none"
CATEGORY_CAPTION = "a photo of a {}"
"""Caption of an image of which only the category is known: CLIP's prompt (Radford et al. 2021, section 3.1.4)."""


def import_betas(
    table: Path | Sequence[Path] | None,
    subject: str,
    config: PreprocessConfig,
    out: Path,
    betas: Path | None = None,
    *,
    kind: str = "",
    standardised: bool | None = None,
    images: Path | None = None,
    image_column: str = "image",
    task: str = "",
    nsd_images: Path | None = None,
    data_set: str = "",
    test_share: float | None = None,
    test_images: Path | None = None,
    validation_share: float = VALIDATION_SHARE,
    split_seed: int = 0,
) -> None:
    """Write a response store from a lab's own betas.

    Parameters
    ----------
    table
        Table with one row a trial: ``session``, ``trial`` (its place in the session's files, from 0), ``image`` (a
        number or a name) and perhaps ``split`` (train, validation or test); or BIDS' tables of events, or a folder of
        them; None where the files name their trials themselves.
    subject
        Label to call the subject by, of letters and digits.
    config
        `clip`, `z_score`, `statistics` and `training_sessions` are used.
    out
        `responses.h5` to write; a record is written beside it.
    betas
        Folder (or file) of the betas; None: the table's folder.
    kind
        Of `neuropictor.data.labs.kinds.KINDS`; empty: as the files' names show.
    standardised
        Whether the responses are z-scores already, and only clipped; None: as is usual for the kind.
    images
        Stimulus store that must hold every trial's image; None: not compared.
    image_column, task
        As for `read_trials`.
    nsd_images
        NSD's ``nsd_stim_info_merged.csv``: images of COCO get NSD's numbers where NSD has them, and those of
        NSD-Imagery do not train.
    data_set
        Name that keeps this data set's images apart from another's of the same names.
    test_share, test_images, validation_share, split_seed
        As for `neuropictor.data.tables.Splits`.

    Raises
    ------
    FileNotFoundError, ValueError
        For missing, damaged or inconsistent files, with the file's name, line and what is allowed.
    """
    tables = [Path(table)] if isinstance(table, str | Path) else [Path(path) for path in table or ()]
    if betas is None and not tables:
        raise ValueError(
            "neither table nor betas are given; allowed: one of them or both. Example: --betas scans/sub-01"
        )
    folder = Path(betas) if betas is not None else tables[0] if tables[0].is_dir() else tables[0].parent
    names = ImageNames(read_nsd_images(nsd_images) if nsd_images else {}, data_set)
    splits = Splits(test_share, test_images, validation_share, split_seed)
    session_labels: dict[int, str] = {}
    if tables:
        where = tables[0]
        rows, session_labels = read_trials(tables, image_column, task)
        trials = number_trials(rows, where, names, splits)
        kind, files = open_files(folder, kind)
    else:
        where = folder
        kind, files = open_files(folder, kind)
        if files.trials is None:
            raise ValueError(
                f"{folder}: files of the kind {kind} do not name their trials; allowed: a table of them. Example: "
                "--table trials.csv, with the columns session, trial, image, split"
            )
        rows = files.trials()
        trials = number_trials(rows, where, names, splits)
    if images:
        _check_known(trials, rows["image"], where, images)
    codes = np.array([SPLITS.index(name) for name in trials["split"]])
    sessions = sorted(int(session) for session in trials["session"].unique())
    late = trials["session"].isin(sessions[config.training_sessions :])
    codes[late & (codes != TEST)] = LEFT_OUT
    if nsd_images:
        shared = read_shared_images(nsd_images)
        codes = leave_out_of_training(codes, trials["nsd_id"].to_numpy(), shared, f"subject {subject}")
    reader = LabBetas(files, {session: trials["trial"][trials["session"] == session] for session in sessions})
    labels = {"subject": subject, "data": "own", "beta_version": "own", "mesh": reader.mesh}
    standardised = KINDS[kind].standardised if standardised is None else standardised
    options = {"kind": kind, "standardised": standardised, "image_column": image_column, "data_set": data_set}
    options |= {"test_share": test_share, "validation_share": validation_share, "split_seed": split_seed}
    sections = {"preprocess": config, "import": options | {"session_labels": session_labels}}
    inputs = [path for path in (*tables, nsd_images, test_images) if path is not None and Path(path).is_file()]
    facts = files.facts() if files.facts else {}
    write_responses(reader, sessions, trials, codes, config, labels, sections, inputs, out, standardised, facts)


def _check_known(trials: pd.DataFrame, names: pd.Series, table: Path, images: Path) -> None:
    """Refuse trials whose image no stimulus store holds: otherwise a later stage would."""
    store = StimulusStore(images)
    unknown = ~trials["nsd_id"].isin(store.nsd_id)
    if unknown.any():
        line = line_of(unknown)
        missing = trials["nsd_id"][unknown].nunique()
        raise ValueError(
            f"{table}, line {line}: image {names[line]} (number {trials['nsd_id'][line]}) is none of the {len(store)} "
            f"in {images}, nor are {missing - 1} others of the table; allowed: images of the store, named or numbered "
            f"alike in both tables, for example {store.names(store.nsd_id[:1])[0] or store.nsd_id[0]}"
        )


def import_images(
    table: Path | None,
    config: PreprocessConfig,
    out: Path,
    *,
    images: Path | None = None,
    responses: Path | None = None,
    captions: str = "",
    nsd_images: Path | None = None,
    data_set: str = "",
    visual_angle: float | None = None,
    runtime: RuntimeConfig | None = None,
) -> None:
    """Write a stimulus store from a lab's own images.

    Parameters
    ----------
    table
        Table with one row an image: ``file`` (relative to the table), perhaps ``image`` (its number or name; the
        file's name otherwise), ``captions`` (up to five, separated by ``|``); where known ``category`` (main object)
        and ``background``. None with `images`.
    config
        `image_size` and `visual_angle` are used; images that are not square are cropped around their middle.
    out
        `stimuli.h5` to write; a record is written beside it.
    images
        Folder, whose image files are taken, named as they are.
    responses
        Response store, whose trials' images alone are taken: the folder may hold a whole data set's; None: all.
    captions
        Empty: every image has captions in the table; "none": images may have none, and those with a category get
        `CATEGORY_CAPTION`; otherwise the folder or fetched repository of a model that writes those that are missing.
    nsd_images, data_set
        As for `import_betas`.
    visual_angle
        Degrees that the square's side covered when it was shown; None: not known.
    runtime
        Device of that model.

    Raises
    ------
    FileNotFoundError, ValueError
        For missing or inconsistent files, with the file's name, row and what is allowed.
    """
    if (table is None) == (images is None):
        raise ValueError(
            "import-images needs a table of images or a folder of them; allowed: one of both. Example: --table "
            "scans/images.csv, or --images stimuli --captions none"
        )
    share = 1.0
    if config.visual_angle:
        if visual_angle is None:
            raise ValueError(
                f"preprocess.visual_angle is {config.visual_angle}, but nothing tells how large these images were "
                "shown; allowed: degrees of their side. Example: --visual-angle 8.4, or the column visual_angle of "
                "the table of people"
            )
        share = config.visual_angle / visual_angle
    source = Path(table if table is not None else images)  # pyright: ignore[reportArgumentType] (one of both is given)
    rows = _listed(source) if table is None else _read_images(source, bool(captions))
    names = ImageNames(read_nsd_images(nsd_images) if nsd_images else {}, data_set)
    rows = rows.assign(number=names.numbers(rows["image"], str(source)))
    twice = rows.duplicated("number")
    if twice.any():
        raise ValueError(
            f"{source}, line {line_of(twice)}: image {rows['image'][twice].iloc[0]} comes twice; allowed: a row an "
            "image"
        )
    if responses is not None:
        rows = _seen(rows, source, responses)
    rows = rows.sort_values("number")
    folder = source if table is None else source.parent
    paths = {line: _existing(folder, name) for line, name in rows["file"].items()}
    for line, path in paths.items():
        need(path, f"{source}, line {line}, names it")
    texts = _captions(rows, source, captions)
    inputs = [path for path in (table, responses, nsd_images) if path is not None]
    with (
        RunRecord(record_path(out), "import_images", config=config, inputs=inputs, outputs=[out]) as record,
        atomic_path(out) as temporary,
        h5py.File(temporary, "w") as file,
    ):
        if captions not in ("", NO_CAPTIONS):
            from neuropictor.data.captions import caption_images

            bare = [place for place, lines in enumerate(texts) if not lines]
            shown = [list(paths.values())[place] for place in bare]
            made = caption_images(captions, (middle_square(read_image(path)) for path in shown), len(shown), runtime)
            for place, text in zip(bare, made, strict=True):
                texts[place] = [text]
            record.add(captions_model=captions, captions_made=len(bare))
        writer = StimulusWriter(file, rows["number"].to_numpy(), config.image_size, "own")
        for path in paths.values():
            writer.append(frame_images(middle_square(read_image(path)), config.image_size, share)[None])
        writer.finish(texts, rows["category"], rows["background"], rows["image"])
        record.add(visual_angle=visual_angle)
        record.add(images=len(rows), data="own", without_captions=sum(not lines for lines in texts))


def _read_images(table: Path, may_lack_captions: bool) -> pd.DataFrame:
    """Read a table of images as text, with ``image`` from the file's name where there is no such column."""
    columns, optional = ("file", "captions"), ("image", "category", "background")
    if may_lack_captions:
        columns, optional = columns[:1], (*optional, "captions")
    rows = read_table(table, columns, numbers=(), optional=optional)
    return rows.assign(image=rows["image"] if (rows["image"] != "").any() else rows["file"])


def _listed(folder: Path) -> pd.DataFrame:
    """List the image files of a folder and those below it, in the columns of a table."""
    endings = [ending for group in SUFFIXES.values() for ending in group]
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in endings and path.is_file()]
    if not files:
        raise FileNotFoundError(f"{folder} holds no images; allowed: a folder with files {', '.join(endings)}")
    listed = [path.relative_to(folder).as_posix() for path in files]
    rows = pd.DataFrame({"image": listed, "file": listed}, range(1, len(files) + 1))
    return rows.assign(captions="", category="", background="")


def _seen(rows: pd.DataFrame, source: Path, responses: Path) -> pd.DataFrame:
    """Rows of the images that a subject saw; refuse a source that lacks one."""
    store = ResponseStore(responses)
    seen = np.unique(store.nsd_id)
    lacking = np.setdiff1d(seen, rows["number"])
    if len(lacking):
        raise ValueError(
            f"{source} lacks {len(lacking)} of the {len(seen)} images that subject {store.subject} saw by {responses}, "
            f"number {lacking[0]} among them; allowed: all, with the names that the trials have. It holds "
            f"{len(rows)}, for example {rows['image'].iloc[0]}, number {rows['number'].iloc[0]}"
        )
    return rows[rows["number"].isin(seen)]


def _captions(rows: pd.DataFrame, source: Path, option: str) -> list[list[str]]:
    """Return the captions of each image; refuse images without any, unless the option says otherwise."""
    texts = [[text.strip() for text in row.split(CAPTION_SEPARATOR) if text.strip()] for row in rows["captions"]]
    for place, (line, lines) in enumerate(zip(rows.index, texts, strict=True)):
        name, category = rows["image"].iloc[place], rows["category"].iloc[place]
        if option == NO_CAPTIONS and not lines and category:
            texts[place] = [CATEGORY_CAPTION.format(category)]
        if len(lines) > CAPTIONS_PER_IMAGE or (not lines and not option):
            raise ValueError(
                f"{source}, line {line}: image {name} has {len(lines)} captions; allowed: one to {CAPTIONS_PER_IMAGE},"
                " e.g. a dog on a beach|a brown dog runs; without any: --captions none, or a model that writes them"
            )
    return texts


def _existing(folder: Path, name: str) -> Path:
    """Path of an image, whose name may be written in another form of Unicode than the table's."""
    forms = [folder / unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    return next((path for path in forms if path.is_file()), folder / name)
