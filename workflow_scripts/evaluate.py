"""Score all models on all subjects."""

from pathlib import Path

from neuropictor.config import EvaluateConfig, RuntimeConfig
from neuropictor.runlog import start_log

start_log(snakemake.log[0])

from neuropictor.evaluation.metrics import evaluate

samples: dict[int, dict[str, Path]] = {}
for path in map(Path, snakemake.input.samples):
    subject = int(path.parent.name.removeprefix("sub-"))
    samples.setdefault(subject, {})[path.stem] = path
evaluate(
    samples=samples,
    stimuli=[Path(path) for path in snakemake.input.stimuli],
    backbone=snakemake.params.backbone,
    config=EvaluateConfig(**snakemake.params.config),
    runtime=RuntimeConfig(**snakemake.params.runtime),
    out=Path(snakemake.output.metrics),
)
