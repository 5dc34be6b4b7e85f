"""Tabulate the tests."""

from pathlib import Path

from neuropictor.runlog import start_log

start_log(snakemake.log[0])

from neuropictor.evaluation.score_pages import statistics_table

statistics_table(statistics=Path(snakemake.input[0]), out=Path(snakemake.output[0]))
