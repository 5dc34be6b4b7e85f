"""Collect pictures, captions and categories."""

from pathlib import Path

from neuropictor.config import NsdConfig, PreprocessConfig
from neuropictor.records.log import start_log

start_log(snakemake.log[0])

from neuropictor.data.preprocess import preprocess_stimuli

preprocess_stimuli(
    nsd_root=Path(snakemake.params.root),
    subjects=[int(snakemake.wildcards.subject)],
    config=PreprocessConfig(**snakemake.params.config),
    nsd=NsdConfig(**snakemake.params.nsd),
    out=Path(snakemake.output.store),
)
