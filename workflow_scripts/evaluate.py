"""Score all models on all subjects."""

from pathlib import Path

from neuropictor.config import EvaluateConfig, RuntimeConfig
from neuropictor.records.log import start_log

start_log(snakemake.log[0])

from neuropictor.data.reconstructions import by_subject
from neuropictor.evaluation.metrics import evaluate

evaluate(
    samples=by_subject(map(Path, snakemake.input.samples)),
    stimuli=[Path(path) for path in snakemake.input.stimuli],
    backbone=snakemake.params.backbone,
    config=EvaluateConfig(**snakemake.params.config),
    runtime=RuntimeConfig(**snakemake.params.runtime),
    out=Path(snakemake.output.metrics),
    weights=Path(snakemake.input.weights).parent if snakemake.input.weights else None,
)
