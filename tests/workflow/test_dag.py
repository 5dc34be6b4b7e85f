"""What would run: dry runs of the real workflow in empty and in finished folders."""

import subprocess
import sys
from collections import Counter

import pytest
from dry_runs import CONTROLS, PER_SUBJECT, ROOT, chain, copy_workflow, done, image_files, planned, refused, snakemake

from neuropictor.nsd import keys

pytestmark = pytest.mark.workflow
#: What a dry run takes half its time for, and in an empty folder is without effect.
UNTRACKED = {"runtime": {"track_code": False}}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout in which nothing was made; not to be edited."""
    return copy_workflow(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A checkout whose results all exist, as far as Snakemake can tell; not to be edited."""
    folder = copy_workflow(tmp_path_factory.mktemp("finished"))
    for line in done(folder, "-n", "--summary").splitlines()[1:]:
        name = line.split("\t")[0]
        path = folder / name
        if path.name.startswith("betas_"):
            path.mkdir(parents=True)
            (path / "lh.betas_session01.mgh").touch()
        elif "/" in name:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (folder / "data/nsd/SIMULATED.json").touch()
    done(folder, "--touch")
    return folder


COMMIT = "0123456789abcdef0123456789abcdef01234567"
FETCHED = {"source": "owner/name", "revision": COMMIT, "target_text_encoder": "owner/tower"}
FETCHED |= {"target_revision": COMMIT[::-1]}
SCRATCH = {"init": "scratch"}
PLANS = {
    "as shipped": ({}, chain(3)),
    "a subject that only pretrains": (
        {"subjects": {"pretrain": [1, 2], "refine": [2]}},
        chain(1) + Counter(["simulate_subject", "preprocess_subject", "preprocess_stimuli", "cache_latents", "align"]),
    ),
    "weights of a commit": (
        {"backbone": FETCHED, "calibrate": SCRATCH, "pretrain": SCRATCH},
        chain(3) + Counter(fetch_hub=2),
    ),
    "the paper's networks": ({"align": {"tokens": 0}}, chain(3) - Counter(align_space=1, align=3)),
    "no controls": ({"controls": {"made": []}}, chain(3) - Counter(control=CONTROLS, score_controls=1)),
    "one control that draws, of two subjects": (
        {"controls": {"made": ["nearest", "steps"], "subjects": 2}},
        chain(3) - Counter(control=CONTROLS - 2),
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_jobs_follow_from_the_settings(checkout, name):
    settings, jobs = PLANS[name]
    assert planned(checkout, UNTRACKED | settings) == jobs


def test_people_of_nsd_and_of_a_lab_take_part_together(tmp_path):
    folder = copy_workflow(tmp_path)
    (folder / "scans/MM01").mkdir(parents=True)
    (folder / "scans/MM01/session1.npy").touch()
    (folder / "scans/images.csv").touch()
    (folder / "subjects.tsv").write_text(
        "subject\tdataset\tpath\tcaptions\n1\n2\nMM01\tmylab\tscans/MM01\towner/model@" + COMMIT
    )
    jobs = planned(folder, UNTRACKED | {"subjects": {"table": "subjects.tsv"}})
    made = Counter(["simulate_subject", "preprocess_subject", "preprocess_stimuli"])
    assert jobs == chain(3) - made + Counter(["import_betas", "import_images", "fetch_hub"])


def test_what_else_the_encoder_learns_from_is_imported_before(tmp_path):
    folder = copy_workflow(tmp_path)
    for name in ("ukb/1/rest.dtseries.nii", "ukb/2/rest.dtseries.nii", "rest.dtseries.nii", "mosaic/responses.h5"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    extra = ["ukb/*/*.dtseries.nii", "rest.dtseries.nii", "mosaic/*.h5"]
    jobs = planned(folder, UNTRACKED | {"calibrate": {"extra": extra}})
    assert jobs == chain(3) + Counter(import_frames=2)
    for entry, words in (("hcp", "hcp names no file"), ("mosaic/*", "mosaic/responses.h5 is no CIFTI time series")):
        message = refused(folder, UNTRACKED | {"calibrate": {"extra": [entry]}})
        assert f"calibrate.extra: {words}" in message and "Traceback" not in message


def test_people_of_mosaic_take_part_by_their_names(tmp_path):
    folder = copy_workflow(tmp_path)
    (folder / "stimuli").mkdir()
    (folder / "images.csv").touch()
    rows = ["N01\tNOD\tmosaic:sub-01_NOD\tstimuli", "T01\tTHINGS\tmosaic:sub-01_THINGS\timages.csv"]
    (folder / "subjects.tsv").write_text("\n".join(["subject\tdataset\tpath\timages", "1", *rows]))
    jobs = planned(folder, UNTRACKED | {"subjects": {"table": "subjects.tsv"}})
    made = Counter(["simulate_subject", "preprocess_subject", "preprocess_stimuli"])
    fetched = Counter(fetch_mosaic_plan=1, fetch_mosaic=2, import_betas=2, import_images=2)
    assert jobs == chain(3) - made - made + fetched
    (folder / "subjects.tsv").write_text("subject\tdataset\tpath\timages\nN01\tNOD\tmosaic:sub-31_NOD\tstimuli\n")
    message = refused(folder, UNTRACKED | {"subjects": {"table": "subjects.tsv"}})
    assert "subjects.tsv, line 2: path mosaic:sub-31_NOD is nobody of MOSAIC" in message
    assert "Traceback" not in message


def test_jobs_of_presets(checkout):
    assert planned(checkout, UNTRACKED, "presets/tiny.yaml") == chain(2) - Counter(control=3)
    jobs = planned(checkout, UNTRACKED, "presets/controls.yaml", targets=["controls"])
    assert jobs["control"] == 27  # all nine that draw, of all three subjects
    assert not jobs["evaluate"]


def test_a_plan_needs_no_backbone_and_says_that_it_is_missing(checkout):
    settings = UNTRACKED | {"nsd": {"terms_accepted": True}}
    said = snakemake(checkout, "-n", settings=settings, presets=["presets/nsd.yaml"])
    assert said.jobs["pretrain"] == 1 and said.jobs["cache_latents"] == 8
    assert said.output.count("weights/stable-diffusion-2-1-base has no unet, vae") == 1
    assert "docs/backbones.md" in said.output


def test_local_source_simulates_nothing(tmp_path):
    checkout = copy_workflow(tmp_path)
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


def test_simulation_never_writes_over_what_may_be_nsd(tmp_path):
    checkout = copy_workflow(tmp_path)
    (checkout / "data/nsd/nsddata_betas").mkdir(parents=True)
    message = refused(checkout, {})
    assert "may be the real NSD" in message
    assert "Traceback" not in message
    assert "nsd.source: local" in message


def test_a_mistake_in_the_settings_shows_its_message_and_nothing_from_the_depths(checkout):
    message = refused(checkout, {"pretrain": {"learning_rate": "1e-4"}, "sample": {"step": 3}})
    assert 'pretrain.learning_rate is "1e-4"' in message
    assert "did you mean sample.steps?" in message
    for word in ("Traceback", "pydantic", "site-packages"):
        assert word not in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sample: {steps: 2}\nsample: {seed: 1}\n", "has sample in line 1 and again in line 2"),
        ('__use_yte__: true\nexperiment: ?"a" + "b"\n', "runs what the file holds as a program"),
    ],
)
def test_what_snakemake_would_lose_or_run_in_settings_is_refused(checkout, tmp_path, text, words):
    (tmp_path / "my.yaml").write_text(text)
    assert f"{tmp_path / 'my.yaml'} has" in (message := refused(checkout, {}, str(tmp_path / "my.yaml")))
    assert words in message


def test_it_runs_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "-n", "--quiet", "--cores", "1"]
    for place in ({"cwd": tmp_path}, {"cwd": ROOT / "docs"}):
        told = subprocess.run([*command, "--directory", tmp_path], capture_output=True, text=True, check=False, **place)
        assert told.returncode == 0, told.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_results_that_cannot_be_written_are_named(checkout, tmp_path, kind):
    (tmp_path / "results").mkdir()
    (tmp_path / "precious").write_text("of somebody else")
    if kind == "link":
        (tmp_path / "results/.lock").symlink_to(tmp_path / "precious")
    place = {"file": "precious", "link": "results"}[kind]
    paths = {name: str(tmp_path / name) for name in ("nsd", "prepared")} | {"results": str(tmp_path / place)}
    said = snakemake(checkout, "--", str(tmp_path / "nsd" / keys.EXPERIMENT_DESIGN), settings={"paths": paths})
    assert said.status != 0
    assert "cannot be written" in said.output
    assert "others' results after chmod g+w" in said.output
    assert (tmp_path / "precious").read_text() == "of somebody else"


def test_a_subject_that_is_only_refined_is_no_reason_to_pretrain(finished):
    shared = ["simulate_own_images", "evaluate", "data_card", "report_scores", "gallery", "training_curves"]
    found = planned(finished, {"subjects": {"pretrain": [1, 2, 5], "refine": [1, 2, 5, 7]}})
    assert found == Counter(PER_SUBJECT | dict.fromkeys(shared, 1))


AFTER_SAMPLING = dict.fromkeys(["evaluate", "report_scores", "data_card", "score_controls", "gallery"], 1)
AFTER_REFINING = AFTER_SAMPLING | {"refine": 3, "sample": 3, "contact_sheet": 3, "training_curves": 1}


@pytest.mark.parametrize(
    ("settings", "jobs"),
    [
        ({}, {}),
        ({"evaluate": {"bootstrap": 77}}, AFTER_SAMPLING),
        ({"controls": {"sheet_rows": 2}}, {"score_controls": 1}),
        ({"controls": {"repeats": [2]}}, {"control": 1, "score_controls": 1, "gallery": 1}),
        ({"refine": {"weight_decay": 0.5}}, AFTER_REFINING | {"control": CONTROLS}),
    ],
    ids=str,
)
def test_what_runs_again_of_the_controls(finished, settings, jobs):  # of all else: test_reruns.py
    assert planned(finished, settings) == Counter(jobs)


def test_a_named_experiment_takes_over_what_is_prepared_and_keeps_results_apart(finished):
    before = sorted(finished.rglob("results/**"))
    settings = {"experiment": "short", "refine": {"steps": 7}}
    shared = {"simulate_images", "simulate_subject", "preprocess_stimuli", "preprocess_subject"}
    jobs = Counter({rule: count for rule, count in chain(3).items() if rule not in shared})
    assert planned(finished, settings) == jobs
    assert "results/experiments/short/pretrain/run.json\t" in done(finished, "--summary", settings=settings)
    assert sorted(finished.rglob("results/**")) == before


def test_code_is_tracked_unless_it_is_turned_off(finished):
    assert planned(finished, UNTRACKED)["refine"] == 3


FILLED = """
import ast, contextlib, importlib, sys
from pathlib import Path
from snakemake import cli
from snakemake.workflow import Workflow
workflows, execute = [], Workflow.execute
Workflow.execute = lambda self, *given, **options: workflows.append(self) or execute(self, *given, **options)
with contextlib.suppress(SystemExit):
    cli.main(sys.argv[1:])
from neuropictor.workflow.job import fill
rules = set()
for job in workflows[0].dag.jobs:
    if job.rule.script:
        script = ast.parse((Path(job.rule.basedir) / job.rule.script).read_text())
        stage = next(node for node in script.body if isinstance(node, ast.ImportFrom) and node.names[0].name != "run")
        fill(getattr(importlib.import_module(stage.module), stage.names[0].name), job)
        rules.add(job.rule.name)
print(*sorted(rules))
"""


def test_the_default_settings_give_every_stage_what_it_takes(tmp_path):
    """No job is run: the demo's settings differ from those of the chains that are (start weights, for one)."""
    command = [sys.executable, "-c", FILLED, "--snakefile", ROOT / "Snakefile", "--directory", tmp_path, "-n"]
    command += ["--configfile", ROOT / "config.yaml", ROOT / "presets/controls.yaml", "--quiet", "all", "--cores", "1"]
    told = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert set(told.stdout.splitlines()[-1].split()) >= set(chain(3))
