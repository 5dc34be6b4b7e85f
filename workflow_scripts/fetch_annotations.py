"""Fetch COCO's annotations."""

from pathlib import Path

from neuropictor.config import NsdConfig
from neuropictor.runlog import start_log

start_log(snakemake.log[0])

from neuropictor.nsd.fetch import fetch_annotations

fetch_annotations(root=Path(snakemake.params.root), config=NsdConfig(**snakemake.params.source))
