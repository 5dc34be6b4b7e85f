"""Draw one subject's test pictures under all conditions of a control."""

from pathlib import Path

from neuropictor.config import ControlsConfig, RuntimeConfig, SampleConfig
from neuropictor.records.log import start_log

start_log(snakemake.log[0])

from neuropictor.controls.draw import steer_subject

steer_subject(
    pipeline=Path(snakemake.input.index).parent,
    responses=Path(snakemake.input.responses),
    kind=snakemake.wildcards.control,
    config=ControlsConfig(**snakemake.params.config),
    sample=SampleConfig(**snakemake.params.sample),
    runtime=RuntimeConfig(**snakemake.params.runtime),
    out=Path(snakemake.output.pictures),
    components=next(map(Path, snakemake.input.components), None),
)
