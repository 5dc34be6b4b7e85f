"""Write what all subjects of a simulated NSD share."""

from pathlib import Path

from neuropictor.config import SimulateConfig
from neuropictor.records.log import start_log
from neuropictor.records.record import job_record

start_log(snakemake.log[0])

from neuropictor.simulation.writer.nsd import write_pictures

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    write_pictures(
        root=Path(snakemake.params.root),
        config=SimulateConfig(**snakemake.params.config),
        threads=snakemake.threads,
    )
