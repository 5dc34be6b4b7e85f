"""Train the miniature backbone."""

from pathlib import Path

from neuropictor.config import BackboneTrainingConfig, RuntimeConfig
from neuropictor.records.log import start_log

start_log(snakemake.log[0])

from neuropictor.miniature.backbone import train_backbone

train_backbone(
    config=BackboneTrainingConfig(**snakemake.params.config["training"]),
    runtime=RuntimeConfig(**snakemake.params.runtime),
    out=Path(snakemake.output.run).parent,
)
