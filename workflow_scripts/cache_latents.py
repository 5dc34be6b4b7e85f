"""Encode pictures and captions once."""

from pathlib import Path

from neuropictor.config import RuntimeConfig
from neuropictor.records.log import start_log

start_log(snakemake.log[0])

from neuropictor.data.latents import cache_latents

cache_latents(
    stimuli=Path(snakemake.input.stimuli),
    backbone=snakemake.params.backbone,
    runtime=RuntimeConfig(**snakemake.params.runtime),
    out=Path(snakemake.output.latents),
    target=snakemake.params.target,
)
