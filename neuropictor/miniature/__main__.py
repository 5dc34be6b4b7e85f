"""The miniature's workshop: `python -m neuropictor.miniature train`, then `population`, then `card`, hours in all."""

import os
from pathlib import Path
from typing import Annotated

import typer

from neuropictor.config import ConfigError
from neuropictor.miniature.settings import MiniatureSettings, read
from neuropictor.records.log import start_log

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

Folder = Annotated[Path, typer.Option(help="folder of the backbone; what is finished in it is not made again")]
Made = Annotated[Path, typer.Option(exists=True, file_okay=False, help="folder that train has written")]
Start = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="folder of weights, of some or all parts, to go on with"),
]
SettingsFile = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="YAML laid over neuropictor/miniature/settings.yaml")
]


@app.callback()
def begin() -> None:
    """Make a miniature backbone, as the one that comes with the project; name its folder in backbone.source."""
    start_log()  # before a command imports libraries, some of which read their verbosity on import


def _read(path: Path | None) -> MiniatureSettings:
    """Read the settings, and fit the threads to this machine."""
    try:
        settings = read(*[path] if path else [])
    except ConfigError as error:
        raise typer.BadParameter(str(error), param_hint="--settings") from None
    threads = min(settings.runtime.threads, os.cpu_count() or 1)
    return settings.model_copy(update={"runtime": settings.runtime.model_copy(update={"threads": threads})})


@app.command()
def train(out: Folder, settings: SettingsFile = None, resume_from: Start = None) -> None:
    """Train towers, VAE and UNet on rendered scenes.

    Example: python -m neuropictor.miniature train --out backbones/mine
    """
    from neuropictor.miniature.backbone import train_backbone

    loaded = _read(settings)
    train_backbone(config=loaded.backbone, runtime=loaded.runtime, out=out, start=resume_from)


@app.command()
def population(backbone: Made, settings: SettingsFile = None) -> None:
    """Train start weights of encoder and networks on simulated people who are no subjects, into population/.

    Example: python -m neuropictor.miniature population --backbone backbones/mine
    """
    from neuropictor.miniature.population import train_population

    train_population(backbone=backbone, settings=_read(settings), out=backbone / "population")


@app.command()
def card(backbone: Made, settings: SettingsFile = None) -> None:
    """Measure the backbone on held-out scenes, print the measures, and write README.md into its folder.

    Example: python -m neuropictor.miniature card --backbone backbones/mine
    """
    from neuropictor.miniature.card import write_card

    typer.echo(write_card(folder=backbone, settings=_read(settings)))


if __name__ == "__main__":
    app(prog_name="python -m neuropictor.miniature")
