"""Stage 1: calibrate the encoder."""

from pathlib import Path

from neuropictor.config import CalibrateConfig, EncoderConfig, RuntimeConfig
from neuropictor.records.log import start_log

start_log(snakemake.log[0])

from neuropictor.training.calibrate import calibrate
from neuropictor.workflow.launch import launch

launch(
    calibrate,
    responses=[Path(path) for path in snakemake.input.responses],
    backbone=snakemake.params.backbone,
    config=CalibrateConfig(**snakemake.params.config),
    encoder=EncoderConfig(**snakemake.params.encoder),
    runtime=RuntimeConfig(**snakemake.params.runtime),
    out=Path(snakemake.output.autoencoder),
)
