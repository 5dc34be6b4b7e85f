"""Settings: what is refused, with which words; generated files in step with the models."""

import json
from pathlib import Path

import pytest
import yaml

from neuropictor import config
from neuropictor.config import text as config_text

ROOT = Path(__file__).resolve().parents[3]


def refusal(settings: dict) -> str:
    with pytest.raises(config.ConfigError) as error:
        config.load(settings)
    return str(error.value)


def test_defaults_are_what_config_yaml_says_in_full():
    found = yaml.safe_load((ROOT / "config.yaml").read_text())
    assert found["subjects"] == {"table": "", "pretrain": [1, 2, 5], "refine": [1, 2, 5]}
    assert found | {"subjects": config.load(found).subjects.model_dump()} == config.Config().model_dump()


def test_presets_are_valid():
    presets = sorted((ROOT / "presets").glob("*.yaml"))
    assert presets
    for preset in presets:
        config.read(preset)


def test_schema_and_reference_page_are_those_of_the_models():
    advice = "out of date: run `neuropictor config --write`"
    assert (ROOT / "neuropictor/config.schema.json").read_text() == config_text.schema(config.Config), advice
    assert (ROOT / "docs/config.md").read_text() == config_text.reference(config.Config), advice


def test_every_key_has_a_description():
    schema = json.loads(config_text.schema(config.Config))
    for name, model in {"Config": schema, **schema["$defs"]}.items():
        for key, field in model["properties"].items():
            assert field.get("description"), f"{name}.{key}"


def test_exponent_without_point_gets_the_yaml_hint():
    settings = yaml.safe_load("pretrain: {learning_rate: 1e-4}")
    message = refusal(settings)
    for part in ('pretrain.learning_rate is "1e-4"', "a number above 0", "example: learning_rate: ", "write 1.0e-4"):
        assert part in message
    assert yaml.safe_load("1.0e-4") == 1e-4


def test_exponent_without_sign_gets_a_hint_that_yaml_reads_as_a_number():
    message = refusal(yaml.safe_load("evaluate: {ridge_alphas: [1.0e4]}"))
    assert "evaluate.ridge_alphas.0" in message
    assert "write 1.0e+4" in message
    assert yaml.safe_load("1.0e+4") == 1e4


def test_text_from_the_command_line_names_the_way_out():
    assert "--configfile" in refusal({"sample": {"guidance_scale": "2.5"}})


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"sampel": {}}, ["sampel", "did you mean sample?"]),
        ({"pretrain": {"step": 3}}, ["pretrain.step (found: 3)", "did you mean pretrain.steps?", "steps: "]),
        ({"refine": {"guidance_adaptation": {"dropuot": 0}}}, ["refine.guidance_adaptation.dropuot", "dropout"]),
        ({"nsd": {"clip": 3}}, ["nsd.clip", "there is preprocess.clip"]),
        ({"sample": {"zzz": 3}}, ["allowed in sample: scheduler, steps, guidance_scale"]),
        ({"preprocess": {"clip": 0}}, ["preprocess.clip is 0", "a number above 0", "clip: 8.0"]),
        (
            {"nsd": {"source": "real"}},
            ['nsd.source is "real"', "simulated, local, fetch or prepared", "source: simulated"],
        ),
        (
            {"nsd": {"endpoint": "s3://x"}},
            ['nsd.endpoint is "s3://x"', "starts with https://", "endpoint: https://nat"],
        ),
        ({"nsd": {"connections": 0}}, ["nsd.connections is 0", "at least 1 and at most 64", "connections: 8"]),
        (
            {"subjects": {"refine": [1, 9]}},
            ["subjects has 09, who is none of NSD's", "subjects.table"],
        ),
        ({"subjects": {"refine": ["a b"]}}, ['refine.0 is "a b"', "letters and digits or a whole number at least 0"]),
        ({"subjects": {"refine": [100]}}, ["subjects.refine.0 is 100", "refine: [01, 02, 05]"]),
        ({"subjects": {"refine": [1, 1]}}, ["subjects.refine", "each subject once"]),
        ({"subjects": {"pretrain": []}}, ["subjects.pretrain is []"]),
        ({"encoder": {"image_size": 100}}, ["image_size is 100", "patch_size 16 does not divide"]),
        ({"encoder": {"width": 126}}, ["width is 126", "4 heads do not divide"]),
        ({"simulate": {"sessions": 2, "trials_per_session": 100}}, ["= 200", "divisible by 3"]),
        ({"simulate": {"shared_images": 1000, "sessions": 3}}, ["shared_images is 1000", "only 750 images"]),
        ({"preprocess": {"validation_images": 1350}}, ["preprocess.validation_images is 1350", "has 1350"]),
        ({"nsd": {"beta_version": "betas_fithrf"}}, ["nsd.beta_version is betas_fithrf", "source: local"]),
        ({"simulate": 3}, ["simulate is 3", "a mapping with the keys seed"]),
        ({"sample": {"steps": 2.5}}, ["sample.steps is 2.5", "a whole number"]),
        ({"runtime": {"track_code": "yes"}}, ['runtime.track_code is "yes"', "true or false"]),
        ({"experiment": "wide net"}, ['experiment is "wide net"', "of letters, digits", "experiment: no-alignment"]),
        ({"paths": {"results": ""}}, ['paths.results is ""', "results: results"]),
        ({"calibrate": {"learning_rate": float("nan")}}, ["calibrate.learning_rate"]),
        ({"paths": {"nsd": "x``\n\n.. include:: /etc/passwd"}}, ["paths.nsd", "backquotes and control characters"]),
        ({"backbone": {"source": "a\x1b[2J"}}, ["backbone.source", "control characters"]),
        ({"backbone": {"target_text_encoder": "``"}}, ["backbone.target_text_encoder", "backquotes"]),
        ({"paths": {"nsd": "~nobody-of-this-name/x"}}, ["paths.nsd is wrong", "has ~nobody-of-this-name", "$HOME/nsd"]),
        ({"paths": {"nsd": "$NO_SUCH_NAME/x"}}, ["paths.nsd is wrong", "has $NO_SUCH_NAME", "$HOME/nsd"]),
        ({"paths": {"results": "x" * 256}}, ["paths.results is wrong", "longer than 255 bytes", "data/nsd"]),
        ({"paths": {"results": "./"}}, ["paths.results is wrong", "'./' is the working directory", "data/nsd"]),
        ({"paths": {"results": "/"}}, ["paths.results is wrong", "the whole disk", "data/nsd"]),
        ({"paths": {"results": "data/nsd"}}, ["paths.results is data/nsd, in paths.nsd", "results: results"]),
        ({"paths": {"prepared": "n/x", "nsd": "./n"}}, ["paths.prepared is n/x, in paths.nsd, ./n", "data/prepared"]),
        ({"sample": {"steps": 242}}, ["sample.steps is wrong", "do not divide the 1,000 noise levels", "e.g. 241"]),
        ({"sample": {"steps": 1001}}, ["sample.steps is 1001", "at least 1 and at most 1000"]),
        ({"controls": {"steps": [10, 1001]}}, ["controls.steps.1 is 1001", "at most 1000"]),
        ({"refine": {"steps": 10**400}}, ["refine.steps is", "at most 100000000"]),
        ({"calibrate": {"batch_size": 10**9}}, ["calibrate.batch_size is 1000000000", "at most 65536"]),
        ({"preprocess": {"image_size": 10**6}}, ["preprocess.image_size is 1000000", "at most 4096"]),
        ({"evaluate": {"bootstrap": 10**9}}, ["evaluate.bootstrap is", "at most 1000000"]),
        ({"runtime": {"threads": 10**9}}, ["runtime.threads is", "at most 4096"]),
        ({"sample": {"steps": "08"}}, ["sample.steps", "YAML reads 08 as text", "write 8)"]),
    ],
)
def test_messages_name_key_value_allowed_and_example(settings, parts):
    message = refusal(settings)
    for part in parts:
        assert part in message


def test_all_problems_are_told_at_once():
    message = refusal({"sample": {"steps": 0}, "preprocess": {"clip": -1.0}})
    assert "2 problems" in message
    assert "sample.steps is 0" in message
    assert "preprocess.clip is -1.0" in message


def test_whole_numbers_pass_for_numbers_and_become_floats():
    assert repr(config.load({"preprocess": {"clip": 6}}).preprocess.clip) == "6.0"


def test_sections_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        config.load({}).sample.steps = 3


def test_everyone_is_in_either_list():
    assert config.load({"subjects": {"pretrain": [7, 2], "refine": [1, 2]}}).subjects.everyone() == ["01", "02", "07"]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"- a\n", "a mapping of sections"),
        (b"a: [", "not valid YAML"),
        *(
            (content, "")
            for content in (b"", b"\xff\xfe\x00", b"\x80\x04\x95", b"!!python/object/apply:os.system ['true']\n")
        ),
    ],
)
def test_files_that_are_no_settings_are_named(tmp_path, content, part):
    file = tmp_path / "settings.yaml"
    file.write_bytes(content)
    with pytest.raises(config.ConfigError, match=rf"{file}.*{part}"):
        config.read(file)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("subjects: {pretrain: [1]}\n\nsubjects: {refine: [1]}\n", "has subjects in line 1 and again in line 3,"),
        ("sample:\n  steps: 1\n  steps: 2\n", "has steps in line 2 and again in line 3,"),
        ("sample: {steps: 1, steps: 2}\n", "has steps in line 1 and again in line 1,"),
        ("a: " + "[" * 3000, "not valid YAML"),
        ("__use_yte__: true\nsample:\n  steps: ?1 + 1\n", r"has __use_yte__.*a program.*e\.g\. sample: \{steps"),
    ],
)
def test_what_would_be_lost_or_run_is_refused(tmp_path, text, part):
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(config.ConfigError, match=rf"my\.yaml .*{part}"):
        config.read(tmp_path / "my.yaml")


def test_the_same_key_may_stand_in_several_sections_and_files(tmp_path):
    (tmp_path / "a.yaml").write_text("refine: &r {steps: 1, seed: 2}\npretrain: {<<: *r, steps: 3}\n")
    (tmp_path / "b.yaml").write_text("refine: {steps: 4}\n")
    settings = config.read(tmp_path / "a.yaml", tmp_path / "b.yaml")
    assert (settings.refine.steps, settings.refine.seed, settings.pretrain.steps) == (4, 2, 3)


def test_files_of_json_are_settings_too(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"refine": {"steps": 4}}, indent="\t"))
    assert config.read(tmp_path / "a.json").refine.steps == 4


def test_home_folders_and_variables_are_what_they_are_in_a_shell(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/scratch")
    settings = config.load({"paths": {"nsd": "~/nsd", "prepared": "$SCRATCH/p"}, "backbone": {"source": "$HOME/sd"}})
    assert (settings.paths.nsd, settings.paths.prepared) == ("/home/me/nsd", "/scratch/p")
    assert settings.backbone_folder() == "/home/me/sd"
    monkeypatch.setenv("SCRATCH", "/{scratch}")
    with pytest.raises(config.ConfigError, match=r"'/\{scratch\}/p' is no name of a folder"):
        config.load({"paths": {"prepared": "$SCRATCH/p"}})


def test_step_counts_are_those_that_the_schedulers_take():
    from neuropictor.models.schedules import SOLVERS, make_scheduler

    file = ROOT / "neuropictor/assets/miniature/scheduler/scheduler_config.json"
    schedule = {key: value for key, value in json.loads(file.read_text()).items() if key[0] != "_"}
    refused = []
    for steps in range(1, 1001):
        try:
            config.load({"sample": {"steps": steps}})
        except config.ConfigError:
            refused.append(steps)
    for solver in SOLVERS:
        made = make_scheduler(solver, schedule)
        for steps in (*range(1, 1001, 13), *refused):
            made.set_timesteps(steps)
            assert (len(made.timesteps) == steps) is (steps not in refused)


def test_an_experiment_has_folders_of_its_own():
    named = config.load({"experiment": "short", "paths": {"results": "out"}})
    assert (named.results_folder(), named.logs_folder()) == ("out/experiments/short", "logs/experiments/short")
    unnamed = config.load({})
    assert (unnamed.results_folder(), unnamed.logs_folder()) == ("results", "logs")


def test_a_backbone_without_an_image_tower_needs_published_networks(tmp_path):
    (tmp_path / "unet").mkdir()
    settings = {"backbone": {"source": str(tmp_path)}}
    with pytest.raises(config.ConfigError, match=r"has no image_encoder/ .* evaluate: \{networks: published\}"):
        config.check_judge(config.load(settings))
    config.check_judge(config.load(settings | {"evaluate": {"networks": "published"}}))
    (tmp_path / "image_encoder").mkdir()
    config.check_judge(config.load(settings))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"nsd": {"test_sets": ["words"]}}, 'nsd.test_sets.0 is "words"; allowed: a list, each imagery or synthetic'),
        ({"nsd": {"test_sets": ["imagery", "imagery"]}}, "each experiment once, e.g. [imagery, synthetic]"),
        (
            {"nsd": {"test_sets": ["imagery"], "source": "local", "beta_version": "betas_fithrf"}},
            "nsd.beta_version is betas_fithrf and nsd.test_sets has imagery, whose order of trials within a run is not",
        ),
        (
            {"nsd": {"test_sets": ["synthetic"], "source": "local", "beta_version": "betas_assumehrf"}},
            "has synthetic, which NSD does not have of this experiment; allowed: beta_version: betas_fithrf_GLM",
        ),
        (
            {"nsd": {"test_sets": ["imagery"]}, "simulate": {"shared_images": 4}},
            "simulate.shared_images is 4, but nsd.test_sets has imagery, whose set B is of 5 of them",
        ),
    ],
)
def test_test_sets_that_cannot_be_are_refused(settings, words):
    assert words in refusal(settings)
    config.load({"nsd": {"test_sets": ["synthetic"], "source": "local", "beta_version": "betas_fithrf"}})
