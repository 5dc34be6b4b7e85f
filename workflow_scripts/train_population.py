"""Train the start weights of encoder and networks on simulated people who are no subjects."""

from pathlib import Path

from neuropictor.config import AlignConfig, BackboneConfig, EncoderConfig, RuntimeConfig, SimulateConfig
from neuropictor.records.log import start_log

start_log(snakemake.log[0])

from neuropictor.miniature.population import train_population

backbone = BackboneConfig(**snakemake.params.training, **snakemake.params.config)
train_population(
    backbone=snakemake.params.backbone,
    training=backbone.training,
    config=backbone.population,
    simulate=SimulateConfig(**snakemake.params.simulate),
    encoder=EncoderConfig(**snakemake.params.encoder),
    align=AlignConfig(**snakemake.params.align),
    runtime=RuntimeConfig(**snakemake.params.runtime),
    out=Path(snakemake.output.run).parent,
)
