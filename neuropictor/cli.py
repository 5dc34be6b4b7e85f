"""Stages one by one, for those who do not want the workflow: `neuropictor --help`.

Each command calls one library function with the files that it is given; settings come from a YAML file laid over the
defaults.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from neuropictor import config as configuration
from neuropictor import config_text
from neuropictor.config import Config, RuntimeConfig
from neuropictor.runlog import start_log

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

File = Annotated[Path, typer.Option(exists=True, dir_okay=False, help="file made by the stage of this name")]
Folder = Annotated[Path, typer.Option(exists=True, file_okay=False, help="folder in NSD's layout, real or simulated")]
Out = Annotated[Path, typer.Option(help="what is written; replaced if it exists")]
Subject = Annotated[int, typer.Option(min=1, max=8, help="NSD's subject number")]
Settings = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="YAML laid over the defaults")]
Source = Annotated[str, typer.Option(help="miniature, or a folder in the layout of diffusers' Stable Diffusion")]


def _start(settings: Path | None) -> tuple[Config, RuntimeConfig]:
    """Start the log, read the settings, and fit the threads to this machine."""
    start_log()
    try:
        loaded = configuration.read(settings) if settings else Config()
    except configuration.ConfigError as error:
        raise typer.BadParameter(str(error), param_hint="--settings") from None
    threads = min(loaded.runtime.threads, os.cpu_count() or 1)
    return loaded, RuntimeConfig(**{**loaded.runtime.model_dump(), "threads": threads})


@app.command()
def simulate(out: Out, subject: list[int], settings: Settings = None) -> None:
    """Write a simulated NSD.

    Example: neuropictor simulate --out data/nsd 1 2 5
    """
    from neuropictor.simulation.nsd_writer import write_pictures, write_subject

    loaded, runtime = _start(settings)
    write_pictures(root=out, subjects=subject, config=loaded.simulate, threads=max(1, runtime.threads))
    for number in subject:
        write_subject(root=out, subject=number, config=loaded.simulate)


@app.command()
def preprocess_stimuli(nsd: Folder, out: Out, subject: list[int], settings: Settings = None) -> None:
    """Collect the pictures that subjects saw, with captions.

    Example: neuropictor preprocess-stimuli --nsd data/nsd --out data/prepared/stimuli.h5 1 2 5
    """
    from neuropictor.data.preprocess import preprocess_stimuli as stage

    loaded, _ = _start(settings)
    stage(nsd_root=nsd, subjects=subject, config=loaded.preprocess, out=out)


@app.command()
def preprocess_subject(nsd: Folder, out: Out, subject: Subject, settings: Settings = None) -> None:
    """Turn one subject's betas into z-scored responses of visual cortex.

    Example: neuropictor preprocess-subject --nsd data/nsd --subject 1 --out data/prepared/sub-01/responses.h5
    """
    from neuropictor.data.preprocess import preprocess_subject as stage

    loaded, _ = _start(settings)
    stage(nsd_root=nsd, subject=subject, config=loaded.preprocess, beta_version=loaded.nsd.beta_version, out=out)


@app.command()
def cache_latents(stimuli: File, out: Out, backbone: Source = "miniature", settings: Settings = None) -> None:
    """Encode pictures and captions with the backbone, once.

    Example: neuropictor cache-latents --stimuli data/prepared/stimuli.h5 --out results/latents.h5
    """
    from neuropictor.data.latents import cache_latents as stage

    _, runtime = _start(settings)
    stage(stimuli=stimuli, backbone=backbone, runtime=runtime, out=out)


@app.command()
def train_backbone(out: Out, settings: Settings = None) -> None:
    """Train a miniature backbone on rendered scenes.

    Example: neuropictor train-backbone --out results/backbone
    """
    from neuropictor.training.backbone import train_backbone as stage

    loaded, runtime = _start(settings)
    stage(config=loaded.backbone.training, runtime=runtime, out=out)


@app.command()
def calibrate(out: Out, responses: list[Path], backbone: Source = "miniature", settings: Settings = None) -> None:
    """Train the encoder as an autoencoder of responses (stage 1).

    Example: neuropictor calibrate --out results/calibrate/autoencoder.safetensors data/prepared/sub-*/responses.h5
    """
    from neuropictor.training.calibrate import calibrate as stage

    loaded, runtime = _start(settings)
    sections = {"config": loaded.calibrate, "encoder": loaded.encoder, "runtime": runtime}
    stage(responses=responses, backbone=backbone, **sections, out=out)


@app.command()
def pretrain(
    latents: File,
    autoencoder: File,
    out: Out,
    responses: list[Path],
    backbone: Source = "miniature",
    settings: Settings = None,
) -> None:
    """Train all networks on many subjects (stage 2).

    Example: neuropictor pretrain --latents results/latents.h5 --autoencoder results/calibrate/autoencoder.safetensors
    --out results/pretrain/networks.safetensors data/prepared/sub-*/responses.h5
    """
    from neuropictor.training.reconstruct import pretrain as stage

    loaded, runtime = _start(settings)
    files = {"responses": responses, "latents": latents, "autoencoder": autoencoder}
    stage(**files, backbone=backbone, config=loaded.pretrain, runtime=runtime, out=out)


@app.command()
def refine(
    responses: File, latents: File, networks: File, out: Out, backbone: Source = "miniature", settings: Settings = None
) -> None:
    """Train all networks on one subject (stage 3).

    Example: neuropictor refine --responses data/prepared/sub-01/responses.h5 --latents results/latents.h5
    --networks results/pretrain/networks.safetensors --out results/refine/sub-01/networks.safetensors
    """
    from neuropictor.training.reconstruct import refine as stage

    loaded, runtime = _start(settings)
    files = {"responses": responses, "latents": latents, "networks": networks}
    stage(**files, backbone=backbone, config=loaded.refine, runtime=runtime, out=out)


@app.command()
def sample(
    networks: File,
    responses: File,
    out: Out,
    model: Annotated[str, typer.Option(help="name that the pictures get in tables")] = "refined",
    backbone: Source = "miniature",
    settings: Settings = None,
) -> None:
    """Reconstruct one subject's test pictures.

    Example: neuropictor sample --networks results/refine/sub-01/networks.safetensors
    --responses data/prepared/sub-01/responses.h5 --out results/sample/sub-01/refined.h5
    """
    from neuropictor.sampling import sample_subject

    loaded, runtime = _start(settings)
    files = {"networks": networks, "responses": responses}
    sample_subject(**files, backbone=backbone, config=loaded.sample, runtime=runtime, model=model, out=out)


@app.command()
def evaluate(
    stimuli: File, out: Out, samples: list[Path], backbone: Source = "miniature", settings: Settings = None
) -> None:
    """Score reconstructions; the folder of each file names the subject (sub-01), its name the model.

    Example: neuropictor evaluate --stimuli data/prepared/stimuli.h5 --out results/metrics.csv results/sample/sub-*/*.h5
    """
    from neuropictor.evaluation.metrics import evaluate as stage

    loaded, runtime = _start(settings)
    found: dict[int, dict[str, Path]] = {}
    for path in samples:
        number = path.parent.name.removeprefix("sub-")
        if not number.isdigit():
            raise typer.BadParameter(f"{path} is not in a folder named after its subject, e.g. sub-01/refined.h5")
        found.setdefault(int(number), {})[path.stem] = path
    stage(samples=found, stimuli=stimuli, backbone=backbone, config=loaded.evaluate, runtime=runtime, out=out)


@app.command()
def readme(metrics: File, out: Out = Path("README.md")) -> None:
    """Put the scores of a run into a Markdown file, between its lines metrics:begin and metrics:end.

    Example: neuropictor readme --metrics results/metrics.csv
    """
    from neuropictor.evaluation.tables import fill_readme

    fill_readme(metrics, out)


@app.command()
def config(
    settings: Settings = None,
    write: Annotated[bool, typer.Option("--write", help="write the schema and docs/config.md, in a checkout")] = False,
) -> None:
    """Check a settings file.

    Example: neuropictor config --settings my.yaml
    """
    _start(settings)
    if write:
        package = Path(configuration.__file__).parent
        (package / "config.schema.json").write_text(config_text.schema(Config), encoding="utf-8")
        (package.parent / "docs" / "config.md").write_text(config_text.reference(Config), encoding="utf-8")
    typer.echo("The settings are valid." if settings else "The default settings are valid.")
