"""Describe the data."""

from pathlib import Path

from neuropictor.config import EvaluateConfig, SampleConfig
from neuropictor.records.log import start_log
from neuropictor.records.record import job_record

start_log(snakemake.log[0])

from neuropictor.report.data_card import data_card

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    data_card(
        responses=dict(zip(snakemake.params.subjects, map(Path, snakemake.input.responses), strict=True)),
        stimuli=[Path(path) for path in snakemake.input.stimuli],
        config=EvaluateConfig(**snakemake.params.config),
        sample=SampleConfig(**snakemake.params.sample),
        out=Path(snakemake.output[0]),
        metrics=Path(snakemake.input.metrics),
    )
