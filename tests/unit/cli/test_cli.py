"""The commands: help with an example each, settings checked, and the right library calls."""

import inspect
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from neuropictor.cli import app as cli
from neuropictor.cli import options as cli_options

COMMANDS = sorted(
    command.name or command.callback.__name__.replace("_", "-") for command in cli.app.registered_commands
)


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(item) for item in arguments])


@pytest.fixture(autouse=True)
def _no_log(monkeypatch):
    monkeypatch.setattr(cli_options, "start_log", lambda **given: None)


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "neuropictor", "config"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "The default settings are valid.\n", "")


@pytest.mark.parametrize("debug", [False, True])
def test_mistakes_are_told_without_a_traceback_unless_asked_for(tmp_path, debug):
    (tmp_path / "trials.csv").write_text("session,trial,image\n1,0,3\n")
    given = [*["--debug"] * debug, "import-betas", "--table", "trials.csv", "--subject", "1", "--out", "out.h5"]
    command = [sys.executable, "-m", "neuropictor", *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "trials.csv" in done.stderr
    assert ("Traceback" in done.stderr) is debug
    assert debug or len(done.stderr.splitlines()) == 1


def test_help_lists_the_stages():
    shown = run("--help")
    assert shown.exit_code == 0
    for name in COMMANDS:
        assert name in shown.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_names_it(name):
    shown = run(name, "--help")
    assert shown.exit_code == 0
    assert f"Example: neuropictor {name}" in " ".join(shown.output.split())


def test_settings_are_checked_before_anything_is_loaded(tmp_path):
    settings = tmp_path / "my.yaml"
    settings.write_text("sample: {step: 3}\n")
    shown = run("config", "--settings", settings)
    assert shown.exit_code != 0
    assert "did you mean sample.steps?" in " ".join(shown.output.split())


def test_valid_settings_are_said_to_be_valid(tmp_path):
    settings = tmp_path / "my.yaml"
    settings.write_text("sample: {steps: 3}\n")
    assert "valid" in run("config", "--settings", settings).output


def test_later_settings_are_laid_over_earlier_ones(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(cli, "start", lambda settings: started.append(cli_options.start(settings)))
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    files[0].write_text("sample: {steps: 1}\nrefine: {seed: 7}\n")
    files[1].write_text("sample: {steps: 2}\n")
    assert run("config", *(part for file in files for part in ("--settings", file))).exit_code == 0
    ((settings, _),) = started
    assert (settings.sample.steps, settings.refine.seed) == (2, 7)


def test_threads_never_exceed_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(cli_options.os, "cpu_count", lambda: 2)
    assert cli_options.start(None)[1].threads == 2


def test_simulate_calls_the_library_with_the_settings(tmp_path, monkeypatch):
    from neuropictor.simulation.writer import nsd as nsd_writer

    calls = []
    monkeypatch.setattr(nsd_writer, "write_images", lambda **given: calls.append(("images", given)))
    monkeypatch.setattr(nsd_writer, "write_own_images", lambda **given: calls.append(("own images", given)))
    monkeypatch.setattr(nsd_writer, "write_subject", lambda **given: calls.append(("subject", given)))
    settings = tmp_path / "my.yaml"
    settings.write_text("simulate: {sessions: 3}\n")
    done = run("simulate", "--out", tmp_path / "nsd", "--settings", settings, 1, 5)
    assert done.exit_code == 0, done.output
    assert [name for name, _ in calls] == ["images", *["own images", "subject"] * 2]
    assert calls[4][1]["subject"] == 5
    assert calls[4][1]["config"].sessions == 3


def test_scores_need_folders_named_after_subjects(tmp_path):
    (tmp_path / "stimuli.h5").touch()
    done = run(
        "evaluate-samples", "--stimuli", tmp_path / "stimuli.h5", "--out", tmp_path / "m.csv", tmp_path / "refined.h5"
    )
    assert done.exit_code != 0
    assert "sub-01/refined.h5" in done.output


def test_controls_are_drawn_and_scored(tmp_path, monkeypatch, tiny_prepared, tiny_latents, tiny_components):
    from neuropictor.controls import draw as steering
    from neuropictor.controls import tables as control_tables

    drawn, scored = [], []
    signatures = inspect.signature(steering.steer_subject), inspect.signature(control_tables.score_controls)
    monkeypatch.setattr(steering, "steer_subject", lambda **given: drawn.append(signatures[0].bind(**given).arguments))
    monkeypatch.setattr(
        control_tables, "score_controls", lambda **given: scored.append(signatures[1].bind(**given).arguments)
    )
    responses, stimuli = tiny_prepared / "sub-02" / "responses.h5", tiny_prepared / "stimuli.h5"
    files = ["--pipeline", tmp_path, "--responses", responses, "--stimuli", stimuli, "--out", tmp_path / "out"]
    files += ["--space", tiny_prepared / "space.safetensors", "--latents", tiny_latents]
    done = run("control", *files, "--kind", "steps", "--kind", "areas")
    assert done.exit_code == 0, (done.output, done.exception)
    assert [given["kind"] for given in drawn] == ["steps", "areas"]
    assert drawn[0]["latents"] == tiny_latents
    assert scored[0]["drawn"] == {"02": {"steps": tmp_path / "out/steps.h5", "areas": tmp_path / "out/areas.h5"}}
    wrong = run("control", *files, "--kind", "strength")
    assert wrong.exit_code != 0
    assert "allowed are responses, bottleneck" in " ".join(wrong.output.replace("\u2502", " ").split())
    assert len(drawn) == 2


def test_the_default_share_of_validation_is_the_librarys():
    """Said in both places, since the commands load no library before they are called."""
    from neuropictor.cli import data
    from neuropictor.data.tables import VALIDATION_SHARE

    assert inspect.signature(data.import_betas).parameters["validation_share"].default == VALIDATION_SHARE


STAGES = {
    "fetch-mosaic": "neuropictor.fetching.mosaic:fetch_people",
    "preprocess-stimuli": "neuropictor.data.preprocess:preprocess_stimuli",
    "preprocess-session": "neuropictor.data.sessions:preprocess_session",
    "preprocess-subject": "neuropictor.data.preprocess:preprocess_subject",
    "import-maps": "neuropictor.official.maps:import_maps",
    "import-betas": "neuropictor.data.own_data:import_betas",
    "import-images": "neuropictor.data.own_data:import_images",
    "import-frames": "neuropictor.data.time_series:import_frames",
    "cache-latents": "neuropictor.data.latents:cache_latents",
    "calibrate": "neuropictor.training.calibrate:calibrate",
    "align-space": "neuropictor.data.alignment:make_space",
    "align": "neuropictor.data.alignment:align_subject",
    "adapt": "neuropictor.data.adapt:adapt_subject",
    "pretrain": "neuropictor.training.reconstruct:pretrain",
    "refine": "neuropictor.training.reconstruct:refine",
    "sample": "neuropictor.sampling:sample_subject",
    "import-official": "neuropictor.official.checkpoint:import_official",
    "fetch-weights": "neuropictor.fetching.weights:fetch_weights",
    "evaluate-samples": "neuropictor.evaluation.evaluate:evaluate",
    "gallery": "neuropictor.report.gallery:gallery",
}
ARGUMENTS = {
    "fetch-mosaic": ["--mosaic", "{folder}", "sub-01_NOD"],
    "preprocess-stimuli": ["--nsd", "{folder}", "--out", "o", "1", "2"],
    "preprocess-session": ["--nsd", "{folder}", "--out", "o", "--subject", "1", "--session", "2"],
    "preprocess-subject": ["--nsd", "{folder}", "--out", "o", "--subject", "1", "{file}", "{file}"],
    "import-maps": [
        "--maps",
        "{file}",
        "--mask",
        "{file}",
        "--test-images",
        "{file}",
        "--subject",
        "1",
        "--out",
        "o",
    ],
    "import-betas": ["--table", "{file}", "--subject", "1", "--out", "o"],
    "import-images": ["--table", "{file}", "--out", "o"],
    "import-frames": ["--out", "o", "{folder}"],
    "cache-latents": ["--stimuli", "{file}", "--out", "o"],
    "calibrate": ["--out", "o", "--extra", "{file}", "{file}", "{file}"],
    "align-space": ["--latents", "{file}", "--out", "o", "{file}"],
    "align": ["--responses", "{file}", "--latents", "{file}", "--space", "{file}", "--out", "o"],
    "adapt": ["--responses", "{file}", "--space", "{file}", "--others", "{file}", "--out", "o"],
    "pretrain": ["--latents", "{file}", "--autoencoder", "{file}", "--out", "o", "--components", "{file}", "{file}"],
    "refine": ["--responses", "{file}", "--latents", "{file}", "--pretrained", "{folder}", "--out", "o"],
    "import-official": ["{file}", "--out", "o"],
    "sample": ["--pipeline", "{folder}", "--responses", "{file}", "--out", "o"],
    "fetch-weights": ["--out", "o"],
    "gallery": [
        *("--stimuli", "{file}", "--scores", "{file}", "--controls", "{folder}/sub-01", "{folder}/sub-01/refined.h5")
    ],
    "evaluate-samples": ["--stimuli", "{file}", "--out", "o", "{folder}/sub-01/refined.h5"],
}


@pytest.mark.parametrize("name", STAGES)
def test_commands_call_stages_as_their_signatures_ask(name, tmp_path, monkeypatch):
    module, function = STAGES[name].split(":")
    stage = pytest.importorskip(module)
    signature, calls = inspect.signature(getattr(stage, function)), []
    monkeypatch.setattr(stage, function, lambda **given: calls.append(signature.bind(**given)))
    file, controls = tmp_path / "file.bin", tmp_path / "sub-01"
    file.touch()
    controls.mkdir()
    (controls / "areas.h5").touch()
    (tmp_path / "rest.dtseries.nii").touch()
    done = run(name, *[item.format(folder=tmp_path, file=file) for item in ARGUMENTS[name]])
    assert done.exit_code == 0, (done.output, done.exception)
    assert len(calls) == 1
    if name == "gallery":
        assert calls[0].arguments["controls"] == {"01": {"areas": controls / "areas.h5"}}
        (controls / "areas.h5").unlink()
        done = run(name, *[item.format(folder=tmp_path, file=file) for item in ARGUMENTS[name]])
        assert done.exit_code == 2
        assert "no .h5 file in" in " ".join(done.output.replace("\u2502", " ").split())
