"""What would run: dry runs of the real workflow in empty and in finished folders."""

from collections import Counter
from pathlib import Path

import pytest
import yaml
from copied_workflow import CONTROLS, PER_SUBJECT, chain, copy_workflow, image_files, planned, refused, snakemake

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.workflow


@pytest.fixture
def checkout(tmp_path):
    return copy_workflow(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A checkout whose results all exist, as far as Snakemake can tell; not to be edited."""
    folder = copy_workflow(tmp_path_factory.mktemp("finished"))
    for line in snakemake(folder, "-n", "--summary").splitlines()[1:]:
        name = line.split("\t")[0]
        path = folder / name
        if path.name.startswith("betas_"):
            path.mkdir(parents=True)
            (path / "lh.betas_session01.mgh").touch()
        elif "/" in name:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (folder / "data/nsd/SIMULATED.json").touch()
    snakemake(folder, "--touch")
    return folder


def test_default_chain(checkout):
    assert planned(checkout, {}) == chain(3)


def test_tiny_preset(checkout):
    assert planned(checkout, {}, "presets/tiny.yaml") == chain(2) - Counter(control=3)


def test_subjects_that_only_pretrain_are_not_sampled(checkout):
    jobs = planned(checkout, {"subjects": {"pretrain": [1, 2], "refine": [2]}})
    assert jobs["preprocess_subject"] == 2
    assert (jobs["refine"], jobs["sample"], jobs["baselines"]) == (1, 2, 1)


def test_local_source_simulates_nothing(checkout):
    root = checkout / "real"
    for name in image_files():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    folder = root / "nsddata_betas/ppdata/subj01/fsaverage/betas_fithrf_GLMdenoise_RR"
    folder.mkdir(parents=True)
    for side in ("lh", "rh"):
        for name in ("betas_session01", "betas_session02"):
            (folder / f"{side}.{name}.mgh").touch()
    settings = {"nsd": {"source": "local"}, "paths": {"nsd": "real"}, "subjects": {"pretrain": [1], "refine": [1]}}
    assert planned(checkout, settings) == Counter(
        {rule: count for rule, count in chain(1).items() if not rule.startswith("simulate")}
    )
    settings["subjects"]["refine"] = [2]
    assert "No betas of subject 2 in real/" in refused(checkout, settings)


def test_simulation_never_writes_over_what_may_be_nsd(checkout):
    (checkout / "data/nsd/nsddata_betas").mkdir(parents=True)
    message = refused(checkout, {})
    assert "may be the real NSD" in message
    assert "Traceback" not in message
    assert "nsd.source: local" in message


def test_pinned_weights_are_fetched_first(checkout):
    start = {"init": "scratch"}
    commit = "0123456789abcdef0123456789abcdef01234567"
    source = {"source": "owner/name", "revision": commit, "target_text_encoder": "owner/tower"}
    settings = {"backbone": {**source, "target_revision": commit[::-1]}, "calibrate": start, "pretrain": start}
    assert planned(checkout, settings) == chain(3) + Counter(fetch_hub=2)


def test_the_papers_networks_need_no_alignment(checkout):
    jobs = planned(checkout, {"align": {"tokens": 0}})
    assert jobs == chain(3) - Counter(align_space=1, align=3)


def test_a_mistake_in_the_settings_shows_its_message_and_nothing_from_the_depths(checkout):
    message = refused(checkout, yaml.safe_load("{pretrain: {learning_rate: 1e-4}, sample: {step: 3}}"))
    assert 'pretrain.learning_rate is "1e-4"' in message
    assert "did you mean sample.steps?" in message
    for word in ("Traceback", "pydantic", "site-packages"):
        assert word not in message


def test_a_subject_that_is_only_refined_is_no_reason_to_pretrain(finished):
    own = {rule: count for rule, count in PER_SUBJECT.items()}
    shared = [
        "simulate_own_images",
        "evaluate",
        "data_card",
        "report_scores",
        "gallery",
        "training_curves",
        "all",
    ]
    found = planned(finished, {"subjects": {"pretrain": [1, 2, 5], "refine": [1, 2, 5, 7]}})
    assert found == Counter(own | dict.fromkeys(shared, 1))


AFTER_SAMPLING = dict.fromkeys(["evaluate", "report_scores", "data_card", "all", "score_controls", "gallery"], 1)
AFTER_REFINING = AFTER_SAMPLING | {"refine": 3, "sample": 3, "contact_sheet": 3, "training_curves": 1}


@pytest.mark.parametrize(
    ("settings", "jobs"),
    [
        ({"evaluate": {"bootstrap": 77}}, AFTER_SAMPLING),
        ({"controls": {"sheet_rows": 2}}, {"score_controls": 1, "all": 1}),
        ({"controls": {"repeats": [2]}}, {"control": 1, "score_controls": 1, "gallery": 1, "all": 1}),
        ({"refine": {"weight_decay": 0.5}}, AFTER_REFINING | {"control": CONTROLS}),
    ],
    ids=str,
)
def test_what_runs_again_of_the_controls(finished, settings, jobs):  # of all else: test_reruns.py
    assert planned(finished, settings) == Counter(jobs)


def test_controls_are_those_of_the_settings(checkout):
    jobs = planned(checkout, {"controls": {"made": []}})
    assert jobs == chain(3) - Counter(control=CONTROLS, score_controls=1)
    jobs = planned(checkout, {"controls": {"made": ["nearest", "steps"], "subjects": 2}})
    assert (jobs["control"], jobs["score_controls"]) == (2, 1)
    jobs = planned(checkout, {}, "presets/controls.yaml", "--", "controls")
    assert jobs["control"] == 21  # all seven that draw, of all three subjects
    assert not jobs["evaluate"]


def test_a_named_experiment_takes_over_what_is_prepared_and_keeps_results_apart(finished):
    before = sorted(finished.rglob("results/**"))
    settings = {"experiment": "short", "refine": {"steps": 7}}
    jobs = planned(finished, settings)
    shared = {"simulate_images", "simulate_subject", "preprocess_stimuli", "preprocess_subject"}
    assert not shared & jobs.keys()
    assert jobs == Counter({rule: count for rule, count in chain(3).items() if rule not in shared})
    table = snakemake(finished, "--summary", "--configfile", "settings.yaml")
    assert "results/experiments/short/pretrain/run.json\t" in table
    assert planned(finished, {}) == Counter()
    assert sorted(finished.rglob("results/**")) == before


def test_code_is_tracked_unless_it_is_turned_off(finished):
    assert planned(finished, {}) == Counter()
    assert planned(finished, {"runtime": {"track_code": False}})["refine"] == 3
