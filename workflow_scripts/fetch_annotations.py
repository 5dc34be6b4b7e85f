"""Fetch COCO's annotations."""

from pathlib import Path

from neuropictor.config import NsdConfig
from neuropictor.records.log import start_log
from neuropictor.records.record import job_record

start_log(snakemake.log[0])

from neuropictor.fetching.nsd import fetch_annotations

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    fetch_annotations(root=Path(snakemake.params.root), config=NsdConfig(**snakemake.params.source))
