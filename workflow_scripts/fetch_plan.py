"""Find all files at the endpoint, and room for them on the disk."""

from pathlib import Path

from neuropictor.config import NsdConfig
from neuropictor.records.log import start_log
from neuropictor.records.record import job_record

start_log(snakemake.log[0])

from neuropictor.fetching.nsd import plan_fetch

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    plan_fetch(
        **snakemake.params.files,
        root=Path(snakemake.params.root),
        config=NsdConfig(**snakemake.params.source),
        out=Path(snakemake.output.plan),
    )
