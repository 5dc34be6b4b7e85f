"""Score all controls of all subjects."""

from pathlib import Path

from neuropictor.config import ControlsConfig, EvaluateConfig, RuntimeConfig
from neuropictor.records.log import start_log

start_log(snakemake.log[0])

from neuropictor.controls.tables import score_controls

found = {
    name: {int(Path(path).parent.name.removeprefix("sub-")): Path(path) for path in snakemake.input[name]}
    for name in ("samples", "responses", "stimuli")
}
drawn: dict[int, dict[str, Path]] = {}
for path in map(Path, snakemake.input.drawn):
    drawn.setdefault(int(path.parent.name.removeprefix("sub-")), {})[path.stem] = path
score_controls(
    **found,
    drawn=drawn,
    backbone=snakemake.params.backbone,
    config=ControlsConfig(**snakemake.params.config),
    evaluate=EvaluateConfig(**snakemake.params.evaluate),
    runtime=RuntimeConfig(**snakemake.params.runtime),
    out=Path(snakemake.output.table),
    figures=Path(snakemake.output.table).parents[1] / "report" / "controls",
    weights=Path(snakemake.input.weights).parent if snakemake.input.weights else None,
)
