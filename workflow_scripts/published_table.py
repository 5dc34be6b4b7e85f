"""Put published results into tables by test set."""

from pathlib import Path

from neuropictor.runlog import start_log

start_log(snakemake.log[0])

from neuropictor.evaluation.published_results import published_table

published_table(metrics=Path(snakemake.input.metrics), out=Path(snakemake.output[0]))
