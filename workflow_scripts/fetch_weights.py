"""Fetch the networks that judge pictures."""

from pathlib import Path

from neuropictor.config import WeightsConfig
from neuropictor.records.log import start_log
from neuropictor.records.record import job_record

start_log(snakemake.log[0])

from neuropictor.fetching.weights import fetch_weights

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    fetch_weights(config=WeightsConfig(**snakemake.params.source), out=Path(snakemake.output[0]).parent)
