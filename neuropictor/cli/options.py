"""Shared by all commands: the application, types of options, and the start."""

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from neuropictor import config as configuration
from neuropictor.config import Config, RuntimeConfig
from neuropictor.config.types import SUBJECT, subject_label
from neuropictor.records.log import start_log


def _label(subject: str) -> str:
    label = str(subject_label(subject))
    if not re.fullmatch(SUBJECT, label):
        raise typer.BadParameter(f"{subject!r} is no label; allowed: letters and digits, e.g. MM01")
    return label


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

File = Annotated[Path, typer.Option(exists=True, dir_okay=False, help="file of this name, made by a stage or given")]
Files = Annotated[list[Path], typer.Option(exists=True, dir_okay=False, help="files of this name; may be repeated")]
Folder = Annotated[Path, typer.Option(exists=True, file_okay=False, help="folder in NSD's layout, real or simulated")]
Pipeline = Annotated[
    Path, typer.Option(exists=True, file_okay=False, help="folder of a pipeline, as pretrain and refine write it")
]
Out = Annotated[Path, typer.Option(help="what is written; replaced if it exists")]
NsdSubject = Annotated[int, typer.Option(min=1, max=8, help="NSD's subject number")]
Subject = Annotated[
    str,
    typer.Option(help="label of the subject, of letters and digits, e.g. MM01; 1 is 01", callback=_label),
]
Settings = Annotated[
    list[Path] | None,
    typer.Option(exists=True, dir_okay=False, help="YAML laid over the defaults; may be repeated, later over earlier"),
]
Component = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="file of align, unless tokens: 0")]
Components = Annotated[list[Path] | None, typer.Option(exists=True, dir_okay=False, help="files of align")]
Source = Annotated[str, typer.Option(help="miniature, or a folder in the layout of diffusers' Stable Diffusion")]


@app.callback()
def begin(
    debug: Annotated[bool, typer.Option("--debug", help="show where in the code an error arose")] = False,
) -> None:
    """Run the stages one by one, for those who do not want the workflow."""
    start_log(debug=debug)  # before a command imports libraries, some of which read their verbosity on import


def start(settings: list[Path] | None) -> tuple[Config, RuntimeConfig]:
    """Read the settings, and fit the threads to this machine."""
    try:
        loaded = configuration.read(*settings or [])
    except configuration.ConfigError as error:
        raise typer.BadParameter(str(error), param_hint="--settings") from None
    threads = min(loaded.runtime.threads, os.cpu_count() or 1)
    return loaded, RuntimeConfig(**{**loaded.runtime.model_dump(), "threads": threads})
