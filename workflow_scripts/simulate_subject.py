"""Write one subject's part of a simulated NSD."""

from pathlib import Path

from neuropictor.config import SimulateConfig
from neuropictor.records.log import start_log
from neuropictor.records.record import job_record

start_log(snakemake.log[0])

from neuropictor.simulation.writer.nsd import write_subject

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    write_subject(
        root=Path(snakemake.params.root),
        subject=int(snakemake.wildcards.subject),
        config=SimulateConfig(**snakemake.params.config),
    )
