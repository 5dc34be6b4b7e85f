"""Commands about results and the machine that makes them; registered with the application of `neuropictor.cli.app`."""

from pathlib import Path
from typing import Annotated

import typer

from neuropictor.cli.options import Out, Settings, app, start


@app.command()
def doctor(settings: Settings = None) -> None:
    """Look whether this machine can do what the settings ask for, and say what to do where it cannot.

    Machine, versions, GPU, data, disk, weights and cluster; the exit status is 1 if there is a problem.

    Example: neuropictor doctor --settings my.yaml
    """
    from neuropictor.workflow.doctor import examine

    loaded, _ = start(settings)
    findings = examine(loaded)
    for finding in findings:
        typer.echo(str(finding))
    problems = sum(finding.verdict == "problem" for finding in findings)
    if problems:
        typer.echo(f"{problems} to be mended before the workflow is started.")
        raise typer.Exit(1)
    typer.echo("Nothing stands in the way.")


@app.command()
def runs(
    results: Annotated[Path, typer.Option(exists=True, file_okay=False, help="folder of an experiment's results")],
    out: Out,
    prepared: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="folder of prepared data")] = None,
    logs: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="folder of an experiment's logs")
    ] = None,
) -> None:
    """List all jobs so far as CSV: time, memory, GPU, seed, revision. The workflow does so itself whenever it ends.

    Example: neuropictor runs --results results --prepared data/prepared --logs logs --out results/runs.csv
    """
    from neuropictor.workflow.jobs_table import write_runs

    typer.echo(f"{write_runs(results, out, prepared, logs)} jobs")


@app.command()
def compare(
    out: Out, metrics: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="each one's metrics.csv")]
) -> None:
    """Compare experiments on one page: scores, and settings that differ.

    Example: neuropictor compare --out results/comparison.html results/metrics.csv results/experiments/*/metrics.csv
    """
    from neuropictor.report.comparison import compare as stage

    stage(metrics=metrics, out=out)
