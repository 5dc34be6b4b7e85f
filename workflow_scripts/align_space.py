"""Make the space of components that all subjects share."""

from pathlib import Path

from neuropictor.config import AlignConfig, RuntimeConfig
from neuropictor.records.log import start_log

start_log(snakemake.log[0])

from neuropictor.data.alignment import make_space
from neuropictor.models.device import prepare_device
from neuropictor.models.population import SPACE, population_file

prepare_device(RuntimeConfig(**snakemake.params.runtime))
population = snakemake.params.pretrain["init"] == "population"
make_space(
    latents=[Path(path) for path in snakemake.input.latents],
    responses=[Path(path) for path in snakemake.input.responses],
    population=population_file(snakemake.params.backbone, SPACE) if population else None,
    config=AlignConfig(**snakemake.params.config),
    out=Path(snakemake.output.space),
)
