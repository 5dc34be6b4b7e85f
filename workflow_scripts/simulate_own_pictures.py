"""Write the pictures that one subject of a simulated NSD sees alone."""

from pathlib import Path

from neuropictor.config import SimulateConfig
from neuropictor.runlog import job_record, start_log

start_log(snakemake.log[0])

from neuropictor.simulation.nsd_writer import write_own_pictures

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    write_own_pictures(
        root=Path(snakemake.params.root),
        subject=int(snakemake.wildcards.subject),
        config=SimulateConfig(**snakemake.params.config),
        threads=snakemake.threads,
    )
