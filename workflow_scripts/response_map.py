"""Draw one subject's responses on the flat cortex."""

from pathlib import Path

from neuropictor.records.log import start_log
from neuropictor.records.record import job_record

start_log(snakemake.log[0])

from neuropictor.report.figures import response_map

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    response_map(responses=Path(snakemake.input.responses), out=Path(snakemake.output[0]))
