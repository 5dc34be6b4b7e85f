"""Compare experiments."""

from pathlib import Path

from neuropictor.runlog import job_record, start_log

start_log(snakemake.log[0])

from neuropictor.evaluation.comparison import compare

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    compare(metrics=[Path(path) for path in snakemake.input.metrics], out=Path(snakemake.output.page))
