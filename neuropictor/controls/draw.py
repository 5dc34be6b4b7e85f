"""Stage control: images steered on purpose, and images from responses that were tampered with.

All conditions of a control reconstruct the same test images from the same starting noise as stage sample. Responses of
areas left out are set to 0, the z-score's mean. Aligned components are predicted anew from the responses that a
condition uses, so that nothing of the untouched response reaches the networks.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from neuropictor.controls.bottleneck import Bottleneck
from neuropictor.controls.conditions import CONTROLS, Condition, conditions
from neuropictor.data.alignment import ComponentSpace, ComponentStore
from neuropictor.data.latents import LatentStore
from neuropictor.data.reconstructions import Reconstructions, writing
from neuropictor.data.responses import ResponseStore
from neuropictor.data.rows import evenly_spaced, mean_over_repeats
from neuropictor.models.pipeline_folder import pipeline_paths
from neuropictor.records.checksums import checksum
from neuropictor.records.files import Folder
from neuropictor.records.progress import progress
from neuropictor.records.record import RunRecord, record_path
from neuropictor.sampling import Chunks, Sampler, network_sampler
from neuropictor.surface import load_geometry

if TYPE_CHECKING:
    from neuropictor.config import ControlsConfig, RuntimeConfig, SampleConfig

log = logging.getLogger(__name__)


def partners(count: int, partner: int, seed: int) -> np.ndarray:
    """Return for each of `count` images the row of another one, int [count].

    All partners 1 to count - 1 together make every ordered pair of different images once.
    """
    if not 1 <= partner < count:
        raise ValueError(f"partner {partner} of {count} images; allowed: 1 to {count - 1}, for example 1")
    order = np.random.default_rng(seed).permutation(count)
    rows = np.empty(count, np.int64)
    rows[order] = np.roll(order, -partner)
    return rows


class _Altered:
    """Responses of the chosen test images, whole or tampered with, and the pipeline's inputs made from them."""

    space: ComponentSpace | None = None
    latents: LatentStore | None = None

    def __init__(
        self, store: ResponseStore, components: ComponentStore | None, nsd_ids: np.ndarray, config: ControlsConfig
    ):
        self.store, self.components, self.nsd_ids, self.config = store, components, nsd_ids, config

    @cached_property
    def _mean(self) -> np.ndarray:
        """Mean response to all training images, float32 [1, V]."""
        return self.store.mean_response(self.store.images("train")).mean(0, keepdims=True)

    @cached_property
    def _bottleneck(self) -> Bottleneck:
        """Of the aligned components as parts of text features and latents, which count alike; else of the responses."""
        train, most = self.store.mean_response(self.store.images("train")), max(self.config.bottleneck_components)
        components, space = self.components, self.space
        if components is None or space is None:
            return Bottleneck(train, lambda responses: responses, most)
        scale = np.concatenate([np.sqrt(variance / variance.sum()) for variance in space.variances.values()])
        return Bottleneck(train, lambda responses: components.predict(responses) * scale, most)

    def others(self, condition: Condition) -> np.ndarray:
        """Return rows of the other test images, or -1 where there is none."""
        if not condition.partner:
            return np.full(len(self.nsd_ids), -1)
        return partners(len(self.nsd_ids), condition.partner, self.config.seed)

    def responses(self, condition: Condition, most: int | None) -> np.ndarray:
        """Return the responses that structure comes from, float32 [n, V]; `most` repeats unless the condition says."""
        if condition.responses == "mean":
            return self._mean.repeat(len(self.nsd_ids), 0)
        most, trials = condition.most_repeats or most, [self.store.trials(nsd_id) for nsd_id in self.nsd_ids]
        chosen = {"": np.s_[:], "odd": np.s_[::2], "even": np.s_[1::2]}[condition.half]
        responses = mean_over_repeats(self.store.rows, [repeats[chosen][:most] for repeats in trials])
        if condition.numbers is not None:
            return self._bottleneck.cut(responses, condition.numbers)
        others = responses[self.others(condition)]
        if condition.responses == "other":
            return others
        if not condition.areas:
            return responses
        inside = load_geometry().region(condition.areas)
        replaced = others if condition.keep == "other" else 0.0
        return np.where(~inside if condition.keep == "only" else inside, replaced, responses).astype(np.float32)

    def inputs(self, responses: np.ndarray, components: str = "predicted") -> dict[str, torch.Tensor]:
        """Return the pipeline's inputs made from responses [n, V]; `components` as in `Condition`."""
        inputs = {"responses": torch.from_numpy(responses)}
        if self.components is not None:
            if components == "true":
                assert self.space is not None and self.latents is not None
                read = self.space.components(self.latents, self.nsd_ids)
            else:
                read = self.components.predict(responses)
            inputs["components"] = torch.from_numpy(read.astype(np.float32))
        return inputs


def steer_subject(
    pipeline: Folder,
    responses: str | Path,
    kind: str,
    config: ControlsConfig,
    sample: SampleConfig,
    runtime: RuntimeConfig,
    out: str | Path,
    components: str | Path | None = None,
    backbone: str | Path | None = None,
    space: str | Path | None = None,
    latents: str | Path | None = None,
) -> None:
    """Sample a subject's test images under all conditions of a kind of control.

    Parameters
    ----------
    pipeline, responses, components, backbone
        As for `neuropictor.sampling.sample_subject`.
    kind
        One of `conditions.sampled_controls`.
    config, sample, runtime
        Sections of the configuration. Steps, guidance, repeats and noise are those of `sample` where a condition does
        not differ, but `config.sampling_steps` replaces the number of steps.
    out
        HDF5 file of `neuropictor.data.reconstructions`, whose samples are the conditions.
    space, latents
        Files of stages align_space and cache_latents, for controls `of_space` of networks with an alignment.

    Raises
    ------
    ValueError
        If such a control lacks one of them, or test images lack repeats that a condition needs.
    """
    out, chosen = Path(out), conditions(kind, config)
    files = {path.name: path for path in pipeline_paths(pipeline)} | {"responses": Path(responses)}
    if components is None:
        chosen = [condition for condition in chosen if condition.components == "predicted"]
    else:
        files["components"] = Path(components)
        if CONTROLS[kind].of_space:
            if space is None or latents is None:
                raise ValueError(
                    f"control {kind}: {'space' if space is None else 'latents'} is missing, of which the images' own "
                    "components are made; allowed: both files, for example --space results/align/space.safetensors "
                    "--latents results/latents/sub-01.h5"
                )
            files |= {"space": Path(space), "latents": Path(latents)}
    used = {"controls": config, "sample": sample}
    with RunRecord(
        record_path(out), "control", config=used, seed=sample.seed, inputs=files.values(), outputs=[out]
    ) as record:
        store = ResponseStore(responses)
        nsd_ids = store.images("test")
        if any(condition.half for condition in chosen):
            nsd_ids = np.array([nsd_id for nsd_id in nsd_ids if len(store.trials(nsd_id)) > 1])
            if len(nsd_ids) < 2:
                raise ValueError(
                    f"{responses}: {len(nsd_ids)} test images have two repeats or more; allowed: at least 2, or "
                    f"controls.made without {kind}, for example made: [nearest]"
                )
        nsd_ids = nsd_ids[evenly_spaced(len(nsd_ids), config.images)]
        aligned = None if components is None else ComponentStore(components, store)
        altered = _Altered(store, aligned, nsd_ids, config)
        if aligned is not None and "space" in files:
            if checksum(files["space"]) != aligned.space:
                raise ValueError(
                    f"{space}: not the space of {components}; allowed: the file of stage align_space that these "
                    "components were made with, for example results/align/space.safetensors"
                )
            altered.space, altered.latents = ComponentSpace.load(files["space"]), LatentStore(files["latents"])
        sampler = network_sampler(pipeline, backbone, store, aligned, sample, runtime)
        described = [asdict(condition) for condition in chosen]
        guard = {"conditions": described, "sample": sample.model_dump(mode="json"), "precision": runtime.precision}
        guard |= {"nsd_id": nsd_ids.tolist(), "seed": config.seed, "steps": config.sampling_steps}
        chunks = Chunks(out, guard | {name: checksum(path) for name, path in files.items()})
        starts = range(0, len(nsd_ids), sample.batch_size)
        for place, condition in enumerate(progress(chosen, f"Control {kind}", unit="condition")):
            missing = [(place * len(starts) + number, start) for number, start in enumerate(starts)]
            missing = [(number, start) for number, start in missing if not chunks.has(number)]
            inputs = {}
            if missing:
                inputs = altered.inputs(altered.responses(condition, sample.most_repeats), condition.components)
            for number, start in missing:
                rows = slice(start, start + sample.batch_size)
                chunks.save(number, _draw(sampler, altered, condition, inputs, rows, config))
        others = np.stack([altered.others(condition) for condition in chosen], axis=1)
        about = Reconstructions(
            np.empty(0),
            nsd_ids,
            kind,
            store.subject,
            sampler.label(store.data),
            labels=tuple(CONTROLS[kind].label(condition) for condition in chosen),
            others=np.where(others < 0, -1, nsd_ids[others]),
        )
        with writing(out, about, len(chosen)) as writer:
            for place in range(len(chosen)):
                for number, start in enumerate(starts):
                    writer.write(start, place, chunks.load(place * len(starts) + number)[:, None])
        record.add(control=kind, images=len(nsd_ids), conditions=[condition.name for condition in chosen])
    chunks.clear()


def _draw(
    sampler: Sampler,
    altered: _Altered,
    condition: Condition,
    inputs: dict[str, torch.Tensor],
    rows: slice,
    config: ControlsConfig,
) -> np.ndarray:
    """Return some images of one condition, uint8 [n, S, S, 3]; `inputs` are those of all images."""
    options = {"num_inference_steps": config.sampling_steps, **condition.strengths}
    if condition.semantics == "other":
        other = altered.others(condition)[rows]
        options["semantics_from"] = {name: values[other] for name, values in inputs.items()}
    jobs = [(int(nsd_id), condition.noise) for nsd_id in altered.nsd_ids[rows]]
    return sampler.draw(jobs, {name: values[rows] for name, values in inputs.items()}, **options)
