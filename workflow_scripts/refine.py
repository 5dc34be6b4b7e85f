"""Stage 3: train all networks on one subject."""

from pathlib import Path

from neuropictor.config import RefineConfig, RuntimeConfig
from neuropictor.records.log import start_log

start_log(snakemake.log[0])

from neuropictor.training.reconstruct import refine
from neuropictor.workflow.launch import launch

launch(
    refine,
    responses=Path(snakemake.input.responses),
    latents=Path(snakemake.input.latents),
    backbone=snakemake.params.backbone,
    pretrained=Path(snakemake.input.index).parent,
    config=RefineConfig(**snakemake.params.config),
    runtime=RuntimeConfig(**snakemake.params.runtime),
    out=Path(snakemake.output.index).parent,
    components=next(map(Path, snakemake.input.components), None),
    target=snakemake.params.target,
)
