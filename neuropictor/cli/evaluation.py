"""Commands that score reconstructions and show scores; registered with the application of `neuropictor.cli.app`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from neuropictor.cli.options import File, Files, Out, Settings, Source, app, start


class ProtocolName(StrEnum):
    """Definitions of the scores."""

    OURS = "ours"
    NEUROPICTOR = "neuropictor"
    MINDEYE2 = "mindeye2"
    IMAGERY = "nsd-imagery"
    SYNTHETIC = "nsd-synthetic"


Weights = Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="folder of fetch-weights")]


@app.command()
def fetch_weights(out: Out = Path("data/weights"), settings: Settings = None) -> None:
    """Fetch the networks that published evaluations judge by (AlexNet, CLIP ViT-L/14 and others; 2.2 GB).

    Goes on from where it was interrupted; every file is compared with its checksum. Afterwards no network is needed.

    Example: neuropictor fetch-weights --out data/weights
    """
    from neuropictor.evaluation.networks import WEIGHT_FILES
    from neuropictor.fetching.weights import fetch_weights as stage

    loaded, _ = start(settings)
    stage(files=WEIGHT_FILES, config=loaded.weights, out=out)


@app.command()
def evaluate(
    reconstructions: Annotated[
        list[Path], typer.Option(exists=True, file_okay=False, help="folder of reconstructions; several are compared")
    ],
    images: Annotated[Path, typer.Option(exists=True, file_okay=False, help="folder of the seen images")],
    protocol: Annotated[
        list[ProtocolName] | None,
        typer.Option(help="beside ours (docs/metrics.md); nsd-imagery and nsd-synthetic also score each set or class"),
    ] = None,
    weights: Weights = None,
    classes: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="for nsd-synthetic: NSD's nsdsyntheticimageinformation.csv"),
    ] = None,
    out: Out = Path("scores"),
    settings: Settings = None,
) -> None:
    """Score anybody's reconstructions: folders of images, paired with the seen ones by name.

    The reconstruction of dog.png is dog with any suffix; several samples are dog_0, dog_1 and so on. Writes tables as
    CSV and JSON, and a page. Without --weights the miniature judges, which nothing published can be compared with.

    Images of NSD-Imagery are named after their cues (H.png), those of NSD-synthetic as NSD names them
    (docs/generalise.md).

    Example: neuropictor evaluate --images seen --reconstructions mine --protocol neuropictor --weights data/weights
    --out scores
    """
    from neuropictor.evaluation.folders import evaluate_folders, imagery_sets, synthetic_classes
    from neuropictor.report.scores import folder_page

    loaded, runtime = start(settings)
    asked = dict.fromkeys(protocol or [])
    published = [name.value for name in asked if name in (ProtocolName.NEUROPICTOR, ProtocolName.MINDEYE2)]
    chosen = loaded.evaluate.model_copy(update={"protocols": ["ours", *published]})
    groups: dict[str, list[str]] = {}
    if ProtocolName.IMAGERY in asked:
        groups = imagery_sets(images)
    if ProtocolName.SYNTHETIC in asked:
        if classes is None:
            raise typer.BadParameter(
                "protocol nsd-synthetic scores by class, and no classes are given; allowed: NSD's table, e.g."
                " --classes data/nsd/nsddata/experiments/nsdsynthetic/nsdsyntheticimageinformation.csv"
            )
        groups |= synthetic_classes(images, classes)
    table = evaluate_folders(reconstructions, images, chosen, runtime, out, weights, groups)
    for folder in (out, *(out / group for group in groups)):
        folder_page(folder, folder / "index.html")
    typer.echo(table)
    typer.echo(f"Page: {out / 'index.html'}")


@app.command()
def evaluate_samples(
    stimuli: Files,
    out: Out,
    samples: list[Path],
    backbone: Source = "miniature",
    weights: Weights = None,
    settings: Settings = None,
) -> None:
    """Score the workflow's reconstructions; the folder of each file names the subject (sub-01), its name the model.

    Example: neuropictor evaluate-samples --stimuli data/prepared/sub-01/stimuli.h5 --out results/metrics.csv
    results/sample/sub-01/*.h5
    """
    from neuropictor.evaluation.evaluate import evaluate as stage

    loaded, runtime = start(settings)
    sections = {"config": loaded.evaluate, "runtime": runtime}
    stage(samples=_by_subject(samples), stimuli=stimuli, backbone=backbone, **sections, out=out, weights=weights)


def _by_subject(samples: list[Path]) -> dict[str, dict[str, Path]]:
    from neuropictor.data.reconstructions import by_subject

    try:
        return by_subject(samples)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command()
def gallery(
    stimuli: Files,
    samples: list[Path],
    scores: Annotated[list[Path], typer.Option(exists=True, help="scores.csv, and tables of its form")],
    controls: Annotated[
        list[Path] | None, typer.Option(exists=True, file_okay=False, help="folder of stage control; may be repeated")
    ] = None,
    out: Out = Path("results/gallery.html"),
) -> None:
    """Make one page to browse all test images and their reconstructions, which needs no server and no network.

    Folders of controls are named after their subject, like those of the reconstructions.

    Example: neuropictor gallery --stimuli data/prepared/sub-01/stimuli.h5 --scores results/scores.csv
    --controls results/controls/sub-01 results/sample/sub-01/*.h5
    """
    from neuropictor.report.gallery import gallery as stage

    for folder in controls or []:
        if not any(folder.glob("*.h5")):
            allowed = "allowed: a folder of files of stage control, e.g. results/controls/sub-01"
            raise typer.BadParameter(f"no .h5 file in {folder}; {allowed}", param_hint="--controls")
    drawn = _by_subject([path for folder in controls or [] for path in sorted(folder.glob("*.h5"))])
    stage(samples=_by_subject(samples), stimuli=stimuli, scores=scores, out=out, controls=drawn)


@app.command()
def readme(metrics: File, out: Out = Path("README.md")) -> None:
    """Put the scores of a run into a Markdown file, between its lines metrics:begin and metrics:end.

    Example: neuropictor readme --metrics results/metrics.csv
    """
    from neuropictor.evaluation.tables import fill_readme

    fill_readme(metrics, out)
