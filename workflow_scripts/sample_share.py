"""Reconstruct one share of a subject's test pictures."""

from pathlib import Path

from neuropictor.config import RuntimeConfig, SampleConfig
from neuropictor.records.log import start_log

start_log(snakemake.log[0])

from neuropictor.sampling import sample_share
from neuropictor.workflow.launch import launch

launch(
    sample_share,
    pipeline=Path(snakemake.input.index).parent,
    responses=Path(snakemake.input.responses),
    config=SampleConfig(**snakemake.params.config),
    runtime=RuntimeConfig(**snakemake.params.runtime),
    model=snakemake.wildcards.model,
    share=(int(snakemake.wildcards.share), int(snakemake.wildcards.jobs)),
    out=Path(snakemake.output[0]),
    components=next(map(Path, snakemake.input.components), None),
)
