"""Stages pretrain and refine: train the networks to steer the frozen backbone.

Both minimise the backbone's own diffusion loss plus, with a weight, the squared distance between the guiding network's
semantic feature and the text tower's output for the image's captions. The first steps may be taken on the semantic
loss alone, which costs a fraction of a full step. Refining starts from pretrained weights and switches the guiding
network's extra branch on. Both may end in a short adaptation to classifier-free guidance, in which some contexts are
replaced by that of the empty prompt. The backbone never gets weight gradients.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from neuropictor.data.alignment import ComponentStore
from neuropictor.data.datasets import ImageResponses, TrainingBatches
from neuropictor.data.latents import LatentStore
from neuropictor.data.origin import drawn_label
from neuropictor.data.responses import ResponseStore
from neuropictor.models.alignment import AlignmentNetwork
from neuropictor.models.backbone import Backbone, backbone_folder
from neuropictor.models.encoder import FMRIEncoder
from neuropictor.models.maps import MapOperator
from neuropictor.models.memory import recompute_activations
from neuropictor.models.networks import (
    Modulation,
    Networks,
    autoencoder_start,
    check_fit,
    check_space,
    load_autoencoder,
)
from neuropictor.models.pipeline import NeuroPictorPipeline
from neuropictor.models.pipeline_folder import pipeline_paths, read_networks, read_schedule
from neuropictor.models.population import AUTOENCODER, population_file, population_pipeline
from neuropictor.models.speed import DTYPES, training_layout
from neuropictor.records.checksums import checksum, verify
from neuropictor.records.files import Folder
from neuropictor.records.record import RunRecord
from neuropictor.training.checkpoints import CheckpointFolder, make_guard
from neuropictor.training.loop import Batch, Recipe, Task, Trainer, make_accelerator, write_history
from neuropictor.training.monitor import MONITOR_FOLDER, PREVIEWED, Monitor, Preview

if TYPE_CHECKING:
    from neuropictor.config import ReconstructConfig, RefineConfig, RuntimeConfig

log = logging.getLogger(__name__)

_MAPPERS = ("guiding.", "manipulation.hint_mapper.")


class ModulationTask(Task):
    """Diffusion and semantic loss of the networks around a frozen backbone.

    Parameters
    ----------
    module
        The networks; with the ``pretrain`` variant the unused extra branch is left out of training.
    backbone
        On its device; only the UNet, the scheduler and the null context are used. The UNet computes in the precision of
        its weights: it is called outside autocast, under which CUDA would compute its norms in float32.
    maps
        Map operator on the same device.
    config
        Section of the stage.
    tower
        Text tower that makes the semantic loss's targets from captions' tokens; None where batches contain them.
    """

    def __init__(
        self,
        module: Networks,
        backbone: Backbone,
        maps: MapOperator,
        config: "ReconstructConfig | RefineConfig",
        tower: nn.Module | None = None,
    ):
        self.module, self.maps, self.config, self.tower = module, maps, config, tower
        self.unet, self.scheduler = backbone.unet, backbone.scheduler
        self.null_context = backbone.null_context()
        if module.guiding.config["variant"] == "pretrain":
            for part in (module.guiding.extra, module.guiding.extra_out):
                part.requires_grad_(False)

    def rates(self) -> dict[str, float]:
        """Return the mappers' factor on the learning rate."""
        return {} if self.config.mapper_rate == 1.0 else dict.fromkeys(_MAPPERS, self.config.mapper_rate)

    def _dropped(self, batch: Batch, step: int | None) -> torch.Tensor | None:
        if step is None:
            return None
        adapting = step >= self.config.steps
        share = self.config.guidance_adaptation.dropout if adapting else self.config.guidance_dropout
        return batch["uniform"] < share if share else None

    def losses(self, module: nn.Module, batch: Batch, step: int | None) -> dict[str, torch.Tensor]:
        """Return ``loss`` and its parts ``diffusion`` and ``semantic`` (unweighted), means over the batch.

        A semantic loss without weight is not computed.
        """
        maps, components = self.maps(batch["responses"]), batch.get("components")
        if step is not None and step < self.config.semantic_steps:
            semantic = self._semantic(module(maps, None, None, components=components), batch)
            return {"loss": semantic, "semantic": semantic}
        latents, noise, timesteps = batch["latents"], batch["noise"], batch["timesteps"]
        noisy = self.scheduler.add_noise(latents, noise, timesteps)  # pyright: ignore[reportArgumentType] (diffusers asks for an IntTensor, which is no Tensor)
        modulation = module(maps, noisy, timesteps, self.null_context, self._dropped(batch, step), components)
        dtype = self.unet.dtype
        with torch.autocast(noisy.device.type, enabled=False):
            predicted = self.unet(
                noisy.to(dtype),
                timesteps,
                modulation.context.to(dtype),
                down_block_additional_residuals=[skip.to(dtype) for skip in modulation.skips],
                mid_block_additional_residual=modulation.middle.to(dtype),
                return_dict=False,
            )[0]
        diffusion = functional.mse_loss(predicted.float(), self._target(latents, noise, timesteps))
        if not self.config.uses_text:
            return {"loss": diffusion, "diffusion": diffusion}
        semantic = self._semantic(modulation, batch)
        loss = diffusion + self.config.semantic_weight * semantic
        return {"loss": loss, "diffusion": diffusion, "semantic": semantic}

    def _semantic(self, modulation: Modulation, batch: Batch) -> torch.Tensor:
        """Return the squared distance between the semantic feature and the captions' target.

        Images without captions have no target and count as 0, on any number of devices: that of the empty prompt would
        teach the networks to say nothing.
        """
        if self.tower is None:
            target = batch["text"]
        else:
            with torch.no_grad(), torch.autocast(batch["caption"].device.type, enabled=False):
                target = self.tower(input_ids=batch["caption"]).last_hidden_state
        if "described" not in batch:
            return functional.mse_loss(modulation.semantic.float(), target.float())
        distance = functional.mse_loss(modulation.semantic.float(), target.float(), reduction="none")
        return (distance.flatten(1).mean(1) * batch["described"]).mean()

    def _target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return what the UNet was trained to predict."""
        kind = self.scheduler.config["prediction_type"]
        if kind == "epsilon":
            return noise
        if kind == "v_prediction":
            return self.scheduler.get_velocity(latents, noise, timesteps)  # pyright: ignore[reportArgumentType] (diffusers asks for an IntTensor, which is no Tensor)
        raise ValueError(
            f"backbone scheduler: prediction_type {kind!r} cannot be trained; allowed: epsilon or v_prediction"
        )


def _train(
    stage: str,
    start: Callable[[Backbone], Networks],
    responses: Sequence[str | Path],
    components: Sequence[str | Path] | None,
    latents: Sequence[str | Path],
    backbone: str | Path,
    config: "ReconstructConfig | RefineConfig",
    runtime: "RuntimeConfig",
    inputs: Mapping[str, str | Path],
    out: Path,
    scheduler: Mapping[str, Any] | None = None,
    target: str | Path | None = None,
) -> None:
    """Train the networks that `start` makes on all `responses`; write a pipeline's folder with history and record."""
    inputs = {"backbone": backbone_folder(backbone), **inputs}
    inputs |= {f"latents.{i}": path for i, path in enumerate(latents)}
    inputs |= {f"responses.{i}": path for i, path in enumerate(responses)}
    inputs |= {f"components.{i}": path for i, path in enumerate(components or ())}
    target = target if config.runs_tower and target else None
    if target is not None:
        inputs["target"] = target
    guard = make_guard({stage: config}, inputs, __file__ if runtime.track_code else None)
    accelerator = make_accelerator(runtime, parts_unused=config.semantic_steps > 0)
    with RunRecord(
        out / "run.json", stage, config=config, seed=config.seed, inputs=inputs.values(), outputs=[out]
    ) as record:
        frozen = Backbone.load(backbone, target)
        tower = frozen.target_tower if config.runs_tower else None
        frozen.drop_towers()
        networks = start(frozen)
        check_fit(networks, frozen, scheduler)
        to = {"device": accelerator.device, "dtype": DTYPES[runtime.precision]}
        frozen.unet.to(**to)
        for part in (frozen.unet, networks.manipulation.control):
            part.to(memory_format=training_layout(accelerator.device))  # pyright: ignore[reportCallIssue] (its decorator hides self)
        if tower is not None:
            tower.to(**to)
        if runtime.gradient_checkpointing:
            recompute_activations(networks, frozen.unet)
        maps = MapOperator.shipped(networks.encoder.config["image_size"]).to(accelerator.device)
        task = ModulationTask(networks, frozen, maps, config, tower)
        share = (accelerator.process_index, accelerator.num_processes)
        store = LatentStore(*latents)
        _check_latents(store, frozen)
        _check_images(store, responses, stage, config)
        batches, validation = (
            TrainingBatches(
                ImageResponses(responses, split, components),
                config.batch_size,
                config.trial_averaging,
                config.seed,
                latents=store,
                scaling_factor=frozen.vae.config["scaling_factor"],
                n_timesteps=frozen.scheduler.config["num_train_timesteps"],
                captions=config.captions if config.uses_text else None,
                share=part,
            )
            for split, part in (("train", share), ("validation", (0, 1)))
        )
        check_space(networks.alignment, batches.responses.space)
        checkpoints = CheckpointFolder(out / "checkpoints", guard)
        previewed = next(validation.fixed(PREVIEWED), None)
        preview = Preview(networks, frozen, previewed) if previewed else None
        data = drawn_label(batches.responses.data, frozen.unet.config["cross_attention_dim"])
        monitor = Monitor(out / MONITOR_FOLDER, data, preview)
        recipe = Recipe.of(config)
        trainer = Trainer(task, batches, validation, recipe, runtime, checkpoints, accelerator, monitor)
        history = trainer.run({"pretrain": "Pretraining", "refine": "Refining"}[stage])
        if accelerator.is_main_process:
            NeuroPictorPipeline.from_parts(networks, frozen).save_trained(out, backbone)
            write_history(out / "history.csv", history)
        images = batches.responses
        record.add(data=data, images=len(images), images_left_out=images.left_out)
        record.add(subjects=sorted({str(s) for s in batches.responses.subject}))
        record.add(precision=runtime.precision, steps_per_second=round(trainer.steps_per_second, 4))
        record.add(parameters=sum(p.numel() for p in networks.parameters() if p.requires_grad))
        record.add(**{f"{split}_{name}": value for _, split, name, value in history[-6:]})
    if accelerator.is_main_process:
        checkpoints.clear()
    accelerator.end_training()


def _check_latents(store: LatentStore, backbone: Backbone) -> None:
    """Refuse latents and texts of another backbone's size."""
    for name, shape, expected in (
        ("latents (channels, height, width)", store.mean.shape[1:], backbone.latent_shape),
        ("texts (tokens, width)", store.text.shape[1:], backbone.context_shape),
    ):
        if tuple(shape) != tuple(expected):
            raise ValueError(
                f"latents: {name} are {tuple(shape)} in {store.paths[0]}, backbone {backbone.name} has"
                f" {tuple(expected)};"
                " allowed: latents made with the same backbone, for example by running stage cache_latents again"
            )


def _check_images(
    store: LatentStore, responses: Sequence[str | Path], stage: str, config: "ReconstructConfig | RefineConfig"
) -> None:
    """Refuse, before training, responses to images that no file holds, test images too, and targets that none gives."""
    described = False
    for path in responses:
        trials = ResponseStore(path)
        try:
            rows = store.rows(trials.images("train"))
            store.rows(trials.nsd_id)
        except ValueError as error:
            raise ValueError(f"{path} has responses to images that are nowhere: {error}") from None
        described |= bool(store.described[rows].any())
    if config.semantic_steps and not described:
        raise ValueError(
            f"{stage}.semantic_steps is {config.semantic_steps}, but no training image has captions to learn from; "
            "allowed: 0, or captions, for example neuropictor import-images --captions MODEL"
        )


def pretrain(
    responses: Sequence[str | Path],
    latents: Sequence[str | Path],
    backbone: str | Path,
    autoencoder: str | Path,
    config: "ReconstructConfig",
    runtime: "RuntimeConfig",
    out: Folder,
    components: Sequence[str | Path] | None = None,
    aligned_tokens: int = 0,
    target: str | Path | None = None,
) -> None:
    """Train the networks on several subjects together.

    With ``init: scratch`` the encoder is the calibrated one and the other networks are new; with ``init: population``
    all start from the weights that come with the backbone, and calibration's changes are added to their encoder.

    Parameters
    ----------
    responses
        Response files, one a subject.
    latents
        Latents of the subjects' images, see `neuropictor.data.latents.cache_latents`.
    backbone
        Source of the frozen backbone.
    autoencoder
        Calibrated autoencoder.
    config, runtime
        Sections of the configuration.
    out
        Folder of the pipeline, see `NeuroPictorPipeline.save_trained`; ``history.csv`` and ``run.json`` join it.
    components
        Component files of the same subjects, see `neuropictor.data.alignment`; None for the paper's networks.
    aligned_tokens
        Number of tokens that new networks make from components.
    target
        Folder of the semantic loss's text tower, which is read with ``captions: random`` if that loss has a weight;
        None or empty: the backbone's own.
    """
    verify(autoencoder)
    inputs, schedule = {"autoencoder": autoencoder}, None
    if config.init == "population":
        inputs |= {f"population.{path.name}": path for path in pipeline_paths(population_pipeline(backbone))}
        schedule = read_schedule(population_pipeline(backbone))

    def start(frozen: Backbone) -> Networks:
        torch.manual_seed(config.seed)
        encoder = load_autoencoder(autoencoder).encoder
        if config.init == "population":
            return _population_start(encoder, autoencoder, backbone)
        alignment = None
        if components is not None:
            aligned = ComponentStore(components[0], ResponseStore(responses[0]))
            alignment = AlignmentNetwork(aligned.size, aligned_tokens, encoder.config["width"], aligned.space)
        return Networks.build(encoder, frozen, "pretrain", alignment)

    files = (responses, components, latents, backbone)
    _train("pretrain", start, *files, config, runtime, inputs, Path(out), schedule, target)


def _population_start(encoder: FMRIEncoder, autoencoder: str | Path, backbone: str | Path) -> Networks:
    """Read the population's networks and apply the calibration to their encoder.

    The population's pretraining has moved its encoder away from the one that calibration started from, and the other
    two networks read the moved one. So calibration's changes are added to it (weights of a common origin may be
    added: "task vectors", arXiv 2212.04089). An encoder that was calibrated from elsewhere takes its place instead.
    """
    path = population_pipeline(backbone)
    networks = read_networks(path, variant="pretrain")
    for name in ("image_size", "patch_size", "in_channels", "width", "depth", "heads"):
        start, size = networks.encoder.config[name], encoder.config[name]
        if start != size:
            raise ValueError(
                f"pretrain.init: the population start in {path} has encoder.{name} {start}, the calibrated encoder has "
                f"{size}; allowed: encoder: {{{name}: {start}}}, or pretrain with init: scratch"
            )
    origin = population_file(backbone, AUTOENCODER)
    if autoencoder_start(autoencoder) != checksum(origin):
        log.warning("%s was not calibrated from %s: the other networks must adapt to its encoder", autoencoder, origin)
        networks.encoder = encoder
        return networks
    started = load_autoencoder(origin).encoder
    with torch.no_grad():
        parts = (networks.encoder.parameters(), encoder.parameters(), started.parameters())
        for parameter, calibrated, original in zip(*parts, strict=True):
            parameter.add_(calibrated - original)
    return networks


def refine(
    responses: str | Path,
    latents: str | Path,
    backbone: str | Path,
    pretrained: Folder,
    config: "RefineConfig",
    runtime: "RuntimeConfig",
    out: Folder,
    components: str | Path | None = None,
    target: str | Path | None = None,
    others: Sequence[str | Path] = (),
) -> None:
    """Tune pretrained networks on one subject.

    Parameters are those of `pretrain`, of one subject; `pretrained` is its output, and `others` are the responses that
    it was trained on: none of their training images may test this subject, unless it is one of them.
    """
    verify(pretrained)
    _check_tests(ResponseStore(responses), others)
    inputs = {f"pretrained.{path.name}": path for path in pipeline_paths(pretrained)}

    def start(frozen: Backbone) -> Networks:
        torch.manual_seed(config.seed)
        return read_networks(pretrained, variant="refine")

    files = ([responses], None if components is None else [components], [latents], backbone)
    _train("refine", start, *files, config, runtime, inputs, Path(out), read_schedule(pretrained), target)


def _check_tests(store: ResponseStore, others: Sequence[str | Path]) -> None:
    """Refuse a subject some of whose test images have trained the networks."""
    for split in ("train", "validation") if others else ():
        trained = ImageResponses(others, split)
        seen = np.intersect1d(trained.nsd_id, store.images("test"))
        if len(seen):
            whose = trained.subject[trained.nsd_id == seen[0]][0]
            raise ValueError(
                f"{store.path}: image {seen[0]} tests subject {store.subject}, but was in split {split!r} of subject "
                f"{whose} in pretraining, as were {len(seen) - 1} more of its {len(store.images('test'))} test images; "
                f"allowed: tests on images that no subject of pretraining trained on. Give subject {store.subject} "
                "pretrain: yes in the table of people, so that images which test anybody train nobody, or leave the "
                "trials of these images out of its table of trials"
            )
