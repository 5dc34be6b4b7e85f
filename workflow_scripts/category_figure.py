"""Draw scores by category."""

from pathlib import Path

from neuropictor.records.log import start_log
from neuropictor.records.record import job_record

start_log(snakemake.log[0])

from neuropictor.report.score_figures import category_figure

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    category_figure(
        scores=Path(snakemake.input.scores),
        stimuli=[Path(path) for path in snakemake.input.stimuli],
        out=Path(snakemake.output[0]),
    )
