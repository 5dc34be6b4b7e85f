"""Put published results into tables by test set."""

from pathlib import Path

from neuropictor.records.log import start_log
from neuropictor.records.record import job_record

start_log(snakemake.log[0])

from neuropictor.report.published import published_table

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    published_table(metrics=Path(snakemake.input.metrics), out=Path(snakemake.output[0]))
