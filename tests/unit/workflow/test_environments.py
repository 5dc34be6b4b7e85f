"""The lock, the conda environment and the project's file name the same packages."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from neuropictor.config import load
from neuropictor.workflow import doctor

ROOT = Path(__file__).resolve().parents[3]
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


def assert_installs(text: str, project: str) -> None:
    """All that is installed has its hashes, and the project is built by what was installed."""
    bootstrap, lock, last = re.findall(r"pip install.*", text)
    assert bootstrap.endswith("--require-hashes --requirement " + re.search(r"\S*bootstrap.lock$", bootstrap)[0])
    assert lock.endswith("--require-hashes --requirements requirements.lock")
    assert last.endswith(project)


def test_packages_name_the_terms_of_the_surface_and_an_older_diffusers_is_not_installed():
    assert "LicenseRef-HCP-Open-Access" in PROJECT["license"]
    assert PROJECT["license-files"] == ["LICENSE", "neuropictor/surface/NOTICE"]
    assert all((ROOT / path).is_file() for path in PROJECT["license-files"])
    floor = re.search(r"diffusers>=(\d+)\.(\d+)", " ".join(PROJECT["dependencies"]))
    assert tuple(map(int, floor.groups())) >= (0, 42)


def test_make_installs_the_locks_and_nothing_beside_them():
    assert_installs((ROOT / "Makefile").read_text(), "--no-deps --no-build-isolation --editable .")


def test_what_builds_the_project_is_locked():
    bootstrap = (ROOT / "envs/bootstrap.lock").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", bootstrap, re.MULTILINE))
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert {re.split(r"[^\w.-]", requirement)[0] for requirement in built} | {"uv", "editables"} <= pins.keys()
    assert bootstrap.count("--hash=sha256:") >= 2 * len(pins)
    locked = locked_for_python_311()
    assert {name: version for name, version in pins.items() if locked.get(name, version) != version} == {}


@pytest.mark.parametrize("recipe", ["Dockerfile", "neuropictor.def"])
def test_containers_install_the_lock_and_nothing_beside_it(recipe):
    text = (ROOT / "envs" / recipe).read_text()
    assert_installs(text, "--no-deps --no-build-isolation .")
    python = re.search(r"python:([\d.]+)-", text)[1]
    environment = yaml.safe_load((ROOT / "envs/neuropictor.yaml").read_text())
    assert f"python={python}" in environment["dependencies"]
    for path in ("envs/bootstrap.lock", "requirements.lock", "pyproject.toml", "README.md", "LICENSE", "neuropictor"):
        assert path in text
        assert (ROOT / path).exists()


def test_every_rule_names_the_environment():
    rules = [
        (path.name, text)
        for path in (ROOT / "rules").glob("*.smk")
        for text in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]
    ]
    scripted = [(file, text) for file, text in rules if "script:" in text]
    assert len(scripted) > 15
    for file, text in scripted:
        assert 'conda:\n        "../envs/neuropictor.yaml"' in text, (file, text.partition(":")[0])


def test_jobs_of_the_networks_say_what_they_need():
    needs = yaml.safe_load((ROOT / "rules/needs.yaml").read_text())
    for rule, sizes in needs.items():
        assert sizes.keys() == {"miniature", "paper"}, rule
        assert sizes["paper"].keys() == sizes["miniature"].keys(), rule
        assert sizes["paper"].keys() - {"gpu_mem_mb"} == {"mem_mb", "runtime"}, rule
        memory = sizes["paper"].keys() - {"runtime"}
        assert all(sizes["paper"][what] >= sizes["miniature"][what] for what in memory), rule
    found = {}
    for path in (ROOT / "rules").glob("*.smk"):
        for rule, text in re.findall(r"^rule (\w+):\n(.*?)(?=^rule |\Z)", path.read_text(), re.MULTILINE | re.DOTALL):
            if stated := set(re.findall(r'(\w+)=need\("(\w+)"', text)):
                found[rule] = stated
    assert found == {rule: {(what, rule) for what in needs[rule]["paper"]} for rule in needs}


@pytest.mark.parametrize(
    ("rule", "settings", "size", "processes"),
    [
        ("pretrain", {}, "miniature", 1),
        ("pretrain", {"runtime": {"processes": 4, "gpus": 4, "nodes": 2}}, "miniature", 2),  # of a node
        ("baselines", {"runtime": {"processes": 4, "gpus": 4, "nodes": 2}}, "miniature", 1),
        ("sample", {"backbone": {"source": "owner/name", "revision": "0" * 40}}, "paper", 1),
        ("evaluate", {"evaluate": {"networks": "published"}}, "paper", 1),
        ("score_controls", {"evaluate": {"networks": "published"}}, "paper", 1),
    ],
)
def test_jobs_ask_for_memory_by_size_and_processes(rule, settings, size, processes):
    source = re.search(r"^def need\(.*?(?=^def )", (ROOT / "rules/common.smk").read_text(), re.DOTALL | re.MULTILINE)[0]
    amounts = yaml.safe_load((ROOT / "rules/needs.yaml").read_text())
    names = {"doctor": doctor, "settings": load(settings), "NEEDS": amounts}
    exec(source, names)
    assert names["need"](rule, "mem_mb") == processes * amounts[rule][size]["mem_mb"]
    assert names["need"](rule, "gpu_mem_mb") == amounts[rule][size]["gpu_mem_mb"]


def test_at_the_miniature_size_every_job_fits_a_machine_of_8_gb():
    needs = yaml.safe_load((ROOT / "rules/needs.yaml").read_text())
    assert max(sizes["miniature"]["mem_mb"] for sizes in needs.values()) <= 8000
    text = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    assert max(int(amount) for amount in re.findall(r"mem_mb=growing\((\d+)\)", text)) <= 8000


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
@pytest.mark.parametrize("linked", [False, True])
def test_cleaning_removes_what_is_simulated_and_nothing_else(tmp_path, linked):
    work = tmp_path / "work"
    data = tmp_path / "elsewhere" if linked else work / "data"
    kept = ["prepared/sub-02/responses.h5", "prepared/sub-02/responses.run.json", "nsd/nsddata_betas/real.mgh"]
    made = ["prepared/sub-01/responses.h5", "prepared/sub-01/responses.run.json", "nsd/nsddata_betas/made.mgh"]
    for name in (*kept, *made):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text("")
    work.mkdir(exist_ok=True)
    if linked:
        (work / "data").symlink_to(data)
    (work / "results").mkdir()
    (work / "precious").touch()
    for subject, origin in ((1, "simulated"), (2, "own")):
        (data / f"prepared/sub-0{subject}/responses.run.json").write_text(json.dumps({"data": origin}))
    (data / "nsd/SIMULATED.json").touch()
    lines = [{"key": key, "checked": "simulated"} for key in ("nsddata_betas/made.mgh", "../../precious")]
    (data / "nsd/manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    done = subprocess.run(
        ["make", "-f", ROOT / "Makefile", "clean"], cwd=work, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [name for name in kept if (data / name).exists()] == kept
    assert [name for name in made if (data / name).exists()] == (made if linked else [])
    assert ("data is a link" if linked else "kept: data/nsd/nsddata_betas/real.mgh") in done.stdout
    assert not (work / "results").exists()
    assert (work / "precious").exists()
