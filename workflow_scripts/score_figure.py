"""Draw the scores of all models."""

from pathlib import Path

from neuropictor.records.log import start_log
from neuropictor.records.record import job_record

start_log(snakemake.log[0])

from neuropictor.report.score_figures import score_figure

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    score_figure(metrics=Path(snakemake.input[0]), out=Path(snakemake.output[0]))
