"""Stage sample: reconstruct a subject's test pictures, in batches and resumably.

Each picture's starting noise comes from a seed of its own, made from (seed, subject, nsd_id, sample); so a picture does
not depend on batch size, order, device count or resumption.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.utils.logging import disable_progress_bar

from neuropictor.checksums import checksum, verify
from neuropictor.data.alignment import ComponentStore
from neuropictor.data.reconstructions import Reconstructions, write_array, write_reconstructions
from neuropictor.data.responses import ResponseStore
from neuropictor.models.device import prepare_device
from neuropictor.models.networks import check_space
from neuropictor.models.pipeline import NeuroPictorPipeline
from neuropictor.models.pipeline_folder import pipeline_paths
from neuropictor.models.speed import prepare_sampling
from neuropictor.runlog import RunRecord, atomic_path, is_first, process_share, progress, record_path

if TYPE_CHECKING:
    from neuropictor.config import RuntimeConfig, SampleConfig

log = logging.getLogger(__name__)

#: Seconds between two looks for what another process makes.
POLL = 0.2


def picture_generator(seed: int, subject: int, nsd_id: int, sample: int) -> torch.Generator:
    """Return the random generator of one reconstruction (design rule: one noise seed per image)."""
    digest = hashlib.sha256(f"{seed}/{subject}/{nsd_id}/{sample}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def to_bytes(pictures: np.ndarray, rounding: str) -> np.ndarray:
    """Return uint8 of float pictures in 0..1: the nearest level, or, ``down``, the one below as the official code."""
    levels = pictures * 255
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

    def load(self, index: int) -> np.ndarray | None:
        """Return a finished part, or None."""
        path = self._path(index)
        return np.load(path, allow_pickle=False) if path.is_file() else None

    def wait_for(self, index: int) -> np.ndarray:
        """Return a part that this process or another one makes; its launcher ends this one if the other fails."""
        while (pictures := self.load(index)) is None:
            time.sleep(POLL)
        return pictures

    def save(self, index: int, pictures: np.ndarray) -> None:
        """Keep a finished part."""
        with atomic_path(self._path(index)) as temporary:
            write_array(temporary, pictures)

    def clear(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def sample_subject(
    pipeline: str | Path,
    responses: str | Path,
    config: "SampleConfig",
    runtime: "RuntimeConfig",
    model: str,
    out: str | Path,
    components: str | Path | None = None,
    backbone: str | Path | None = None,
) -> None:
    """Reconstruct every test picture of a subject, from the mean response over its repeats or from its first trial.

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
        Name under which the pictures are compared, ``refined`` or ``pretrained``.
    out
        HDF5 file of `neuropictor.data.reconstructions`.
    components
        The subject's component file, for networks with an alignment.
    backbone
        Where the backbone that the pipeline names lies, if it has been moved.
    """
    out, scans = Path(out), _Scans(pipeline, responses, components)
    with scans.record("sample", out, config) as record:
        chunks, pictures = _draw(scans, config, runtime, model, out, (1, 1), backbone)
        if pictures is None:
            return
        _write(pictures, scans.store, config, model, out, record)
    chunks.clear()


def sample_share(
    pipeline: str | Path,
    responses: str | Path,
    config: "SampleConfig",
    runtime: "RuntimeConfig",
    model: str,
    out: str | Path,
    share: tuple[int, int],
    components: str | Path | None = None,
    backbone: str | Path | None = None,
) -> None:
    """Draw one of several jobs' share of what `sample_subject` draws: some of its batches, so the same pictures.

    Parameters
    ----------
    pipeline, responses, config, runtime, model, components, backbone
        As of `sample_subject`.
    out
        Array uint8 ``[n, S, S, 3]`` (.npy) of this share's pictures; empty if there are more jobs than batches.
    share
        Number of this job, from 1, and of all jobs.
    """
    out, scans = Path(out), _Scans(pipeline, responses, components)
    with scans.record("sample_share", out, config) as record:
        chunks, pictures = _draw(scans, config, runtime, model, out, share, backbone)
        if pictures is None:
            return
        with atomic_path(out) as temporary:
            write_array(temporary, pictures)
        record.add(pictures=len(pictures))
    chunks.clear()


def join_shares(
    shares: Sequence[Path],
    pipeline: str | Path,
    responses: str | Path,
    config: "SampleConfig",
    model: str,
    out: str | Path,
    components: str | Path | None = None,
) -> None:
    """Write the file of `sample_subject` from what several jobs have drawn.

    Parameters
    ----------
    shares
        Files of `sample_share`, in order, with their records beside them.
    pipeline, responses, config, model, out, components
        As of `sample_subject`.

    Raises
    ------
    ValueError
        If the shares are not all pictures.
    """
    out, scans = Path(out), _Scans(pipeline, responses, components)
    with scans.record("sample", out, config, shares) as record:
        drawn = [np.load(path, allow_pickle=False) for path in shares]
        pictures = np.concatenate([part for part in drawn if len(part)])
        wanted = len(scans.store.pictures("test")) * config.samples
        if len(pictures) != wanted:
            raise ValueError(
                f"{', '.join(map(str, shares))}: {len(pictures)} pictures found, {wanted} expected; remove these files"
                " and run snakemake again"
            )
        _write(pictures, scans.store, config, model, out, record)


class _Scans:
    """What pictures are made from: a pipeline, compared with its record, responses and components."""

    def __init__(self, pipeline: str | Path, responses: str | Path, components: str | Path | None):
        verify(pipeline)
        self.pipeline = pipeline
        self.files = {path.name: path for path in pipeline_paths(pipeline)} | {"responses": Path(responses)}
        if components is not None:
            self.files["components"] = Path(components)

    @cached_property
    def store(self) -> ResponseStore:
        return ResponseStore(self.files["responses"])

    def record(self, stage: str, out: Path, config: "SampleConfig", shares: Sequence[Path] = ()) -> RunRecord:
        inputs = [*self.files.values(), *shares]
        return RunRecord(record_path(out), stage, config=config, seed=config.seed, inputs=inputs, outputs=[out])


def _draw(
    scans: _Scans,
    config: "SampleConfig",
    runtime: "RuntimeConfig",
    model: str,
    out: Path,
    share: tuple[int, int],
    backbone: str | Path | None,
) -> tuple[Chunks, np.ndarray | None]:
    """Draw a share of all batches; return them to the first process, and where they are kept until `out` is written."""
    store, files = scans.store, scans.files
    jobs = [(int(nsd_id), sample) for nsd_id in store.pictures("test") for sample in range(config.samples)]
    batches = [jobs[start : start + config.batch_size] for start in range(0, len(jobs), config.batch_size)]
    own = np.array_split(np.arange(len(batches)), share[1])[share[0] - 1].tolist()
    components = ComponentStore(files["components"], store) if "components" in files else None
    guard = {"config": config.model_dump(mode="json"), "precision": runtime.precision, "model": model}
    chunks = Chunks(out, guard | {name: checksum(path) for name, path in files.items()})
    rank, processes = process_share()
    sampler = Sampler(scans.pipeline, backbone, store, components, config, runtime)
    for index in progress(own[rank::processes], f"Sampling {model} pictures", unit="batch"):
        if chunks.load(index) is None:
            chunks.save(index, sampler.pictures(batches[index]))
    if not is_first():
        return chunks, None
    return chunks, np.concatenate([chunks.wait_for(index) for index in own]) if own else np.empty(0, np.uint8)


def _write(
    pictures: np.ndarray, store: ResponseStore, config: "SampleConfig", model: str, out: Path, record: RunRecord
) -> None:
    nsd_ids = store.pictures("test")
    pictures = pictures.reshape(len(nsd_ids), config.samples, *pictures.shape[1:])
    if config.choose == "consensus":
        pictures = most_agreed(pictures)
    write_reconstructions(out, Reconstructions(pictures, nsd_ids, model, store.subject, store.data))
    record.add(pictures=len(nsd_ids), samples=config.samples, kept=pictures.shape[1])


class Sampler:
    """The pipeline with all that stays the same from batch to batch."""

    def __init__(
        self,
        pipeline: str | Path,
        backbone: str | Path | None,
        responses: ResponseStore,
        components: ComponentStore | None,
        config: "SampleConfig",
        runtime: "RuntimeConfig",
    ):
        self.responses, self.components = responses, components
        self.config = config
        self.device = prepare_device(runtime)
        disable_progress_bar()  # of loading
        self.pipeline = NeuroPictorPipeline.from_pretrained(pipeline, backbone).to(self.device)
        prepare_sampling(self.pipeline, runtime)
        self.pipeline.set_progress_bar_config(disable=True)  # the stage's own counts batches
        check_space(self.pipeline.alignment, None if components is None else components.space)

    def pictures(self, jobs: list[tuple[int, int]]) -> np.ndarray:
        """Return uint8 ``[n, S, S, 3]``, one for each (nsd_id, sample)."""
        nsd_ids = [nsd_id for nsd_id, _ in jobs]
        scans = {"responses": torch.from_numpy(self.responses.mean_response(nsd_ids, self.config.most_repeats))}
        if self.components is not None:
            scans["components"] = self._mean_components(self.components, nsd_ids)
        return self.draw(jobs, scans)

    def draw(self, jobs: list[tuple[int, int]], scans: dict[str, torch.Tensor], **options: Any) -> np.ndarray:
        """Return uint8 ``[n, S, S, 3]`` of any scans, from the starting noise of `jobs`.

        Parameters
        ----------
        jobs
            nsd_id and sample of each picture.
        scans
            ``responses`` and, if aligned, ``components`` of each picture.
        options
            Of the pipeline, where they differ from those of the section.
        """
        generators = [picture_generator(self.config.seed, self.responses.subject, *job) for job in jobs]
        usual = {"num_inference_steps": self.config.steps, "guidance_scale": self.config.guidance_scale}
        pictures = self.pipeline(**scans, **usual | options, generators=generators, output_type="np").images
        return to_bytes(pictures, self.config.rounding)

    def _mean_components(self, components: ComponentStore, nsd_ids: list[int]) -> torch.Tensor:
        """Return the mean over the same repeats, ``[n, K]``."""
        trials = [self.responses.trials(nsd_id)[: self.config.most_repeats] for nsd_id in nsd_ids]
        return torch.from_numpy(np.stack([components.rows[rows].mean(0) for rows in trials]))


def most_agreed(pictures: np.ndarray) -> np.ndarray:
    """Return for each picture the sample that resembles its other samples most, uint8 ``[N, 1, S, S, 3]``.

    Resemblance is the mean correlation of pixels with the other samples. Nothing else is looked at: neither the seen
    picture nor any other test picture, so that the choice can be made for a response whose picture nobody knows.

    Parameters
    ----------
    pictures
        uint8 ``[N, K, S, S, 3]``.
    """
    count = pictures.shape[1]
    chosen = np.empty((len(pictures), 1, *pictures.shape[2:]), np.uint8)
    for row, samples in enumerate(pictures):
        flat = samples.reshape(count, -1).astype(np.float64)
        flat -= flat.mean(1, keepdims=True)
        flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
        agreement = flat @ flat.T
        np.fill_diagonal(agreement, 0.0)
        chosen[row, 0] = samples[agreement.sum(1).argmax()]
    return chosen
