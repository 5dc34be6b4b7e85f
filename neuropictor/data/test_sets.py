"""From the files of NSD-Imagery and NSD-synthetic to prepared stores: extra test sets of NSD's people.

Nothing of them trains or validates. All of a store's trials are test trials, so means and standard deviations are of
all: within the seen runs, within the imagined runs, and within the session of NSD-synthetic. Images are numbered by
their names, as other data sets' are (`neuropictor.data.image_names`), apart from NSD's own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd

from neuropictor.config import NsdConfig, PreprocessConfig
from neuropictor.config.test_sets import TEST_SETS, check_betas
from neuropictor.config.types import subject_label
from neuropictor.data.image_files import middle_square, read_image
from neuropictor.data.image_names import ImageNames
from neuropictor.data.preprocess import write_responses
from neuropictor.data.sessions import BetaReader
from neuropictor.data.stimuli import StimulusWriter, frame_images
from neuropictor.data.stores import open_store
from neuropictor.data.trial_order import check_order
from neuropictor.fetching import manifest
from neuropictor.nsd import experiments, imagery, keys, synthetic
from neuropictor.nsd.betas import mesh_of
from neuropictor.nsd.constants import IMAGE_DEGREES, SCREEN_GREY
from neuropictor.nsd.design import LEFT_OUT, TEST, load_design
from neuropictor.records.files import atomic_path
from neuropictor.records.record import RunRecord, record_path

log = logging.getLogger(__name__)


def preprocess_test_set(
    nsd_root: Path,
    subject: int,
    test_set: str,
    config: PreprocessConfig,
    nsd: NsdConfig,
    responses: Path,
    stimuli: Path,
) -> None:
    """Prepare responses and images of one test set of one subject: 1 to 2 s and 210 MB of memory at the size of NSD.

    Parameters
    ----------
    nsd_root
        Folder in NSD's layout, real or simulated.
    subject
        1 to 8.
    test_set
        ``vision`` or ``imagery`` of NSD-Imagery, or ``synthetic``.
    config
        `clip`, `image_size` and `visual_angle` are used.
    nsd
        `beta_version` is used.
    responses, stimuli
        ``responses.h5`` and ``stimuli.h5`` to write, each with a record beside it. In both ``name`` of NSD-Imagery's
        images is the cue, ``category`` the set A, B or C, ``background`` the target; of NSD-synthetic's ``name``,
        class and subclass.

    Raises
    ------
    FileNotFoundError, ValueError
        For missing, truncated or inconsistent files, with the file's name; for betas in another order than the trials
        (`neuropictor.data.trial_order`).
    """
    sets = [name for names in TEST_SETS.values() for name in names]
    if test_set not in sets:
        raise ValueError(f"test set {test_set!r} does not exist; allowed: {', '.join(sets)}. Example: vision")
    experiment = next(name for name, names in TEST_SETS.items() if test_set in names)
    check_betas([experiment], nsd.beta_version)
    nsd_root = Path(nsd_root)
    paths = [nsd_root / key for key in experiments.beta_keys(experiment, subject, nsd.beta_version)]
    gather = _gather_synthetic if experiment == "synthetic" else _gather_imagery
    gathered = gather(nsd_root, subject, test_set, paths)
    data = "simulated" if keys.is_simulated(nsd_root) else "nsd"
    # Every trial is a test trial, and each store has but one session.
    config = config.model_copy(update={"statistics": "all", "z_score": "session"})
    labels = {
        "subject": subject_label(subject),
        "data": data,
        "beta_version": nsd.beta_version,
        "mesh": mesh_of(paths[0]),
    }
    sections = {"preprocess": config, "nsd": nsd.model_dump(include={"beta_version"})}
    trials, split = gathered.trials, gathered.split
    trials = trials.assign(session=1, repeat=trials[split == TEST].groupby("nsd_id").cumcount()).fillna({"repeat": 0})
    reader, facts = _Held(gathered.betas, paths), {"test_set": test_set, **gathered.facts}
    write_responses(reader, [1], trials, split, config, labels, sections, gathered.inputs, Path(responses), facts=facts)
    _write_stimuli(gathered, config, data, facts, Path(stimuli))


class _Image(NamedTuple):
    """An image of a test set: how to read it, uint8 [S, S, 3], and its texts."""

    read: Callable[[], np.ndarray]
    name: str
    category: str
    background: str
    captions: Sequence[str] = ()


class _Gathered(NamedTuple):
    """What a test set is made of.

    `betas` [T, V], `trials` with their ``nsd_id``, `split` [T] (-1: not stored), `images` by nsd_id, `inputs` for the
    record besides the betas, and what else it shall say.
    """

    betas: np.ndarray
    trials: pd.DataFrame
    split: np.ndarray
    images: dict[int, _Image]
    inputs: list[Path]
    facts: dict[str, Any]


class _Held:
    """One session of betas that were read before, as a reader of `write_responses`."""

    def __init__(self, betas: np.ndarray, paths: list[Path]):
        self._betas, self._paths = betas, paths

    def check(self, sessions: list[int]) -> None:
        """Pass: the files have been read."""

    def files(self, sessions: list[int]) -> list[Path]:
        """Return the files that the betas were read from."""
        return self._paths

    def betas(self, session: int) -> np.ndarray:
        """Return all betas."""
        return self._betas


def _gather_imagery(root: Path, subject: int, test_set: str, paths: list[Path]) -> _Gathered:
    design = load_design(root)
    targets = imagery.targets_of(design)
    needed = [keys.EXPERIMENT_DESIGN, keys.STIMULI, *imagery.shared_keys(), *imagery.subject_keys(subject)]
    inputs = [root / key for key in needed]
    manifest.check(root, [*inputs, *paths])
    where = f"subject {subject}, NSD-Imagery"
    betas = BetaReader(mesh_of(paths[0]))(paths, imagery.ROWS, where)
    seen = imagery.read_trials(root, subject, "vision", targets)
    per_run = (len(imagery.runs_of("vision")), imagery.TRIALS_PER_RUN)
    order = check_order(
        betas[seen["row"]].reshape(*per_run, -1), seen["target"].to_numpy().reshape(per_run), f"{paths[0]} ({where})"
    )
    log.info(
        "Subject %d, NSD-Imagery: halves of responses identify what was seen in %.0f %% of cases in the order of"
        " trials, in %.0f %% grouped by target",
        subject,
        100 * order.chronological,
        100 * order.grouped,
    )
    trials = seen if test_set == "vision" else imagery.read_trials(root, subject, test_set, targets)
    numbers = {cue: ImageNames(data_set="nsd-imagery").image_number(name) for cue, name in targets["name"].items()}
    images = {}
    for cue, (stimulus_set, name, nsd_id) in zip(targets.index, targets.itertuples(index=False), strict=True):
        captions = [name] if stimulus_set == "C" else []
        read = _target_reader(root, stimulus_set, name, nsd_id)
        images[numbers[cue]] = _Image(read, cue, stimulus_set, Path(name).stem, captions)
    facts = {
        "runs": trials["run"].unique().tolist(),
        "cue_fits": int((trials["target"] == trials["cue"]).sum()),
        "order": order._asdict(),
    }
    split = np.full(len(trials), TEST)
    numbered = pd.DataFrame({"nsd_id": trials["target"].map(numbers)})
    return _Gathered(betas[trials["row"]], numbered, split, images, inputs, facts)


def _target_reader(root: Path, stimulus_set: str, name: str, nsd_id: int) -> Callable[[], np.ndarray]:
    """Return how to read a target's image: one of NSD's, a file, or grey for a word, which has no true image."""

    def read() -> np.ndarray:
        if stimulus_set == "C":
            return np.full((1, 1, 3), SCREEN_GREY, np.uint8)
        if nsd_id < 0:
            return read_image(root / keys.imagery_target(stimulus_set, name))
        with open_store(root / keys.STIMULI, spread=True) as bank:
            return bank["imgBrick"][nsd_id]

    return read


def _gather_synthetic(root: Path, subject: int, test_set: str, paths: list[Path]) -> _Gathered:
    bricks = [root / keys.SYNTHETIC_STIMULI, root / keys.synthetic_colours(subject)]
    inputs = [root / key for key in (*synthetic.shared_keys(), *synthetic.subject_keys(subject))]
    manifest.check(root, [*inputs, *paths])
    order, table = synthetic.read_order(root), synthetic.read_images(root)
    again = synthetic.repeats_of_the_last(order)
    betas = BetaReader(mesh_of(paths[0]))(paths, synthetic.ROWS, f"subject {subject}, NSD-synthetic")
    grey = synthetic.IMAGES - synthetic.COLOURED
    for brick, count in zip(bricks, (grey, synthetic.COLOURED), strict=True):
        _check_brick(brick, count)
    # The coloured ones have the same names for everybody, but are each person's own.
    names = [ImageNames(data_set=f"nsd-synthetic{person}") for person in ("", f"/{keys.subject_name(subject)}")]
    numbers, images = [], {}
    for row, (name, category, subclass) in enumerate(table.itertuples(index=False)):
        numbers.append(names[row >= grey].image_number(name))
        read = _screen_reader(bricks[row >= grey], row % grey)
        images[numbers[-1]] = _Image(read, name, category, subclass)
    trials = pd.DataFrame({"nsd_id": np.array(numbers)[order]})
    split = np.where(again, LEFT_OUT, TEST)
    facts = {"repeats_of_the_last": int(again.sum()), "classes": table["category"].value_counts().to_dict()}
    return _Gathered(betas, trials, split, images, inputs, facts)


def _check_brick(path: Path, count: int) -> None:
    with open_store(path) as file:
        shape, kind = (file["imgBrick"].shape, file["imgBrick"].dtype) if "imgBrick" in file else ((), "missing")
    if len(shape) != 4 or shape[0] != count or shape[3] != 3 or kind != np.uint8 or shape[1] > shape[2]:
        raise ValueError(
            f"{path}: imgBrick is {kind} {shape}; allowed: uint8 [{count}, rows, columns, 3] of a screen that is wider "
            f"than high, for example ({count}, 714, 1360, 3)"
        )


def _screen_reader(path: Path, row: int) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        with open_store(path) as file:
            return as_seen(file["imgBrick"][row])

    return read


def as_seen(screen: np.ndarray) -> np.ndarray:
    """Return what a person saw of an image of NSD-synthetic.

    Its numbers are linear in light: the eye's, and other images', are their square root (Gifford et al. 2026,
    github.com/gifale95/NSD-synthetic, which cuts off what is behind the point).

    Parameters
    ----------
    screen
        uint8 [rows, columns, 3]; the image is the square in the middle.

    Returns
    -------
    uint8 array [rows, rows, 3]
    """
    return (np.sqrt(middle_square(screen) / 255) * 255).astype(np.uint8)


def _write_stimuli(gathered: _Gathered, config: PreprocessConfig, data: str, facts: dict[str, Any], out: Path) -> None:
    share = (config.visual_angle or IMAGE_DEGREES) / IMAGE_DEGREES
    numbers = sorted(gathered.images)
    images = [gathered.images[number] for number in numbers]
    sections = {"preprocess": config.model_dump(include={"image_size", "visual_angle"})}
    with (
        RunRecord(record_path(out), "preprocess", config=sections, inputs=gathered.inputs, outputs=[out]) as record,
        atomic_path(out) as temporary,
        h5py.File(temporary, "w") as file,
    ):
        writer = StimulusWriter(file, np.array(numbers), config.image_size, data)
        for image in images:
            writer.append(frame_images(middle_square(image.read()), config.image_size, share)[None])
        texts = [[getattr(image, part) for image in images] for part in ("captions", "category", "background", "name")]
        writer.finish(*texts)
        record.add(images=len(images), data=data, visual_angle=IMAGE_DEGREES, **facts)
