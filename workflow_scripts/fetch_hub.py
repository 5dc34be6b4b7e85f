"""Fetch a repository of the Hugging Face hub."""

from pathlib import Path

from neuropictor.runlog import start_log

start_log(snakemake.log[0])

from neuropictor.models.hub import fetch_repository

fetch_repository(
    repository=snakemake.wildcards.repository.replace("--", "/", 1),
    commit=snakemake.wildcards.commit,
    out=Path(snakemake.output[0]).parent,
)
