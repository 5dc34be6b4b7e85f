"""Reconstruct one subject's test pictures by linear baselines."""

from pathlib import Path

from neuropictor.config import EvaluateConfig, RuntimeConfig, SampleConfig
from neuropictor.records.log import start_log

start_log(snakemake.log[0])

from neuropictor.evaluation.baselines import fit_baselines

fit_baselines(
    responses=Path(snakemake.input.responses),
    stimuli=Path(snakemake.input.stimuli),
    latents=Path(snakemake.input.latents),
    backbone=snakemake.params.backbone,
    config=EvaluateConfig(**snakemake.params.config),
    sample=SampleConfig(**snakemake.params.sample),
    runtime=RuntimeConfig(**snakemake.params.runtime),
    out={model: Path(snakemake.output[model]) for model in ("ridge", "ridge_diffusion", "mean_picture")},
    weights=Path(snakemake.input.weights).parent if snakemake.input.weights else None,
)
