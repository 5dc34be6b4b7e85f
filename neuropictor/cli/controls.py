"""The command that draws and scores controls of one pipeline."""

from pathlib import Path
from typing import Annotated

import typer

from neuropictor.cli.evaluation import Weights
from neuropictor.cli.options import Component, File, Out, Pipeline, Settings, app, start


@app.command()
def control(
    pipeline: Pipeline,
    responses: File,
    stimuli: File,
    out: Out,
    kind: Annotated[list[str], typer.Option(help="of docs/controls.md; may be repeated")],
    components: Component = None,
    space: Annotated[Path | None, typer.Option(exists=True, help="of stage align_space, for --kind bottleneck")] = None,
    latents: Annotated[Path | None, typer.Option(exists=True, help="of the images, for --kind bottleneck")] = None,
    backbone: Annotated[str | None, typer.Option(help="where the backbone lies now, if it was moved")] = None,
    judge: Annotated[str, typer.Option(help="backbone whose image tower judges")] = "miniature",
    weights: Weights = None,
    settings: Settings = None,
) -> None:
    """Draw one subject's test images at other strengths or from altered responses, and score them.

    Example: neuropictor control --kind strengths --kind semantic_swap --pipeline results/refine/sub-01
    --responses data/prepared/sub-01/responses.h5 --components results/align/sub-01/components.h5
    --stimuli data/prepared/sub-01/stimuli.h5 --out controls/sub-01
    """
    from neuropictor.controls.conditions import conditions
    from neuropictor.controls.draw import steer_subject
    from neuropictor.controls.tables import score_controls
    from neuropictor.data.responses import ResponseStore

    loaded, runtime = start(settings)
    try:
        for name in kind:
            conditions(name, loaded.controls)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--kind") from None
    config, subject = loaded.controls, ResponseStore(responses).subject
    drawn = {name: out / f"{name}.h5" for name in kind}
    files = {"pipeline": pipeline, "responses": responses, "components": components, "backbone": backbone}
    files |= {"space": space, "latents": latents}
    for name, path in drawn.items():
        steer_subject(**files, kind=name, config=config, sample=loaded.sample, runtime=runtime, out=path)
    score_controls(
        drawn={subject: drawn},
        samples={},
        responses={subject: responses},
        stimuli={subject: stimuli},
        backbone=judge,
        config=config,
        evaluate=loaded.evaluate.model_copy(update={"networks": "published" if weights else "miniature"}),
        runtime=runtime,
        out=out / "controls.csv",
        figures=out,
        weights=weights,
    )
