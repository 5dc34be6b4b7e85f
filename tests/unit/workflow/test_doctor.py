"""What doctor finds, and what it advises."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from neuropictor.cli import app as cli
from neuropictor.config import Config, load
from neuropictor.models.layout import BACKBONE_PARTS
from neuropictor.workflow import doctor
from neuropictor.workflow.doctor import examine, needed_bytes


def find(settings: dict, about: str) -> list[doctor.Finding]:
    return [finding for finding in examine(load(settings)) if finding.about == about]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_default_settings_run_here():
    findings = examine(Config())
    assert not [str(finding) for finding in findings if finding.verdict == "problem"]
    assert {finding.about for finding in findings} >= {
        "python",
        "packages",
        "machine",
        "device",
        "data",
        "disk",
        "weights",
    }


def test_other_versions_than_the_locks_are_named(monkeypatch):
    found = doctor.versions()
    monkeypatch.setattr(doctor, "versions", lambda: {**found, "torch": "2.0.1"})
    (finding,) = find({}, "packages")
    assert finding.verdict == "warning"
    assert "torch 2.0.1 (locked: 2.13.0)" in finding.found
    assert finding.do == "make install"
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: ["torch>=2.13", "pytest; extra == 'dev'"])
    monkeypatch.setattr(doctor, "versions", lambda: {name: item for name, item in found.items() if name != "torch"})
    (finding,) = find({}, "packages")
    assert (finding.verdict, finding.found) == ("problem", "not installed: torch")


def test_the_agreement_comes_before_fetching():
    (finding,) = find({"nsd": {"source": "fetch"}}, "data")
    assert finding.verdict == "problem"
    assert "nsd.terms_accepted is false" in finding.found
    assert "forms.gle" in finding.found
    assert find({"nsd": {"source": "fetch", "terms_accepted": True}}, "data")[0].verdict == "ok"


def test_missing_files_of_a_local_nsd_are_named():
    (finding,) = find({"nsd": {"source": "local"}, "paths": {"nsd": "gone"}}, "data")
    assert finding.verdict == "problem"
    assert "files missing below gone: nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5" in finding.found
    assert "nsd: {source: fetch}" in finding.do
    settings = {"nsd": {"source": "local"}, "paths": {"nsd": "gone"}, "subjects": {"pretrain": [1], "refine": [1]}}
    (core,) = find(settings, "data")
    settings["nsd"] = {"source": "local", "test_sets": ["imagery", "synthetic"]}
    (more,) = find(settings, "data")
    count = [int(finding.found.split()[0]) for finding in (core, more)]
    assert count == [5, 5 + 7 + 9 + 2 + 3 + 1 + 2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpus_that_are_not_there_and_sizes_that_need_one():
    (finding,) = find({"runtime": {"gpus": 1}}, "device")
    assert finding.verdict == "problem"
    assert "runtime.gpus: 1 asked for" in finding.found
    (finding,) = find({"encoder": {"width": 1024, "heads": 16, "decoder_width": 512}}, "device")
    assert finding.verdict == "problem"
    assert "for networks of the paper's size" in finding.found
    assert "use a GPU" in finding.do


def test_room_on_the_disk_is_compared_with_what_is_still_to_come(tmp_path, monkeypatch):
    whole = {
        "nsd": {"source": "fetch", "terms_accepted": True, "keep_raw": True},
        "subjects": {"pretrain": [1], "refine": [1]},
    }
    needed = needed_bytes(load(whole))
    assert needed["nsd"] == pytest.approx(39.6e9 + 3.5e9 + 40 * 0.983e9)
    assert 1.5e9 < needed["prepared"] < 2.5e9
    further = load({**whole, "nsd": {**whole["nsd"], "test_sets": ["imagery", "synthetic"]}})
    assert needed_bytes(further)["nsd"] - needed["nsd"] == pytest.approx((720 + 744) / 750 * 0.983e9)
    passing = load({**whole, "nsd": {**whole["nsd"], "keep_raw": False}})
    assert needed_bytes(passing)["nsd"] < needed["nsd"] - 35 * 0.983e9
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: doctor.shutil._ntuple_diskusage(10, 5, 20e9))
    whole["paths"] = {name: str(tmp_path / name) for name in ("nsd", "prepared", "results")}
    (finding,) = find(whole, "disk")
    assert finding.verdict == "problem"
    assert "20 GB free" in finding.found
    assert "nsd 82.4" in finding.found
    assert "another disk" in finding.do
    (tmp_path / "nsd").mkdir()
    with open(tmp_path / "nsd/betas.mgh", "wb") as file:
        file.truncate(80 * 10**9)
    (finding,) = find(whole, "disk")
    assert (finding.verdict, "nsd 2.4" in finding.found) == ("ok", True)


def test_people_of_other_data_sets_are_counted(tmp_path):
    people = {"subjects": {"pretrain": ["MM01"], "refine": ["MM01"]}, "nsd": {"source": "prepared"}}
    assert needed_bytes(load(people))["prepared"] > 30_000 * 8921 * 2
    (tmp_path / "subjects.tsv").write_text("subject\tdataset\tpath\n1\nMM01\tmylab\tscans/MM01\n")
    mixed = {"subjects": {"table": str(tmp_path / "subjects.tsv")}, "nsd": {"source": "local"}}
    alone = {"subjects": {"pretrain": [1], "refine": [1]}, "nsd": {"source": "local"}}
    assert needed_bytes(load(mixed))["prepared"] > needed_bytes(load(alone))["prepared"]
    (finding,) = find(mixed | {"paths": {"nsd": str(tmp_path / "nsd")}}, "data")
    assert "5 files missing" in finding.found


def test_what_else_the_encoder_learns_from_is_counted_and_missing_files_are_told(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.dtseries.nii").touch()
    config = load({"calibrate": {"extra": [str(tmp_path)], "extra_frames": 100}})
    (finding,) = [finding for finding in examine(config) if finding.about == "extra"]
    assert (finding.verdict, finding.found) == ("ok", "3 time series")
    assert needed_bytes(config)["prepared"] - needed_bytes(Config())["prepared"] == 2 * 3 * 100 * 8921 * 2
    config = load({"calibrate": {"extra": [str(tmp_path / "none")]}})
    (finding,) = [finding for finding in examine(config) if finding.about == "extra"]
    assert finding.verdict == "problem" and "names no file" in finding.found
    assert needed_bytes(config) == needed_bytes(Config())


def test_of_mosaic_two_peoples_files_lie_there_at_a_time_or_all(tmp_path):
    rows = [f"N0{i}\tNOD\tmosaic:sub-0{i}_NOD\tstimuli" for i in range(1, 5)]
    (tmp_path / "subjects.tsv").write_text("\n".join(["subject\tdataset\tpath\timages", *rows]))
    settings = {"subjects": {"table": str(tmp_path / "subjects.tsv")}}
    passing, kept = (needed_bytes(load(settings | {"mosaic": {"keep_raw": keep}}))["mosaic"] for keep in (False, True))
    assert passing == 2 * 30_000 * 91_282 * 8 == kept / 2


def test_the_demo_needs_what_the_readme_says():
    assert sum(needed_bytes(Config()).values()) == pytest.approx(2.5e9, rel=0.2)


def test_weights_that_are_not_there(tmp_path):
    (finding,) = find({"backbone": {"source": str(tmp_path / "sd21")}}, "weights")
    assert finding.verdict == "problem"
    assert "has no unet, vae, text_encoder, tokenizer, scheduler" in finding.found
    for part in BACKBONE_PARTS:
        (tmp_path / "sd21" / part).mkdir(parents=True)
    found = find({"backbone": {"source": str(tmp_path / "sd21")}}, "weights")
    assert [finding.verdict for finding in found] == ["ok", "problem"]
    assert found[1].do == "calibrate: {init: scratch}, pretrain: {init: scratch}"


def test_what_the_workflow_fetches_or_somebody_imported_is_no_problem(tmp_path):
    hub = {"backbone": {"source": "somebody/stable-diffusion-2-1-base", "revision": 40 * "a"}}
    scratch = {"calibrate": {"init": "scratch"}, "pretrain": {"init": "scratch"}}
    assert [finding.verdict for finding in find(hub | scratch, "weights")] == ["ok"]
    own = {
        "nsd": {"source": "prepared"},
        "paths": {"prepared": str(tmp_path)},
        "subjects": {"pretrain": [1], "refine": [1]},
    }
    (finding,) = find(own, "data")
    assert finding.verdict == "problem" and "neuropictor import-betas" in finding.found
    for store in ("responses.h5", "stimuli.h5"):
        (tmp_path / "sub-01").mkdir(exist_ok=True)
        (tmp_path / "sub-01" / store).touch()
    (finding,) = find(own, "data")
    assert (finding.verdict, finding.found) == ("ok", f"imported stores in {tmp_path}")


def test_the_command_says_all_and_fails_on_a_problem(tmp_path: Path):
    done = CliRunner().invoke(cli.app, ["doctor"])
    assert done.exit_code == 0, done.output
    assert "Nothing stands in the way." in done.output
    (tmp_path / "my.yaml").write_text("nsd: {source: fetch}\n")
    done = CliRunner().invoke(cli.app, ["doctor", "--settings", str(tmp_path / "my.yaml")])
    assert done.exit_code == 1
    assert "problem data: nsd.terms_accepted is false" in done.output
    assert "1 to be mended" in done.output


@pytest.mark.parametrize(
    ("widths", "settings", "large"),
    [
        (None, {"backbone": {"source": "backbones/gone"}}, True),
        (None, {"backbone": {"source": "owner/name", "revision": "0" * 40}}, True),
        ((8, 16), {"backbone": {"source": "backbones/here"}}, False),
        ((320, 640, 1280, 1280), {"backbone": {"source": "backbones/here"}}, True),
        ((8, 16), {"backbone": {"source": "backbones/here"}, "encoder": {"width": 512}}, True),
        (None, {}, False),
    ],
)
def test_networks_are_large_by_their_widths(tmp_path, widths, settings, large):
    if widths:
        (tmp_path / "backbones/here/unet").mkdir(parents=True)
        (tmp_path / "backbones/here/unet/config.json").write_text(json.dumps({"block_out_channels": widths}))
    assert doctor.is_large(load(settings)) == large
