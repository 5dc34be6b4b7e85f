"""Tabulate the scores."""

from pathlib import Path

from neuropictor.runlog import start_log

start_log(snakemake.log[0])

from neuropictor.evaluation.score_pages import metric_table
from neuropictor.nsd.constants import describe_release

nsd = snakemake.params.nsd
metric_table(
    metrics=Path(snakemake.input.metrics),
    out=Path(snakemake.output[0]),
    release=describe_release(nsd["release"], nsd["sessions"]),
)
