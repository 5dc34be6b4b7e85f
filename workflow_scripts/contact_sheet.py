"""Draw seen and reconstructed pictures of one subject."""

from pathlib import Path

from neuropictor.config import EvaluateConfig
from neuropictor.records.log import start_log
from neuropictor.records.record import job_record

start_log(snakemake.log[0])

from neuropictor.report.figures import contact_sheet

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    contact_sheet(
        samples={Path(path).stem: Path(path) for path in snakemake.input.samples},
        stimuli=Path(snakemake.input.stimuli),
        config=EvaluateConfig(**snakemake.params.config),
        out=Path(snakemake.output[0]),
    )
