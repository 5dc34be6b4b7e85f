"""Compare experiments."""

from pathlib import Path

from neuropictor.runlog import start_log

start_log(snakemake.log[0])

from neuropictor.evaluation.comparison import compare

compare(metrics=[Path(path) for path in snakemake.input.metrics], out=Path(snakemake.output.page))
