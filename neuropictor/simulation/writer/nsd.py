"""Write a simulated root in NSD's layout: same tree, names, formats, axis orders and id bases, at the configured size.

`write_images` writes the files that all subjects share, `write_subject` one subject's betas; subjects may be written
in parallel.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader

import neuropictor
from neuropictor.fetching import manifest
from neuropictor.fetching.download import check_room
from neuropictor.nsd import keys
from neuropictor.nsd.betas import session_paths
from neuropictor.nsd.constants import SUBJECTS
from neuropictor.nsd.design import load_design
from neuropictor.records.files import atomic_path
from neuropictor.records.progress import progress
from neuropictor.simulation.brain.areas import IMAGINED_HIGH, IMAGINED_LOW
from neuropictor.simulation.brain.brain import SimulatedBrain
from neuropictor.simulation.brain.features import SEEN_SIZE
from neuropictor.simulation.scenes.scene import Scene, reduce_image, render, scene
from neuropictor.simulation.writer.coco import CocoImages, write_annotations
from neuropictor.simulation.writer.design import write_experiment_design, write_stimulus_info
from neuropictor.simulation.writer.trial_order import TrialOrder, make_order, sessions_of
from neuropictor.surface import load_geometry

if TYPE_CHECKING:
    from neuropictor.config import SimulateConfig

log = logging.getLogger(__name__)

#: The version of NSD's betas that the simulation imitates.
BETA_VERSION = "betas_fithrf_GLMdenoise_RR"
_BIG_ENDIAN = np.dtype(">f4")


def write_images(root: str | Path, config: SimulateConfig, threads: int = 1) -> None:
    """Write everything that subjects share: images, design, annotations; ``SIMULATED.json`` first.

    It does not depend on which subjects are simulated. Images that all subjects see, and those of subjects 1, 2 and 5,
    are drawn here; those of another subject by `write_own_images`, into a file that the bank refers to (an HDF5 virtual
    data set); until then they are black.

    Parameters
    ----------
    root
        Folder of the simulated NSD; made where it is missing.
    config
        Section ``simulate``.
    threads
        Processes for rendering.

    Raises
    ------
    FileExistsError
        If the folder may hold the real NSD.
    """
    root = Path(root)
    keys.check_free_for_simulation(root)
    order = make_order(config)
    # First, so that an interrupted root is known to be simulated.
    _write_notice(root, order, config)
    scenes = [scene(config.seed, nsd_id) for nsd_id in range(order.n_images)]
    with _drawn(root / keys.STIMULI, "first", scenes[: order.n_first], config.image_size, threads) as file:
        _refer(file, order, config.image_size)
    coco = CocoImages(order.n_images, config.seed)
    write_annotations(root, scenes, coco)
    write_experiment_design(root, order)
    write_stimulus_info(root, order, coco)
    shared = [keys.annotations(kind, split) for kind in keys.ANNOTATION_KINDS for split in keys.COCO_SPLITS]
    manifest.note_simulated(root, [keys.STIMULI, keys.EXPERIMENT_DESIGN, keys.STIMULUS_INFO, *shared])


def write_own_images(root: str | Path, subject: int, config: SimulateConfig, threads: int = 1) -> None:
    """Write the images that only one subject sees, unless `write_images` has drawn them (subjects 1, 2 and 5)."""
    if subject in keys.NUMBERED_FIRST:
        return
    block = make_order(config).block(subject)
    scenes = [scene(config.seed, nsd_id) for nsd_id in range(block.start, block.stop)]
    with _drawn(Path(root) / keys.own_stimuli(subject), "imgBrick", scenes, config.image_size, threads):
        log.info("Subject %d: images of its own are %d to %d", subject, block.start, block.stop - 1)
    manifest.note_simulated(Path(root), [keys.own_stimuli(subject)])


def write_subject(root: str | Path, subject: int, config: SimulateConfig) -> None:
    """Write one subject's betas of all sessions.

    Parameters
    ----------
    root
        Folder that `write_images` and `write_own_images` have written.
    subject
        1 to 8.
    config
        Section ``simulate``, as given to `write_images`.

    Raises
    ------
    FileNotFoundError, ValueError
        If the root was not written, or NSD has no such subject.
    FetchError
        If there is no room for them.
    """
    root = Path(root)
    design = load_design(root)
    trials = design.trials(subject)
    n_sessions = design.sessions[subject]
    brain = brain_of(subject, config)
    files = [path for s in range(1, n_sessions + 1) for path in session_paths(root, subject, s, BETA_VERSION)]
    there = sum(path.stat().st_size for path in files if path.is_file())
    check_room(root, max(0, len(trials) * len(brain.columns) * 4 - there), f"betas of subject {subject}")
    nsd_ids = np.unique(trials["nsd_id"])
    seen = _seen_images(root / keys.STIMULI, nsd_ids, f"Subject {subject}: looking at images")
    for session in progress(range(1, n_sessions + 1), f"Subject {subject}: simulating betas", unit="session"):
        rows = np.searchsorted(nsd_ids, trials.loc[trials["session"] == session, "nsd_id"])
        shown, again = np.unique(rows, return_inverse=True)
        scenes = [scene(config.seed, int(nsd_ids[row])) for row in shown]
        signal = brain.signal(seen[shown], scenes)[again]
        paths = session_paths(root, subject, session, BETA_VERSION)
        write_betas(paths, brain.response_blocks(signal, session), len(rows), len(brain.columns) // 2)
    manifest.note_simulated(root, [path.relative_to(root).as_posix() for path in files])


def brain_of(subject: int, config: SimulateConfig) -> SimulatedBrain:
    """Return a person's brain on all of the mesh."""
    return SimulatedBrain(
        load_geometry(), config.mesh, subject, config.seed, ncsnr=config.ncsnr, smooth_noise=config.smooth_noise
    )


@contextlib.contextmanager
def _drawn(path: Path, name: str, scenes: list[Scene], size: int, threads: int) -> Iterator[h5py.File]:
    """Render scenes into a data set [n, size, size, 3], a chunk an image; the open file is given for more."""
    jobs = [(item, size) for item in scenes]
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(atomic_path(path))
        file = stack.enter_context(h5py.File(temporary, "w"))
        shape = (len(scenes), size, size, 3)
        # Not lzf: its bytes depend on prior memory contents, though it reads back the same.
        brick = file.create_dataset(name, shape, np.uint8, chunks=(1, *shape[1:]), compression="gzip")
        if threads > 1:
            # Forked, so that the workers need not import the main script again.
            pool = stack.enter_context(multiprocessing.get_context("fork").Pool(threads))
            images: Iterable[np.ndarray] = pool.imap(_render, jobs, chunksize=8)
        else:
            images = map(_render, jobs)
        for row, image in enumerate(progress(images, "Rendering images", total=len(jobs), unit="image")):
            brick[row] = image
        yield file


def _refer(file: h5py.File, order: TrialOrder, size: int) -> None:
    """Add ``/imgBrick``: the images of this file, and those in other subjects' own files."""
    layout = h5py.VirtualLayout((order.n_images, size, size, 3), np.uint8)
    layout.dcpl.set_obj_track_times(False)  # so that a file written twice is the same
    layout[: order.n_first] = h5py.VirtualSource(".", "first", file["first"].shape)
    for subject in SUBJECTS:
        if subject not in keys.NUMBERED_FIRST:
            block = order.block(subject)
            shape = (block.stop - block.start, size, size, 3)
            layout[block] = h5py.VirtualSource(Path(keys.own_stimuli(subject)).name, "imgBrick", shape)
    file.create_virtual_dataset("imgBrick", layout, fillvalue=0)


def _render(job: tuple[Scene, int]) -> np.ndarray:
    return render(*job)


def _seen_images(path: Path, nsd_ids: np.ndarray, description: str) -> np.ndarray:
    """Read images as the brain sees them, uint8 [n, 64, 64, 3]."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; write the images before the subjects")
    seen = np.empty((len(nsd_ids), SEEN_SIZE, SEEN_SIZE, 3), np.uint8)
    with h5py.File(path, "r") as file:
        brick = file["imgBrick"]
        for row, nsd_id in enumerate(progress(nsd_ids, description, unit="image")):
            seen[row] = reduce_image(brick[nsd_id], SEEN_SIZE)
    return seen


def write_betas(paths: Sequence[Path], blocks: Iterator[np.ndarray], frames: int, vertices: int) -> None:
    """Stream trials into one MGH file a hemisphere.

    Parameters
    ----------
    paths
        Files of the left and the right hemisphere.
    blocks
        float32 [t, 2 * vertices] each, percent signal change; all together `frames` trials.
    frames, vertices
        Trials, and vertices of one hemisphere.
    """
    header = _mgh_header(vertices, frames)
    with contextlib.ExitStack() as stack:
        files = []
        for path in paths:
            temporary = stack.enter_context(atomic_path(path))
            files.append(stack.enter_context(open(temporary, "wb")))
            header.writehdr_to(files[-1])
            # The header's 284 bytes are not all in use.
            files[-1].seek(header.get_data_offset())
        for block in blocks:
            for number, file in enumerate(files):
                part = block[:, number * vertices : (number + 1) * vertices]
                file.write(part.astype(_BIG_ENDIAN).data)
        for file in files:
            header.writeftr_to(file)


def _write_notice(root: Path, order: TrialOrder, config: SimulateConfig) -> None:
    notice = {
        "notice": "SIMULATED. Rendered scenes and a simulated brain in the layout of the Natural Scenes "
        "Dataset; no person was measured.",
        "made_by": f"neuropictor {neuropictor.__version__}",
        "sessions": {str(subject): sessions_of(subject, config.sessions) for subject in SUBJECTS},
        "trials_per_session": config.trials_per_session,
        "images": order.n_images,
        "shared_images": len(order.shared),
        "mesh": config.mesh,
        "seed": config.seed,
        "ncsnr": config.ncsnr,
        "smooth_noise": config.smooth_noise,
        "known_differences": [
            "images that only subjects who were not simulated would see are black",
            "the bank of images is a virtual data set; other subjects than 1, 2 and 5 have files of their own",
            "a finished experiment shows every shared image three times",
            "button presses, noise ceilings and labels of areas, which nothing here reads, are left out",
            f"NSD-Imagery, where simulated: imagined images evoke {IMAGINED_HIGH} of the response to seen ones in the "
            f"highest areas, falling to {IMAGINED_LOW} in V1, a choice; set B is of five evenly spaced shared images; "
            "frames with cues (allstim), pair lists and design matrices are left out",
            "NSD-synthetic, where simulated: images of a third of NSD's size, of rendered scenes and other words and "
            "gratings; which images come more than twice is a choice",
        ],
    }
    with atomic_path(root / keys.SIMULATED) as temporary:
        temporary.write_text(json.dumps(notice, indent=2) + "\n", encoding="utf-8")


def _mgh_header(vertices: int, frames: int) -> MGHHeader:
    header = MGHHeader()
    header.set_data_shape((vertices, 1, 1, frames))
    header.set_data_dtype(np.float32)
    return header
