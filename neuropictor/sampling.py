"""Stage sample: reconstruct a subject's test images, in batches and resumably.

Each image's starting noise comes from a seed of its own, made from (seed, subject, nsd_id, sample); so an image does
not depend on batch size, order, device count or resumption.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.utils.logging import disable_progress_bar

from neuropictor.data.alignment import ComponentStore
from neuropictor.data.origin import drawn_label
from neuropictor.data.reconstructions import Reconstructions, write_array, writing
from neuropictor.data.responses import ResponseStore, subject_number
from neuropictor.data.rows import mean_over_repeats
from neuropictor.models.device import prepare_device
from neuropictor.models.networks import check_space
from neuropictor.models.pipeline import NeuroPictorPipeline
from neuropictor.models.pipeline_folder import pipeline_paths
from neuropictor.models.schedules import make_scheduler
from neuropictor.models.speed import prepare_sampling
from neuropictor.records.checksums import checksum, verify
from neuropictor.records.files import Folder, atomic_path
from neuropictor.records.log import is_first, process_share
from neuropictor.records.progress import progress
from neuropictor.records.record import RunRecord, record_path

if TYPE_CHECKING:
    from neuropictor.config import RuntimeConfig, SampleConfig

log = logging.getLogger(__name__)

#: Seconds between two checks for what another process makes.
POLL = 0.2

Job = tuple[int, int]
"""An image to draw: nsd_id and number of the sample."""


def image_generator(seed: int, subject: str, nsd_id: int, sample: int) -> torch.Generator:
    """Return the random generator of one reconstruction (design rule: one noise seed per image)."""
    digest = hashlib.sha256(f"{seed}/{subject_number(subject)}/{nsd_id}/{sample}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def to_bytes(images: np.ndarray, rounding: str) -> np.ndarray:
    """Convert float images in 0..1 to uint8: the nearest level, or, ``down``, the one below as in the official code."""
    levels = images * 255
    return (levels.round() if rounding == "nearest" else np.floor(levels)).astype(np.uint8)


class Chunks:
    """Finished parts of an unfinished output, one file each, in a folder beside it.

    Parameters
    ----------
    out
        The final file.
    guard
        What the parts depend on; parts made under another guard are removed.
    """

    def __init__(self, out: Path, guard: dict):
        self.folder = out.with_name(f"{out.stem}.chunks")
        text = json.dumps(guard, indent=2, sort_keys=True)
        file = self.folder / "guard.json"
        if not is_first():  # the first of several processes decides
            while not file.is_file() or file.read_text(encoding="utf-8") != text:
                time.sleep(POLL)
            return
        if self.folder.is_dir() and (not file.is_file() or file.read_text(encoding="utf-8") != text):
            log.warning("%s holds parts made with other settings, networks or responses: starting afresh", self.folder)
            self.clear()
        if not file.is_file():
            with atomic_path(file) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.npy"

    def has(self, index: int) -> bool:
        """Tell whether a part is finished."""
        return self._path(index).is_file()

    def load(self, index: int) -> np.ndarray:
        """Return a part that this process or another one makes; its launcher ends this one if the other fails."""
        while not self.has(index):
            time.sleep(POLL)
        return np.load(self._path(index), allow_pickle=False)

    def save(self, index: int, images: np.ndarray) -> None:
        """Keep a finished part."""
        with atomic_path(self._path(index)) as temporary:
            write_array(temporary, images)

    def clear(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def sample_subject(
    pipeline: Folder,
    responses: str | Path,
    config: "SampleConfig",
    runtime: "RuntimeConfig",
    model: str,
    out: str | Path,
    components: str | Path | None = None,
    backbone: str | Path | None = None,
) -> None:
    """Reconstruct every test image of a subject, from the mean response over its repeats or from its first trial.

    Several processes under a launcher share the batches, and the first of them writes the file: the same file.

    Parameters
    ----------
    pipeline
        Folder of the pipeline, as the stages pretrain and refine write it.
    responses
        The subject's response file.
    config, runtime
        Sections of the configuration.
    model
        Name under which the images are compared, ``refined`` or ``pretrained``.
    out
        HDF5 file of `neuropictor.data.reconstructions`.
    components
        The subject's component file, for networks with an alignment.
    backbone
        Where the backbone that the pipeline names lies, if it has been moved.
    """
    out = Path(out)
    verify(pipeline)
    files = {path.name: path for path in pipeline_paths(pipeline)} | {"responses": Path(responses)}
    if components is not None:
        files["components"] = Path(components)
    with RunRecord(
        record_path(out), "sample", config=config, seed=config.seed, inputs=files.values(), outputs=[out]
    ) as record:
        store = ResponseStore(responses)
        aligned = ComponentStore(components, store) if components is not None else None
        batches = batched(store.images("test"), config)
        guard = {"config": config.model_dump(mode="json"), "precision": runtime.precision, "model": model}
        chunks = Chunks(out, guard | {name: checksum(path) for name, path in files.items()})
        rank, processes = process_share()
        sampler = network_sampler(pipeline, backbone, store, aligned, config, runtime)
        for index in progress(range(rank, len(batches), processes), f"Sampling {model} images", unit="batch"):
            if not chunks.has(index):
                ids = [nsd_id for nsd_id, _ in batches[index]]
                chunks.save(index, sampler.draw(batches[index], inputs(store, aligned, ids, config.most_repeats)))
        if not is_first():
            return
        about = Reconstructions(np.empty(0), store.images("test"), model, store.subject, sampler.label(store.data))
        write_drawn(out, about, map(chunks.load, range(len(batches))), config)
        record.add(images=len(about.nsd_id), samples=config.samples, kept=chosen_samples(config))
    chunks.clear()


def batched(nsd_ids: np.ndarray, config: "SampleConfig") -> list[list[Job]]:
    """Return all images to draw in batches, the samples of a test image in a row."""
    jobs = [(int(nsd_id), sample) for nsd_id in nsd_ids for sample in range(config.samples)]
    return [jobs[start : start + config.batch_size] for start in range(0, len(jobs), config.batch_size)]


def chosen_samples(config: "SampleConfig") -> int:
    """Return the number of samples of a test image that are kept."""
    return 1 if config.choose == "consensus" else config.samples


def write_drawn(out: Path, about: Reconstructions, batches: Iterable[np.ndarray], config: "SampleConfig") -> None:
    """Write a file of reconstructions from batches of `batched`, one in memory at a time.

    Parameters
    ----------
    out
        HDF5 file of `neuropictor.data.reconstructions`.
    about
        Their labels; its images are not used.
    batches
        uint8 ``[n, S, S, 3]`` each.
    config
        ``samples`` and ``choose``.
    """
    with writing(out, about, chosen_samples(config)) as writer:
        row = 0
        for images in _by_image(batches, config.samples):
            writer.write(row, 0, most_agreed(images) if config.choose == "consensus" else images)
            row += len(images)


def _by_image(batches: Iterable[np.ndarray], samples: int) -> Iterator[np.ndarray]:
    """Yield uint8 ``[m, samples, S, S, 3]``: a batch may end between the samples of an image."""
    rest = None
    for batch in batches:
        drawn = batch if rest is None else np.concatenate([rest, batch])
        complete = len(drawn) // samples * samples
        rest = drawn[complete:]
        if complete:
            yield drawn[:complete].reshape(-1, samples, *drawn.shape[1:])


def inputs(
    store: ResponseStore, components: ComponentStore | None, nsd_ids: Sequence[int], most: int | None
) -> dict[str, torch.Tensor]:
    """Return the networks' inputs for images: means over their first `most` repeats (None: all).

    Returns
    -------
    dict
        ``responses [n, V]`` and, where there are any, ``components [n, K]``.
    """
    means = {"responses": torch.from_numpy(store.mean_response(nsd_ids, most))}
    if components is not None:
        trials = [store.trials(nsd_id)[:most] for nsd_id in nsd_ids]
        means["components"] = torch.from_numpy(mean_over_repeats(components.rows, trials))
    return means


def network_sampler(
    pipeline: str | Path,
    backbone: str | Path | None,
    store: ResponseStore,
    components: ComponentStore | None,
    config: "SampleConfig",
    runtime: "RuntimeConfig",
) -> "Sampler":
    """Return the sampler of a subject's networks."""
    disable_progress_bar()  # while loading
    loaded = NeuroPictorPipeline.from_pretrained(pipeline, backbone)
    check_space(loaded.alignment, None if components is None else components.space)
    return Sampler(loaded, store.subject, config, runtime)


class Sampler:
    """Draws images as section ``sample`` says: networks, baselines, controls and ceilings alike.

    Parameters
    ----------
    pipeline
        In float32, with networks or without (`NeuroPictorPipeline.from_backbone`).
    subject
        Part of the noise's seeds.
    config, runtime
        Sections of the configuration.
    """

    def __init__(self, pipeline: NeuroPictorPipeline, subject: str, config: "SampleConfig", runtime: "RuntimeConfig"):
        self.pipeline, self.subject, self.config = pipeline.to(prepare_device(runtime)), subject, config
        self.padded = runtime.compile  # a last, smaller batch would be compiled once more
        self.schedule = pipeline.scheduler.config
        prepare_sampling(pipeline, runtime)
        pipeline.set_progress_bar_config(disable=True)  # the stage's own counts batches

    def label(self, data: str) -> str:
        """Return the label of what is drawn from responses of `data`, see `neuropictor.data.origin`."""
        return drawn_label(data, self.pipeline.unet.config["cross_attention_dim"])

    def draw(self, jobs: Sequence[Job], inputs: dict[str, torch.Tensor], **options: Any) -> np.ndarray:
        """Return uint8 ``[n, S, S, 3]``, each from the starting noise of its seed.

        Parameters
        ----------
        jobs
            nsd_id and sample of each image.
        inputs
            What the pipeline draws each image from: ``responses`` and, if aligned, ``components``; or ``context``.
        options
            For the pipeline, and ``scheduler``, where they differ from the section.
        """
        config, missing = self.config, self.config.batch_size - len(jobs) if self.padded else 0
        generator = [image_generator(config.seed, self.subject, *job) for job in (*jobs, *list(jobs[-1:]) * missing)]
        usual = {
            "num_inference_steps": config.steps,
            "guidance_scale": config.guidance_scale,
            "guidance_interval": config.guidance_interval,
        }
        self.pipeline.scheduler = make_scheduler(options.pop("scheduler", config.scheduler), self.schedule)
        options = _padded(inputs | options, missing)
        images = self.pipeline(**usual | options, generator=generator, output_type="np").images
        return to_bytes(np.asarray(images[: len(jobs)]), config.rounding)


def _padded(options: dict[str, Any], missing: int) -> dict[str, Any]:
    """Repeat the last row of all tensors, those of `semantics_from` among them."""
    if not missing:
        return options
    changed = {}
    for name, value in options.items():
        if isinstance(value, torch.Tensor):
            changed[name] = torch.cat([value, value[-1:].expand(missing, *value.shape[1:])])
        elif isinstance(value, dict):
            changed[name] = _padded(value, missing)
    return options | changed


def most_agreed(images: np.ndarray) -> np.ndarray:
    """Return for each image the sample that resembles its other samples most, uint8 ``[N, 1, S, S, 3]``.

    Resemblance is the mean correlation of pixels with the other samples. Nothing else is used: neither the seen
    image nor any other test image, so that the choice can be made for a response to an unknown image.

    Parameters
    ----------
    images
        uint8 ``[N, K, S, S, 3]``.
    """
    count = images.shape[1]
    chosen = np.empty((len(images), 1, *images.shape[2:]), np.uint8)
    for row, samples in enumerate(images):
        flat = samples.reshape(count, -1).astype(np.float64)
        flat -= flat.mean(1, keepdims=True)
        flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
        agreement = flat @ flat.T
        np.fill_diagonal(agreement, 0.0)
        chosen[row, 0] = samples[agreement.sum(1).argmax()]
    return chosen
