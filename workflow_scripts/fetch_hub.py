"""Fetch a repository of the Hugging Face hub."""

from pathlib import Path

from neuropictor.records.log import start_log
from neuropictor.records.record import job_record

start_log(snakemake.log[0])

from neuropictor.fetching.hub import fetch_repository

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    fetch_repository(
        repository=snakemake.wildcards.repository.replace("--", "/", 1),
        commit=snakemake.wildcards.commit,
        out=Path(snakemake.output[0]).parent,
    )
