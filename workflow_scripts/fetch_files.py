"""Fetch the files that a rule asks for."""

from pathlib import Path

from neuropictor.config import NsdConfig
from neuropictor.records.log import start_log
from neuropictor.records.record import job_record

start_log(snakemake.log[0])

from neuropictor.fetching.nsd import fetch

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    root = Path(snakemake.params.root)
    fetch(
        wanted=[Path(file).relative_to(root).as_posix() for file in snakemake.output],
        root=root,
        config=NsdConfig(**snakemake.params.source),
    )
