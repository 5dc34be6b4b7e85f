"""Commands that make or fetch data and prepare them; registered with the application of `neuropictor.cli.app`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from neuropictor.cli.options import File, Folder, NsdSubject, Out, Settings, Source, Subject, app, start
from neuropictor.config.types import subject_label


class Kind(StrEnum):
    """Kinds of files to fetch."""

    DESIGN = "design"
    IMAGES = "images"
    ANNOTATIONS = "annotations"
    BETAS = "betas"


@app.command()
def simulate(out: Out, subject: list[int], settings: Settings = None) -> None:
    """Write a simulated NSD.

    Example: neuropictor simulate --out data/nsd 1 2 5
    """
    from neuropictor.simulation.writer.nsd import write_images, write_own_images, write_subject

    loaded, runtime = start(settings)
    write_images(root=out, config=loaded.simulate, threads=max(1, runtime.threads))
    for number in subject:
        write_own_images(root=out, subject=number, config=loaded.simulate, threads=max(1, runtime.threads))
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

    Goes on from where it was interrupted. Images are 39.6 GB, betas 0.98 GB a session.

    Example: neuropictor fetch --nsd data/real/nsd --settings my.yaml --subject 1 --session 1 --session 2 betas
    """
    from neuropictor.fetching import nsd as stage
    from neuropictor.fetching.agreement import check_terms

    loaded, _ = start(settings)
    if verify:
        _verify(nsd)
        return
    check_terms(loaded.nsd.terms_accepted)
    kinds, section = set(kind or Kind), loaded.nsd
    required = stage.keys_of(kinds, subject or [], session, section.beta_version)
    if Kind.BETAS in kinds and not subject:
        raise ValueError("no subject given; betas are a subject's, e.g. --subject 1")
    if required:
        stage.fetch(required, nsd, section)
    if Kind.ANNOTATIONS in kinds:
        stage.fetch_annotations(nsd, section)


@app.command()
def fetch_mosaic(
    people: Annotated[list[str], typer.Argument(help="names of people's files in MOSAIC, e.g. sub-01_NOD")],
    mosaic: Annotated[Path, typer.Option(file_okay=False, help="folder in MOSAIC's layout; made if needed")],
    settings: Settings = None,
) -> None:
    """Fetch people's files of MOSAIC. Goes on from where it was interrupted.

    Example: neuropictor fetch-mosaic --mosaic data/mosaic sub-01_NOD sub-02_NOD
    """
    from neuropictor.fetching.mosaic import fetch_people as stage

    loaded, _ = start(settings)
    stage(people=people, root=mosaic, config=loaded.mosaic)


def _verify(nsd: Path) -> None:
    """Compare the manifest's files with the fetched ones; fail if any differs."""
    from neuropictor.fetching import manifest

    result = manifest.verify(nsd)
    for problem in result.wrong:
        typer.echo(problem, err=True)
    typer.echo(
        f"{len(result.right)} files are as they were fetched, {len(result.wrong)} are not, {len(result.gone)} are gone"
        " (the workflow removes betas once preprocessed, unless nsd.keep_raw)."
    )
    if result.wrong:
        raise typer.Exit(1)


@app.command()
def preprocess_stimuli(nsd: Folder, out: Out, subject: list[int], settings: Settings = None) -> None:
    """Collect the images that subjects saw, with captions.

    Example: neuropictor preprocess-stimuli --nsd data/nsd --out data/prepared/sub-01/stimuli.h5 1
    """
    from neuropictor.data.preprocess import preprocess_stimuli as stage

    loaded, _ = start(settings)
    stage(nsd_root=nsd, subjects=subject, config=loaded.preprocess, nsd=loaded.nsd, out=out)


@app.command()
def preprocess_session(
    nsd: Folder, out: Out, subject: NsdSubject, session: Annotated[int, typer.Option(min=1)], settings: Settings = None
) -> None:
    """Keep what visual cortex needs of one session's betas, which may then be removed.

    Example: neuropictor preprocess-session --nsd data/nsd --subject 1 --session 3 --out sub-01/session-03.h5
    """
    from neuropictor.data.sessions import preprocess_session as stage

    loaded, _ = start(settings)
    stage(nsd_root=nsd, subject=subject, session=session, beta_version=loaded.nsd.beta_version, out=out)


@app.command()
def preprocess_subject(
    nsd: Folder,
    out: Out,
    subject: NsdSubject,
    kept: Annotated[
        list[Path] | None, typer.Argument(exists=True, help="files of preprocess-session, in order")
    ] = None,
    settings: Settings = None,
) -> None:
    """Turn one subject's betas into z-scored responses of visual cortex.

    Example: neuropictor preprocess-subject --nsd data/nsd --subject 1 --out data/prepared/sub-01/responses.h5
    """
    from neuropictor.data.preprocess import preprocess_subject as stage

    loaded, _ = start(settings)
    stage(
        nsd_root=nsd,
        subject=subject,
        config=loaded.preprocess_of(str(subject_label(subject))),
        nsd=loaded.nsd,
        out=out,
        kept=kept,
    )


@app.command()
def import_maps(
    maps: File, mask: File, test_images: File, out: Out, subject: Subject, settings: Settings = None
) -> None:
    """Make responses from the preprocessed files of NeuroPictor's authors.

    Example: neuropictor import-maps --maps 01_norm.h5 --mask vc_roi.npz
    --test-images sub1257_shared_triallabel.npy --subject 1 --out data/prepared/sub-01/responses.h5
    """
    from neuropictor.official.maps import import_maps as stage

    loaded, _ = start(settings)
    files = {"maps": maps, "mask": mask, "test_images": test_images}
    stage(**files, subject=subject, config=loaded.preprocess, out=out)


NsdImages = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, help="NSD's table of images: images of COCO get NSD's numbers, where it has them"
    ),
]
DataSet = Annotated[str, typer.Option(help="a name, where other data sets have other images of the same names")]


@app.command()
def import_betas(
    out: Out,
    subject: Subject,
    table: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            help="table of trials (CSV or TSV), or BIDS' *_events.tsv: a folder of them, or one a --table; none where"
            " the betas name their trials",
        ),
    ] = None,
    betas: Annotated[
        Path | None, typer.Option(exists=True, help="folder or file of the betas; default: the table's folder")
    ] = None,
    kind: Annotated[
        str,
        typer.Option(help="hemispheres, brain, glmsingle, mosaic, nod, algonauts2023; default: by the files' names"),
    ] = "",
    standardised: Annotated[
        bool | None,
        typer.Option(help="responses are z-scores already, and only clipped; default: for mosaic and algonauts2023"),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="stimuli.h5 that must hold every trial's image")
    ] = None,
    image_column: Annotated[str, typer.Option(help="column of images' names or numbers, e.g. stim_file")] = "image",
    task: Annotated[
        str, typer.Option(help="of BIDS' events, the task to read, e.g. images; default: the only one")
    ] = "",
    nsd_images: NsdImages = None,
    data_set: DataSet = "",
    test_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="share of images that test, without a column split, e.g. 0.1")
    ] = None,
    test_images: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="names or numbers of the images that test, one a line"),
    ] = None,
    validation_share: Annotated[
        float, typer.Option(min=0, max=1, help="share of training images that validate, if the table names none")
    ] = 0.05,
    split_seed: Annotated[int, typer.Option(help="seed of both shares")] = 0,
    settings: Settings = None,
) -> None:
    """Make responses from betas of your own; docs/own_data.md describes the files.

    Example: neuropictor import-betas --table scans/trials.csv --subject 1 --out data/prepared/sub-01/responses.h5

    Where files name their trials:
    neuropictor import-betas --betas mosaic/sub-01_NSD.hdf5 --subject 1 --out data/prepared/sub-01/responses.h5

    Of BIDS' events:
    neuropictor import-betas --table bids/sub-01 --betas betas/sub-01 --image-column stim_file --test-share 0.1
    --subject MM01 --out data/prepared/sub-MM01/responses.h5
    """
    from neuropictor.data.own_data import import_betas as stage

    loaded, _ = start(settings)
    stage(
        table=table,
        subject=subject,
        config=loaded.preprocess,
        out=out,
        betas=betas,
        kind=kind,
        standardised=standardised,
        images=images,
        image_column=image_column,
        task=task,
        nsd_images=nsd_images,
        data_set=data_set,
        test_share=test_share,
        test_images=test_images,
        validation_share=validation_share,
        split_seed=split_seed,
    )


@app.command()
def import_frames(
    out: Out,
    series: Annotated[list[Path], typer.Argument(help="*.dtseries.nii, or folders with them")],
    settings: Settings = None,
) -> None:
    """Take frames of CIFTI time series, from which the encoder learns too; docs/encoder_data.md says more.

    Example: neuropictor import-frames --out data/prepared/frames/ukb.h5 ukb/*/*.dtseries.nii
    """
    from neuropictor.config.extra import series_files
    from neuropictor.data.time_series import import_frames as stage

    loaded, _ = start(settings)
    files = [file for entry in series for file in series_files(entry)]
    stage(files=files, frames=loaded.calibrate.extra_frames, config=loaded.preprocess, out=out)


@app.command()
def import_images(
    out: Out,
    table: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="table of images, CSV or TSV, or else --images")
    ] = None,
    images: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="folder of images, by name")] = None,
    responses: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="only images of this store's trials; default: all")
    ] = None,
    captions: Annotated[
        str,
        typer.Option(
            help="none: images may lack captions; or a model that writes missing ones, e.g. a folder of BLIP's"
        ),
    ] = "",
    nsd_images: NsdImages = None,
    data_set: DataSet = "",
    visual_angle: Annotated[
        float | None, typer.Option(min=0.01, max=180, help="degrees that the images covered when they were shown")
    ] = None,
    settings: Settings = None,
) -> None:
    """Collect images and captions of your own; docs/own_data.md describes the table.

    Example: neuropictor import-images --table scans/images.csv --out data/prepared/sub-01/stimuli.h5

    Example: neuropictor import-images --images stimuli --captions none --out data/prepared/sub-01/stimuli.h5
    """
    from neuropictor.data.own_data import import_images as stage

    loaded, runtime = start(settings)
    stage(
        table=table,
        config=loaded.preprocess,
        out=out,
        images=images,
        responses=responses,
        captions=captions,
        nsd_images=nsd_images,
        data_set=data_set,
        visual_angle=visual_angle,
        runtime=runtime,
    )


@app.command()
def compare_responses(
    first: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="responses.h5 of a person")],
    second: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="another of the same person")],
    out: Out,
) -> None:
    """Compare responses of one person that were made in two ways, as by MOSAIC and from NSD's betas, area by area.

    Correlations of mean responses over the images that both have, and of noise ceilings over vertices.

    Example: neuropictor compare-responses data/prepared/sub-01/responses.h5 data/prepared/sub-MOSAICNSD01/responses.h5
    --out comparison.csv
    """
    from neuropictor.data.response_comparison import compare_responses as stage

    typer.echo(stage(first=first, second=second, out=out).round(3).to_string(index=False))


@app.command()
def cache_latents(stimuli: File, out: Out, backbone: Source = "miniature", settings: Settings = None) -> None:
    """Encode images and captions with the backbone, once.

    Example: neuropictor cache-latents --stimuli data/prepared/sub-01/stimuli.h5 --out results/latents/sub-01.h5
    """
    from neuropictor.data.latents import cache_latents as stage

    loaded, runtime = start(settings)
    stage(stimuli=stimuli, backbone=backbone, runtime=runtime, out=out, target=loaded.target_folder())
