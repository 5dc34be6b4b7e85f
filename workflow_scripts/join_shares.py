"""Put together what several jobs have reconstructed of a subject's test pictures."""

from pathlib import Path

from neuropictor.config import SampleConfig
from neuropictor.records.log import start_log

start_log(snakemake.log[0])

from neuropictor.sampling import join_shares

join_shares(
    shares=[Path(path) for path in snakemake.input.shares],
    pipeline=Path(snakemake.input.index).parent,
    responses=Path(snakemake.input.responses),
    config=SampleConfig(**snakemake.params.config),
    model=snakemake.wildcards.model,
    out=Path(snakemake.output.pictures),
    components=next(map(Path, snakemake.input.components), None),
)
