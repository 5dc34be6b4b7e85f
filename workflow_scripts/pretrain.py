"""Stage 2: train all networks on many subjects."""

from pathlib import Path

from neuropictor.config import ReconstructConfig, RuntimeConfig
from neuropictor.records.log import start_log

start_log(snakemake.log[0])

from neuropictor.training.reconstruct import pretrain
from neuropictor.workflow.launch import launch

launch(
    pretrain,
    responses=[Path(path) for path in snakemake.input.responses],
    latents=[Path(path) for path in snakemake.input.latents],
    backbone=snakemake.params.backbone,
    autoencoder=Path(snakemake.input.autoencoder),
    config=ReconstructConfig(**snakemake.params.config),
    runtime=RuntimeConfig(**snakemake.params.runtime),
    out=Path(snakemake.output.index).parent,
    components=[Path(path) for path in snakemake.input.components] or None,
    aligned_tokens=snakemake.params.align["tokens"],
    target=snakemake.params.target,
)
