"""Tabulate the scores."""

from pathlib import Path

from neuropictor.records.log import start_log
from neuropictor.records.record import job_record

start_log(snakemake.log[0])

from neuropictor.nsd.constants import describe_release
from neuropictor.report.scores import metric_table

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    nsd = snakemake.params.nsd
    metric_table(
        metrics=Path(snakemake.input.metrics),
        out=Path(snakemake.output[0]),
        release=describe_release(nsd["release"], nsd["sessions"]),
    )
