"""The lock, the conda environment and the project's file name the same packages."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()


def locked_for_python_311() -> dict[str, str]:
    found = {}
    for name, version, marker in re.findall(r"^([\w.-]+)==([^\s;\\]+)(?: ; ([^\\\n]+))?", LOCK, re.MULTILINE):
        if "python_full_version >=" not in marker:
            found[name.lower()] = version
    return found


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", item)[0].lower() for item in requirements}


def test_the_lock_has_hashes_and_names_no_host():
    assert "--hash=sha256:" in LOCK
    assert not re.search(r"https?://|--index|--find-links", LOCK)


def test_everything_required_is_locked():
    extras = [item for extra in PROJECT["optional-dependencies"].values() for item in extra]
    assert names(PROJECT["dependencies"] + extras) <= locked_for_python_311().keys()


def test_conda_environment_has_the_pins_of_the_lock():
    environment = yaml.safe_load((ROOT / "envs/neuropictor.yaml").read_text())
    pins = dict(
        item.split("==") for part in environment["dependencies"] if isinstance(part, dict) for item in part["pip"]
    )
    assert pins.keys() == names(PROJECT["dependencies"])
    locked = locked_for_python_311()
    assert pins == {name: locked[name] for name in pins}


@pytest.mark.parametrize("name", ["demo", "test", "lint", "clean", "help"])
def test_the_makefile_has_its_targets(name):
    assert re.search(rf"^{name}:.*## \w", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_continuous_integration_runs_style_and_tests():
    script = ROOT / ".ci/run"
    text = script.read_text()
    assert script.stat().st_mode & 0o111
    assert text.startswith("#!/usr/bin/env bash")
    assert "set -euo pipefail" in text
    assert "make lint" in text
    assert "make test" in text


def profile(name: str) -> dict:
    return yaml.safe_load((ROOT / f"profiles/{name}/profile.v9+.yaml").read_text())


def test_the_cluster_profile_runs_again_what_the_default_one_does():
    shared = ("rerun-triggers", "rerun-incomplete", "keep-going", "show-failed-logs")
    default, slurm = profile("default"), profile("slurm")
    assert {key: slurm[key] for key in shared} == {key: default[key] for key in shared}
    assert slurm["resources"]["network"] == default["resources"]["network"]
    assert "code" not in default["rerun-triggers"]
