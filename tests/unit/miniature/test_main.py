"""Commands and settings of the miniature's workshop."""

import inspect

import pytest
import yaml
from typer.testing import CliRunner

from neuropictor.config import ConfigError
from neuropictor.miniature import backbone, card, population
from neuropictor.miniature.__main__ import app
from neuropictor.miniature.settings import SHIPPED, MiniatureSettings, read


@pytest.mark.parametrize(
    ("command", "module", "function", "options"),
    [
        ("train", backbone, "train_backbone", ["--out", "{folder}"]),
        ("population", population, "train_population", ["--backbone", "{folder}"]),
        ("card", card, "write_card", ["--backbone", "{folder}"]),
    ],
)
def test_commands_call_their_functions(command, module, function, options, tmp_path, monkeypatch):
    signature, calls = inspect.signature(getattr(module, function)), []
    monkeypatch.setattr(module, function, lambda **given: calls.append(signature.bind(**given)))
    (tmp_path / "my.yaml").write_text("runtime: {threads: 1}")
    given = [item.format(folder=tmp_path) for item in options]
    done = CliRunner().invoke(app, [command, *given, "--settings", str(tmp_path / "my.yaml")])
    assert done.exit_code == 0, (done.output, done.exception)
    (bound,) = calls
    settings = bound.arguments.get("settings", None)
    assert (settings.runtime if settings else bound.arguments["runtime"]).threads == 1


def test_settings_yaml_holds_the_defaults_in_full(tmp_path):
    defaults = MiniatureSettings().model_dump(include={"backbone", "population"})
    assert yaml.safe_load(SHIPPED.read_text()) == defaults
    (tmp_path / "my.yaml").write_text("population: {people: 3}")
    assert read(tmp_path / "my.yaml").population.people == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backbone: {scenes: 7}", r"backbone\.scenes is 7; allowed: a whole number at least 1200"),
        ("population: {person: 7}", r"population\.person .* is not a known key; allowed in population: people"),
    ],
)
def test_mistakes_are_told(tmp_path, text, message):
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / "my.yaml")
    done = CliRunner().invoke(app, ["train", "--out", str(tmp_path), "--settings", str(tmp_path / "my.yaml")])
    assert done.exit_code == 2
