"""Stage calibrate: train the encoder as an autoencoder of all subjects' responses."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from neuropictor.data.datasets import ImageResponses, TrainingBatches
from neuropictor.models.encoder import FMRIAutoencoder, reconstruction_error
from neuropictor.models.maps import MapOperator
from neuropictor.models.memory import recompute_activations
from neuropictor.models.networks import load_autoencoder, save_autoencoder
from neuropictor.models.population import AUTOENCODER, population_file
from neuropictor.records.checksums import checksum
from neuropictor.records.record import RunRecord
from neuropictor.surface import Geometry, load_geometry
from neuropictor.training.checkpoints import CheckpointFolder, make_guard
from neuropictor.training.loop import Batch, Recipe, Task, Trainer, make_accelerator, write_history
from neuropictor.training.monitor import MONITOR_FOLDER, Monitor

if TYPE_CHECKING:
    from neuropictor.config import CalibrateConfig, EncoderConfig, RuntimeConfig

log = logging.getLogger(__name__)


class CalibrationTask(Task):
    """Squared error of reconstructed maps over the pixels of visual cortex.

    Parameters
    ----------
    module
        The autoencoder.
    geometry
        Source of map operator and mask.
    device
        Where the losses are computed.
    """

    def __init__(self, module: FMRIAutoencoder, geometry: Geometry, device: torch.device):
        self.module = module
        size = module.config["image_size"]
        self.maps = MapOperator(geometry.map_operator(size)).to(device)
        self.mask = torch.from_numpy(geometry.map_mask(size)).to(device)

    def losses(self, module: nn.Module, batch: Batch, step: int | None) -> dict[str, torch.Tensor]:
        """Return ``loss``, the mean over the batch."""
        maps = self.maps(batch["responses"])
        return {"loss": reconstruction_error(module(maps), maps, self.mask).mean()}


def _start(config: "CalibrateConfig", encoder: "EncoderConfig", backbone: str | Path) -> FMRIAutoencoder:
    """Make the autoencoder with random weights, or read the population's, whose sizes must be the configured ones."""
    if config.init == "scratch":
        return FMRIAutoencoder(**encoder.model_dump())
    path = population_file(backbone, AUTOENCODER)
    autoencoder = load_autoencoder(path)
    for name, size in encoder.model_dump().items():
        start = autoencoder.config[name]
        if start != size and name != "dropout":
            raise ValueError(
                f"encoder.{name}: {size} does not fit the population start in {path}, whose encoder has {start}; "
                f"allowed: encoder: {{{name}: {start}}}, or calibrate and pretrain with init: scratch"
            )
    return autoencoder


def calibrate(
    responses: Sequence[str | Path],
    backbone: str | Path,
    config: "CalibrateConfig",
    encoder: "EncoderConfig",
    runtime: "RuntimeConfig",
    out: str | Path,
) -> None:
    """Train the autoencoder; write its weights, ``history.csv`` and ``run.json`` beside each other.

    Parameters
    ----------
    responses
        Response files of all subjects; training images train, validation images validate.
    backbone
        Source of the backbone whose population start is used with ``init: population``.
    config, encoder, runtime
        Sections of the configuration.
    out
        Safetensors file for `load_autoencoder`.
    """
    out = Path(out)
    accelerator = make_accelerator(runtime)
    torch.manual_seed(config.seed)
    inputs = {f"responses.{i}": path for i, path in enumerate(responses)}
    start = "scratch"
    if config.init == "population":
        inputs["population"] = population_file(backbone, AUTOENCODER)
        start = checksum(inputs["population"])
    guard = make_guard({"calibrate": config, "encoder": encoder}, inputs, __file__ if runtime.track_code else None)
    sections = {"calibrate": config, "encoder": encoder}
    with RunRecord(
        out.parent / "run.json",
        "calibrate",
        config=sections,
        seed=config.seed,
        inputs=inputs.values(),
        outputs=[out, out.parent / "history.csv"],
    ) as record:
        module = _start(config, encoder, backbone)
        if runtime.gradient_checkpointing:
            recompute_activations(module)
        task = CalibrationTask(module, load_geometry(), accelerator.device)
        share = (accelerator.process_index, accelerator.num_processes)
        batches, validation = (
            TrainingBatches(
                ImageResponses(responses, split), config.batch_size, config.trial_averaging, config.seed, share=part
            )
            for split, part in (("train", share), ("validation", (0, 1)))
        )
        checkpoints = CheckpointFolder(out.parent / "checkpoints", guard)
        monitor = Monitor(out.parent / MONITOR_FOLDER, batches.responses.data)
        recipe = Recipe.of(config)
        trainer = Trainer(task, batches, validation, recipe, runtime, checkpoints, accelerator, monitor)
        history = trainer.run("Calibrating")
        if accelerator.is_main_process:
            save_autoencoder(module, out, start)
            write_history(out.parent / "history.csv", history)
        images = batches.responses
        record.add(data=images.data, images=len(images), images_left_out=images.left_out)
        record.add(precision=runtime.precision)
        record.add(parameters=sum(p.numel() for p in module.parameters()))
        record.add(**{f"{split}_{name}": value for _, split, name, value in history[-2:]})
    if accelerator.is_main_process:
        checkpoints.clear()
    accelerator.end_training()
