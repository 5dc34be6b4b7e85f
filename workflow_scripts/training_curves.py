"""Draw the losses of all training stages."""

from pathlib import Path

from neuropictor.records.log import start_log
from neuropictor.records.record import job_record

start_log(snakemake.log[0])

from neuropictor.report.figures import training_curves

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    histories = {"calibrate": Path(snakemake.input.calibrate), "pretrain": Path(snakemake.input.pretrain)}
    for subject, path in zip(snakemake.params.subjects, snakemake.input.refine, strict=True):
        histories[f"refine sub-{subject}"] = Path(path)
    training_curves(histories=histories, out=Path(snakemake.output[0]))
