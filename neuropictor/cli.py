"""Stages one by one, for those who do not want the workflow: `neuropictor --help`.

Each command calls one library function with the files that it is given; settings come from a YAML file laid over the
defaults.
"""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from neuropictor import config as configuration
from neuropictor import config_text
from neuropictor.config import Config, RuntimeConfig
from neuropictor.runlog import start_log

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

File = Annotated[Path, typer.Option(exists=True, dir_okay=False, help="file of this name, made by a stage or given")]
Folder = Annotated[Path, typer.Option(exists=True, file_okay=False, help="folder in NSD's layout, real or simulated")]
Out = Annotated[Path, typer.Option(help="what is written; replaced if it exists")]
Subject = Annotated[int, typer.Option(min=1, max=8, help="NSD's subject number")]
Settings = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="YAML laid over the defaults")]
Component = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="file of align, unless tokens: 0")]
Components = Annotated[list[Path] | None, typer.Option(exists=True, dir_okay=False, help="files of align")]
Source = Annotated[str, typer.Option(help="miniature, or a folder in the layout of diffusers' Stable Diffusion")]


class Kind(StrEnum):
    """Kinds of files to fetch."""

    DESIGN = "design"
    PICTURES = "pictures"
    ANNOTATIONS = "annotations"
    BEHAVIOUR = "behaviour"
    NCSNR = "ncsnr"
    BETAS = "betas"


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
def fetch(
    nsd: Annotated[Path, typer.Option(file_okay=False, help="folder in NSD's layout; made if needed")],
    kind: Annotated[list[Kind] | None, typer.Argument(help="kinds of files; default: all", show_default=False)] = None,
    subject: Annotated[list[int] | None, typer.Option(min=1, max=8, help="NSD's subject numbers")] = None,
    session: Annotated[list[int] | None, typer.Option(min=1, max=40, help="default: all of the subject")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="only compare what was fetched with the manifest")] = False,
    settings: Settings = None,
) -> None:
    """Fetch NSD's files, once its terms are accepted (settings: nsd: {terms_accepted: true}), or check them again.

    Goes on from where it was interrupted. Pictures are 39.6 GB, betas 0.98 GB a session.

    Example: neuropictor fetch --nsd data/real/nsd --settings my.yaml --subject 1 --session 1 --session 2 betas
    """
    from neuropictor.nsd import fetch as stage
    from neuropictor.nsd.agreement import check_terms

    loaded, _ = _start(settings)
    try:
        if verify:
            _verify(nsd)
            return
        check_terms(loaded.nsd.terms_accepted)
        kinds, found = set(kind or Kind), loaded.nsd
        wanted = stage.keys_of(kinds, subject or [], session, found.beta_version)
        if kinds & {Kind.BEHAVIOUR, Kind.NCSNR, Kind.BETAS} and not subject:
            raise ValueError("no subject given; behaviour, ncsnr and betas are a subject's, e.g. --subject 1")
        if wanted:
            stage.fetch(wanted, nsd, found)
        if Kind.ANNOTATIONS in kinds:
            stage.fetch_annotations(nsd, found)
    except (stage.FetchError, OSError, ValueError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _verify(nsd: Path) -> None:
    """Say what of the manifest is as it was fetched; fail if anything is not."""
    from neuropictor.nsd import manifest

    found = manifest.verify(nsd)
    for problem in found.wrong:
        typer.echo(problem, err=True)
    typer.echo(
        f"{len(found.right)} files are as they were fetched, {len(found.wrong)} are not, {len(found.gone)} are gone"
        " (the workflow removes betas once preprocessed, unless nsd.keep_raw)."
    )
    if found.wrong:
        raise typer.Exit(1)


@app.command()
def preprocess_stimuli(nsd: Folder, out: Out, subject: list[int], settings: Settings = None) -> None:
    """Collect the pictures that subjects saw, with captions.

    Example: neuropictor preprocess-stimuli --nsd data/nsd --out data/prepared/stimuli.h5 1 2 5
    """
    from neuropictor.data.preprocess import preprocess_stimuli as stage

    loaded, _ = _start(settings)
    stage(nsd_root=nsd, subjects=subject, config=loaded.preprocess, nsd=loaded.nsd, out=out)


@app.command()
def preprocess_session(
    nsd: Folder, out: Out, subject: Subject, session: Annotated[int, typer.Option(min=1)], settings: Settings = None
) -> None:
    """Keep what visual cortex needs of one session's betas, which may then be removed.

    Example: neuropictor preprocess-session --nsd data/nsd --subject 1 --session 3 --out sub-01/session-03.h5
    """
    from neuropictor.data.sessions import preprocess_session as stage

    loaded, _ = _start(settings)
    stage(nsd_root=nsd, subject=subject, session=session, beta_version=loaded.nsd.beta_version, out=out)


@app.command()
def preprocess_subject(
    nsd: Folder,
    out: Out,
    subject: Subject,
    kept: Annotated[
        list[Path] | None, typer.Argument(exists=True, help="files of preprocess-session, in order")
    ] = None,
    settings: Settings = None,
) -> None:
    """Turn one subject's betas into z-scored responses of visual cortex.

    Example: neuropictor preprocess-subject --nsd data/nsd --subject 1 --out data/prepared/sub-01/responses.h5
    """
    from neuropictor.data.preprocess import preprocess_subject as stage

    loaded, _ = _start(settings)
    stage(
        nsd_root=nsd,
        subject=subject,
        config=loaded.preprocess,
        nsd=loaded.nsd,
        out=out,
        kept=dict(enumerate(kept, start=1)) if kept else None,
    )


@app.command()
def import_maps(
    maps: File, mask: File, test_pictures: File, out: Out, subject: Subject, settings: Settings = None
) -> None:
    """Make responses from the preprocessed files of NeuroPictor's authors.

    Example: neuropictor import-maps --maps 01_norm.h5 --mask vc_roi.npz
    --test-pictures sub1257_shared_triallabel.npy --subject 1 --out data/prepared/sub-01/responses.h5
    """
    from neuropictor.data.official_maps import import_maps as stage

    loaded, _ = _start(settings)
    files = {"maps": maps, "mask": mask, "test_pictures": test_pictures}
    stage(**files, subject=subject, config=loaded.preprocess, out=out)


@app.command()
def import_betas(table: File, out: Out, subject: Subject, settings: Settings = None) -> None:
    """Make responses from betas of your own; docs/own_data.md describes the files.

    Example: neuropictor import-betas --table scans/trials.csv --subject 1 --out data/prepared/sub-01/responses.h5
    """
    from neuropictor.data.own_data import import_betas as stage

    loaded, _ = _start(settings)
    stage(table=table, subject=subject, config=loaded.preprocess, out=out)


@app.command()
def import_pictures(table: File, out: Out, settings: Settings = None) -> None:
    """Collect pictures and captions of your own; docs/own_data.md describes the table.

    Example: neuropictor import-pictures --table scans/pictures.csv --out data/prepared/stimuli.h5
    """
    from neuropictor.data.own_data import import_pictures as stage

    loaded, _ = _start(settings)
    stage(table=table, config=loaded.preprocess, out=out)


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
def train_population(out: Out, backbone: Source, settings: Settings = None) -> None:
    """Train start weights of encoder and networks on simulated people who are no subjects.

    Example: neuropictor train-population --backbone results/backbone --out results/backbone/population
    """
    from neuropictor.training.population import train_population as stage

    loaded, runtime = _start(settings)
    sections = {name: getattr(loaded, name) for name in ("simulate", "encoder", "align")}
    chosen = {"training": loaded.backbone.training, "config": loaded.backbone.population}
    stage(backbone=backbone, **chosen, **sections, runtime=runtime, out=out)


@app.command()
def model_card(backbone: Source, settings: Settings = None) -> None:
    """Measure a miniature backbone on held-out scenes and write README.md into its folder.

    Example: neuropictor model-card --backbone results/backbone
    """
    from neuropictor.training.model_card import write_card as stage

    loaded, runtime = _start(settings)
    stage(folder=Path(backbone), config=loaded.backbone, runtime=runtime)


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
def align_space(
    latents: File, out: Out, responses: list[Path], backbone: Source = "miniature", settings: Settings = None
) -> None:
    """Make the space of components that all subjects share; needed for align.

    Example: neuropictor align-space --latents results/latents.h5 --out results/align/space.safetensors
    data/prepared/sub-*/responses.h5
    """
    from neuropictor.data.alignment import make_space
    from neuropictor.models.population import SPACE, population_file

    loaded, _ = _start(settings)
    population = population_file(backbone, SPACE) if loaded.pretrain.init == "population" else None
    make_space(latents=latents, responses=responses, population=population, config=loaded.align, out=out)


@app.command()
def align(responses: File, latents: File, space: File, out: Out, settings: Settings = None) -> None:
    """Predict one subject's components, linearly, from its responses.

    Example: neuropictor align --responses data/prepared/sub-01/responses.h5 --latents results/latents.h5
    --space results/align/space.safetensors --out results/align/sub-01/components.h5
    """
    from neuropictor.data.alignment import align_subject

    loaded, _ = _start(settings)
    align_subject(responses=responses, latents=latents, space=space, config=loaded.align, out=out)


@app.command()
def pretrain(
    latents: File,
    autoencoder: File,
    out: Out,
    responses: list[Path],
    components: Components = None,
    backbone: Source = "miniature",
    settings: Settings = None,
) -> None:
    """Train all networks on many subjects (stage 2). Components: one file for each of responses, in their order.

    Example: neuropictor pretrain --latents results/latents.h5 --autoencoder results/calibrate/autoencoder.safetensors
    --out results/pretrain/networks.safetensors --components results/align/sub-01/components.h5
    data/prepared/sub-01/responses.h5
    """
    from neuropictor.training.reconstruct import pretrain as stage

    loaded, runtime = _start(settings)
    files = {"responses": responses, "latents": latents, "autoencoder": autoencoder}
    sections = {"config": loaded.pretrain, "runtime": runtime, "aligned_tokens": loaded.align.tokens}
    stage(**files, backbone=backbone, **sections, out=out, components=components or None)


@app.command()
def refine(
    responses: File,
    latents: File,
    networks: File,
    out: Out,
    components: Component = None,
    backbone: Source = "miniature",
    settings: Settings = None,
) -> None:
    """Train all networks on one subject (stage 3).

    Example: neuropictor refine --responses data/prepared/sub-01/responses.h5 --latents results/latents.h5
    --components results/align/sub-01/components.h5 --networks results/pretrain/networks.safetensors
    --out results/refine/sub-01/networks.safetensors
    """
    from neuropictor.training.reconstruct import refine as stage

    loaded, runtime = _start(settings)
    files = {"responses": responses, "latents": latents, "networks": networks}
    stage(**files, backbone=backbone, config=loaded.refine, runtime=runtime, out=out, components=components)


@app.command()
def sample(
    networks: File,
    responses: File,
    out: Out,
    components: Component = None,
    model: Annotated[str, typer.Option(help="name that the pictures get in tables")] = "refined",
    backbone: Source = "miniature",
    settings: Settings = None,
) -> None:
    """Reconstruct one subject's test pictures.

    Example: neuropictor sample --networks results/refine/sub-01/networks.safetensors
    --responses data/prepared/sub-01/responses.h5 --components results/align/sub-01/components.h5
    --out results/sample/sub-01/refined.h5
    """
    from neuropictor.sampling import sample_subject

    loaded, runtime = _start(settings)
    files = {"networks": networks, "responses": responses}
    sections = {"config": loaded.sample, "runtime": runtime}
    sample_subject(**files, backbone=backbone, **sections, model=model, out=out, components=components)


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
