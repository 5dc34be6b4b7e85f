"""Compare experiments."""

from pathlib import Path

from neuropictor.records.log import start_log
from neuropictor.records.record import job_record

start_log(snakemake.log[0])

from neuropictor.report.comparison import compare

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    compare(metrics=[Path(path) for path in snakemake.input.metrics], out=Path(snakemake.output.page))
