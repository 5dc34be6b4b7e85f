"""Fetch COCO's annotations."""

from pathlib import Path

from neuropictor.config import NsdConfig
from neuropictor.runlog import job_record, start_log

start_log(snakemake.log[0])

from neuropictor.nsd.fetch import fetch_annotations

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    fetch_annotations(root=Path(snakemake.params.root), config=NsdConfig(**snakemake.params.source))
