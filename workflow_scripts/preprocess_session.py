"""Keep of one session's betas what visual cortex needs."""

from pathlib import Path

from neuropictor.records.log import start_log
from neuropictor.records.record import job_record

start_log(snakemake.log[0])

from neuropictor.data.sessions import preprocess_session

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    preprocess_session(
        nsd_root=Path(snakemake.params.root),
        subject=int(snakemake.wildcards.subject),
        session=int(snakemake.wildcards.session),
        beta_version=snakemake.params.nsd["beta_version"],
        out=Path(snakemake.output[0]),
    )
