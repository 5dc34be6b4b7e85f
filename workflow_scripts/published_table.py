"""Put published results into tables by test set."""

from pathlib import Path

from neuropictor.runlog import job_record, start_log

start_log(snakemake.log[0])

from neuropictor.evaluation.published_results import published_table

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    published_table(metrics=Path(snakemake.input.metrics), out=Path(snakemake.output[0]))
