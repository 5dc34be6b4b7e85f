"""Turn one subject's betas into responses."""

from pathlib import Path

from neuropictor.config import NsdConfig, PreprocessConfig
from neuropictor.records.log import start_log

start_log(snakemake.log[0])

from neuropictor.data.preprocess import preprocess_subject

preprocess_subject(
    nsd_root=Path(snakemake.params.root),
    subject=int(snakemake.wildcards.subject),
    config=PreprocessConfig(**snakemake.params.config),
    nsd=NsdConfig(**snakemake.params.nsd),
    out=Path(snakemake.output.store),
    kept=dict(enumerate(map(Path, snakemake.input.sessions), start=1)) or None,
)
