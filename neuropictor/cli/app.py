"""Stages one by one, for those who do not want the workflow: `neuropictor --help`.

Each command calls one library function with the given files; settings come from a YAML file merged into the defaults.
"""

from pathlib import Path
from typing import Annotated

import typer

import neuropictor
from neuropictor.cli import controls, data, evaluation, results  # noqa: F401 (these register commands)
from neuropictor.cli.options import Component, Components, File, Files, Out, Pipeline, Settings, Source, app, start
from neuropictor.config import Config
from neuropictor.config import text as config_text


@app.command()
def calibrate(
    out: Out,
    responses: list[Path],
    extra: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="frames or responses that train it too; may be repeated"),
    ] = None,
    backbone: Source = "miniature",
    settings: Settings = None,
) -> None:
    """Train the encoder as an autoencoder of responses (stage 1).

    Example: neuropictor calibrate --out results/calibrate/autoencoder.safetensors data/prepared/sub-*/responses.h5
    --extra data/prepared/frames/ukb.h5
    """
    from neuropictor.training.calibrate import calibrate as stage
    from neuropictor.workflow.launch import launch

    loaded, runtime = start(settings)
    sections = {"config": loaded.calibrate, "encoder": loaded.encoder, "runtime": runtime}
    further = {"data_sets": loaded.data_sets("calibrate"), "extra": extra or []}
    launch(stage, responses=responses, backbone=backbone, **sections, out=out, **further)


@app.command()
def align_space(
    latents: Files, out: Out, responses: list[Path], backbone: Source = "miniature", settings: Settings = None
) -> None:
    """Make the space of components that all subjects share; needed for align. Latents: of these subjects, in any order.

    Example: neuropictor align-space --latents results/latents/sub-01.h5 --latents results/latents/sub-02.h5
    --out results/align/space.safetensors data/prepared/sub-01/responses.h5 data/prepared/sub-02/responses.h5
    """
    from neuropictor.data.alignment import make_space
    from neuropictor.models.population import SPACE, population_file

    loaded, _ = start(settings)
    population = population_file(backbone, SPACE) if loaded.pretrain.init == "population" else None
    make_space(latents=latents, responses=responses, population=population, config=loaded.align, out=out)


@app.command()
def align(responses: File, latents: File, space: File, out: Out, settings: Settings = None) -> None:
    """Predict one subject's components, linearly, from its responses.

    Example: neuropictor align --responses data/prepared/sub-01/responses.h5 --latents results/latents/sub-01.h5
    --space results/align/space.safetensors --out results/align/sub-01/components.h5
    """
    from neuropictor.data.alignment import align_subject

    loaded, _ = start(settings)
    align_subject(responses=responses, latents=latents, space=space, config=loaded.align, out=out)


@app.command()
def adapt(
    responses: File,
    space: File,
    others: Annotated[
        list[Path], typer.Option(exists=True, dir_okay=False, help="files of align, of other people; may be repeated")
    ],
    out: Out,
    pairs: Annotated[int, typer.Option(min=0, help="training images to learn from, at random; 0: none")] = 0,
    latents: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="latents of the person's images, unless --pairs 0")
    ] = None,
    settings: Settings = None,
) -> None:
    """Predict the components of a new person, on whom nothing was trained, from few image-response pairs or none.

    Images are then sampled with networks as they are; no network is trained. docs/new_person.md tells how well.

    Example: neuropictor adapt --responses data/prepared/sub-MM01/responses.h5 --latents results/latents/sub-MM01.h5
    --space results/align/space.safetensors --others results/align/sub-01/components.h5
    --others results/align/sub-02/components.h5 --pairs 50 --out results/adapt/sub-MM01/components.h5
    """
    from neuropictor.data.adapt import adapt_subject

    loaded, _ = start(settings)
    adapt_subject(
        responses=responses,
        space=space,
        others=others,
        pairs=pairs,
        config=loaded.align,
        out=out,
        latents=latents,
    )


@app.command()
def pretrain(
    latents: Files,
    autoencoder: File,
    out: Out,
    responses: list[Path],
    components: Components = None,
    backbone: Source = "miniature",
    settings: Settings = None,
) -> None:
    """Train all networks on many subjects (stage 2). Components: one file for each of responses, in their order.

    Example: neuropictor pretrain --latents results/latents/sub-01.h5
    --autoencoder results/calibrate/autoencoder.safetensors --out results/pretrain
    --components results/align/sub-01/components.h5
    data/prepared/sub-01/responses.h5
    """
    from neuropictor.training.reconstruct import pretrain as stage
    from neuropictor.workflow.launch import launch

    loaded, runtime = start(settings)
    files = {"responses": responses, "latents": latents, "autoencoder": autoencoder}
    sections = {"config": loaded.pretrain, "runtime": runtime, "aligned_tokens": loaded.align.tokens}
    options = {"components": components or None, "target": loaded.target_folder()}
    options["data_sets"] = loaded.data_sets("pretrain")
    launch(stage, **files, backbone=backbone, **sections, out=out, **options)


@app.command()
def refine(
    responses: File,
    latents: File,
    pretrained: Pipeline,
    out: Out,
    components: Component = None,
    backbone: Source = "miniature",
    settings: Settings = None,
) -> None:
    """Train all networks on one subject (stage 3).

    Example: neuropictor refine --responses data/prepared/sub-01/responses.h5 --latents results/latents/sub-01.h5
    --components results/align/sub-01/components.h5 --pretrained results/pretrain --out results/refine/sub-01
    """
    from neuropictor.training.reconstruct import refine as stage
    from neuropictor.workflow.launch import launch

    loaded, runtime = start(settings)
    files = {"responses": responses, "latents": latents, "pretrained": pretrained}
    options = {"components": components, "target": loaded.target_folder()}
    launch(stage, **files, backbone=backbone, config=loaded.refine, runtime=runtime, out=out, **options)


@app.command()
def sample(
    pipeline: Pipeline,
    responses: File,
    out: Out,
    components: Component = None,
    model: Annotated[str, typer.Option(help="name that the images get in tables")] = "refined",
    backbone: Annotated[str | None, typer.Option(help="where the backbone lies now, if it was moved")] = None,
    settings: Settings = None,
) -> None:
    """Reconstruct one subject's test images.

    Example: neuropictor sample --pipeline results/refine/sub-01
    --responses data/prepared/sub-01/responses.h5 --components results/align/sub-01/components.h5
    --out results/sample/sub-01/refined.h5
    """
    from neuropictor.sampling import sample_subject
    from neuropictor.workflow.launch import launch

    loaded, runtime = start(settings)
    files = {"pipeline": pipeline, "responses": responses}
    sections = {"config": loaded.sample, "runtime": runtime}
    launch(sample_subject, **files, backbone=backbone, **sections, model=model, out=out, components=components)


@app.command()
def import_official(
    checkpoint: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help=".pth or .ckpt of the official code")],
    out: Out,
    heads: Annotated[int, typer.Option(min=1, help="attention heads of the fMRI encoder, and of its decoder")] = 16,
    head_width: Annotated[int, typer.Option(min=1, help="width of a head in UNet, ControlNet and text tower")] = 64,
    latent_size: Annotated[int, typer.Option(min=1, help="side of the latents, if no hint mapper tells it")] = 64,
    backbone: Annotated[str | None, typer.Option(help="backbone to name instead of writing its UNet and VAE")] = None,
) -> None:
    """Turn a checkpoint of the official code into a folder: a pipeline, a backbone, or an autoencoder.

    Example: neuropictor import-official finetune_single_sub/sub01/epoch_015.pth --out official/sub-01
    """
    from neuropictor.official.checkpoint import import_official as stage
    from neuropictor.official.parts import Options

    options = Options(heads=heads, head_width=head_width, latent_size=latent_size)
    stage(checkpoint=checkpoint, out=out, options=options, backbone=backbone)


@app.command()
def config(
    settings: Settings = None,
    write: Annotated[bool, typer.Option("--write", help="write the schema and docs/config.md, in a checkout")] = False,
) -> None:
    """Check a settings file.

    Example: neuropictor config --settings my.yaml
    """
    start(settings)
    if write:
        package = Path(neuropictor.__file__).parent
        (package / "config.schema.json").write_text(config_text.schema(Config), encoding="utf-8")
        (package.parent / "docs" / "config.md").write_text(config_text.reference(Config), encoding="utf-8")
    typer.echo("The settings are valid." if settings else "The default settings are valid.")
