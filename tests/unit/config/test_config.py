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
    assert found == config.Config().model_dump()


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
        ({"subjects": {"refine": [1, 9]}}, ["subjects.refine.1 is 9", "at least 1 and at most 8", "refine: [1, 2, 5]"]),
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
    assert config.load({"subjects": {"pretrain": [7, 2], "refine": [1, 2]}}).subjects.everyone() == [1, 2, 7]


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
