"""Predict one subject's components from its responses."""

from pathlib import Path

from neuropictor.config import AlignConfig
from neuropictor.records.log import start_log

start_log(snakemake.log[0])

from neuropictor.data.alignment import align_subject

align_subject(
    responses=Path(snakemake.input.responses),
    latents=Path(snakemake.input.latents),
    space=Path(snakemake.input.space),
    config=AlignConfig(**snakemake.params.config),
    out=Path(snakemake.output.components),
)
