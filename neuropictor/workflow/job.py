"""Run a stage as a job of the workflow: a script imports `run`, then the stage's function, and runs it.

    from neuropictor.workflow.job import run
    from neuropictor.data.alignment import align_subject

    run(align_subject)

The function's parameters are filled by name, and converted as they are annotated. A rule that has an output ``run`` has
a function that writes its own record; for all others the record is written here, beside the log.

Importing this starts the job's log before all libraries, to catch their warnings. Garbage is not collected until the
stage begins, and then without the objects of imports: most of them stay, and checking them took 1.2 s of a job's
start and 0.3 s of a training's end.
"""

import gc
import inspect
import logging
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel

from neuropictor import config as sections
from neuropictor.records import record as records
from neuropictor.records.files import FOLDER
from neuropictor.records.log import start_log

log = logging.getLogger(__name__)

#: Variable of the environment that makes a job log the call of its stage.
SHOW_CALL = "NEUROPICTOR_SHOW_CALL"

#: Snakemake's description of the job, which it puts before the script; None outside a job.
_job: Any = getattr(sys.modules["__main__"], "snakemake", None)
if _job is not None:
    gc.disable()
    start_log(_job.log[0])
    records.JOB = records.job_name(_job.rule, _job.log[0])


def run(stage: Callable[..., None], processes: bool = False) -> None:
    """Call the function of a stage with this job's files and settings.

    Parameters
    ----------
    stage
        Function whose parameters have the names of the rule's params, outputs, inputs or wildcards, or ``threads``.
    processes
        Whether to call it in as many processes as ``runtime.processes`` says.
    """
    gc.freeze()
    gc.enable()
    arguments = fill(stage, _job)
    if SHOW_CALL in os.environ:
        shown = (f"\n    {name}={value!r}," for name, value in arguments.items())
        log.info("%s.%s(%s\n)", stage.__module__, stage.__qualname__, "".join(shown))
    if "run" not in _job.output.keys():  # noqa: SIM118 (Snakemake's list of files has keys, and contains files)
        with records.job_record(_job.rule, _job.log[0], _job.params.items(), _job.input, _job.output):
            stage(**arguments)
    elif processes:
        from neuropictor.workflow.launch import launch

        launch(stage, **arguments)
    else:
        stage(**arguments)


def fill(stage: Callable[..., None], job: Any) -> dict[str, Any]:
    """Return the arguments of a stage, from Snakemake's description of a job.

    Parameters
    ----------
    stage
        Function with annotated parameters.
    job
        Has params, output, input and wildcards, each with names (looked up in this order), and threads.

    Raises
    ------
    TypeError
        If the rule gives nothing for a parameter without a default.
    """
    places = [dict(place.items()) for place in (job.params, job.output, job.input, job.wildcards)]
    known = {"threads": job.threads}
    for place in reversed(places):
        known |= place
    # Sections are imported by the stages for type checkers only.
    hints = typing.get_type_hints(stage, localns=vars(sections), include_extras=True)
    arguments = {}
    for name, parameter in inspect.signature(stage).parameters.items():
        if name in known:
            arguments[name] = convert(known[name], hints[name])
        elif parameter.default is parameter.empty:
            raise TypeError(
                f"rule {job.rule} gives nothing for the parameter {name} of {stage.__qualname__}; needed: a param,"
                f" output, input or wildcard of this name, for example params: {name}=..."
            )
    return arguments


def convert(value: Any, kind: Any) -> Any:
    """Convert a value from Snakemake into the type of an annotation.

    Sections of the configuration are made from mappings, paths from names, and lists from one name or several. Files
    are sorted by their path: ``dict[Subject, Path]`` by the subject of their folder, ``dict[str, Path]`` by their own
    name, ``dict[Subject, dict[str, Path]]`` by both; `Folder` is the folder of a file. No files are None where that is
    allowed.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        empty = isinstance(value, Sized) and len(value) == 0
        if value is None or (empty and type(None) in arguments):
            return None
        kinds = [item for item in arguments if item is not type(None)]
        return convert(value, str if str in kinds else kinds[0])
    if origin is Annotated:
        path = convert(value, arguments[0])
        return path.parent if FOLDER in arguments else path
    if origin in (dict, Mapping):
        if isinstance(value, Mapping):
            return value
        files = [Path(file) for file in _several(value)]
        if arguments[0] is str:
            return {file.stem: file for file in files}
        subjects = {file: file.parent.name.removeprefix("sub-") for file in files}
        if arguments[1] is Path:
            return {subject: file for file, subject in subjects.items()}
        by_subject: dict[str, dict[str, Path]] = {subject: {} for subject in subjects.values()}
        for file, subject in subjects.items():
            by_subject[subject][file.stem] = file
        return by_subject
    if origin in (list, Sequence):
        return [convert(item, arguments[0]) for item in _several(value)]
    if inspect.isclass(kind) and issubclass(kind, BaseModel):
        return kind(**value)
    if kind in (Path, int, str):
        (value,) = _several(value)  # Snakemake passes a list of one file unchanged
        return kind(value)
    return value


def _several(value: Any) -> list[Any]:
    return [value] if isinstance(value, str | int | Path) else list(value)
