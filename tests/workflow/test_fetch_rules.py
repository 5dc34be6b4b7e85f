"""The rules that fetch NSD: what they would do, offline; and a few of them against a local server."""

import json
import os
import re
from collections import Counter

import pytest
import yaml
from dry_runs import chain, copy_workflow, done, planned, refused
from stand_in_bucket import Stored, serving

from neuropictor.fetching import manifest
from neuropictor.fetching import nsd as fetch
from neuropictor.nsd import imagery, keys, synthetic

pytestmark = pytest.mark.workflow
VERSION = "betas_fithrf_GLMdenoise_RR"
#: Nobody answers there.
NOWHERE = {
    "source": "fetch",
    "terms_accepted": True,
    "endpoint": "http://127.0.0.1:9",
    "coco_endpoint": "http://127.0.0.1:9",
}
ONE = {"pretrain": [4], "refine": [4]}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return copy_workflow(tmp_path_factory.mktemp("checkout"))


def test_a_dry_run_needs_no_network(checkout):
    jobs = planned(checkout, {"nsd": NOWHERE, "subjects": ONE})
    others = Counter({rule: count for rule, count in chain(1).items() if not rule.startswith("simulate")})
    once = dict.fromkeys(["fetch_plan", "fetch_design", "fetch_images", "fetch_annotations"], 1)
    assert jobs == others + Counter(once | {"fetch_betas": 30, "preprocess_session": 30})


def test_the_preset_asks_for_the_agreement(checkout):
    message = refused(checkout, {}, "presets/nsd.yaml")
    assert "nsd.terms_accepted is false" in message
    assert "https://forms.gle/xue2bCdM9LaFNMeb7" in message
    assert "Traceback" not in message


def test_the_presets_plan_the_sessions_of_their_release_offline(checkout):
    accepted = {"nsd": {"terms_accepted": True, "endpoint": "http://127.0.0.1:9"}, "runtime": {"track_code": False}}
    for presets, sessions in (
        (["presets/nsd.yaml"], 4 * 37 + 2 * 29 + 2 * 27),
        (["presets/nsd.yaml", "presets/nsd-1-session.yaml"], 284),
    ):
        jobs = planned(checkout, accepted, *presets, targets=["preprocess"])
        assert jobs["fetch_betas"] == jobs["preprocess_session"] == sessions
        assert jobs["preprocess_subject"] == 8
        assert not {"calibrate", "simulate_images", "cache_latents"} & set(jobs)


def test_files_are_planned_fetched_and_not_fetched_again(checkout, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    shared = [keys.EXPERIMENT_DESIGN, keys.STIMULUS_INFO, keys.STIMULI]
    wanted = [*shared, *fetch.keys_of(["betas"], [4], None, VERSION)]
    objects = {key: Stored(os.urandom(3000)) for key in [*wanted, *fetch.ARCHIVES]}
    beta = keys.betas(4, 7, "rh", VERSION)
    with serving(objects) as server:
        settings = {"nsd": {**NOWHERE, "endpoint": server.address, "coco_endpoint": server.address}, "subjects": ONE}
        targets = [f"data/nsd/{key}" for key in (keys.EXPERIMENT_DESIGN, beta)]
        assert planned(checkout, settings, targets=targets) == Counter(fetch_plan=1, fetch_design=1, fetch_betas=1)
        done(checkout, "--notemp", "--", *targets, settings=settings)
        assert sum(method == "GET" for method, *_ in server.requests) == 4
    assert set(manifest.read(checkout / "data/nsd")) == {*shared[:2], beta, beta.replace("rh.", "lh.")}
    assert (checkout / "data/nsd" / beta).read_bytes() == objects[beta].content
    edit = checkout / "neuropictor/fetching/folder.py"
    edit.write_text(edit.read_text().replace("if not missing:", "if len(missing) == 0:"))
    other = {"nsd": {**NOWHERE, "connections": 3}, "subjects": {"pretrain": [4, 8], "refine": [4]}}
    assert planned(checkout, other, targets=targets) == Counter()


def test_test_sets_are_planned_with_all_their_files(checkout, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    names, sides = ("imagery", "synthetic"), ("lh", "rh")
    of_four = [keys.experiment_betas(name, 4, side, VERSION) for name in names for side in sides]
    small = [*imagery.shared_keys(), *imagery.subject_keys(4), *synthetic.shared_keys(), *synthetic.subject_keys(4)]
    core = [keys.EXPERIMENT_DESIGN, keys.STIMULUS_INFO, keys.STIMULI]
    betas = [*fetch.keys_of(["betas"], [4], None, VERSION), *of_four]
    sizes = {key: 700 + place for place, key in enumerate([*core, *small, *betas, *fetch.ARCHIVES])}
    asked = {"test_sets": [*names]}
    plan = checkout / "data/nsd/plan.json"
    plan.unlink(missing_ok=True)
    with serving({key: Stored(os.urandom(size)) for key, size in sizes.items()}) as server:
        nsd = {**NOWHERE, **asked, "endpoint": server.address, "coco_endpoint": server.address}
        settings = {"nsd": nsd, "subjects": ONE}
        jobs = planned(checkout, settings, targets=["preprocess"])
        expected = {"fetch_test_betas": 2, "fetch_imagery_images": 1, "fetch_imagery_trials": 1}
        expected |= {"fetch_synthetic_images": 1, "fetch_synthetic_colours": 1, "preprocess_test_set": 3}
        assert {rule: jobs[rule] for rule in expected} == expected
        targets = ["data/nsd/plan.json", f"data/nsd/{of_four[3]}", f"data/nsd/{imagery.subject_keys(4)[0]}"]
        done(checkout, "--notemp", "--", *targets, settings=settings)
    found = {file["key"]: file["size"] for file in json.loads(plan.read_text())["files"]}
    assert found == sizes
    for key in (*of_four[2:], *imagery.subject_keys(4)):
        assert (checkout / "data/nsd" / key).stat().st_size == sizes[key]


def test_profiles_keep_to_the_room_that_the_plan_reserves(checkout):
    common = (checkout / "rules/common.smk").read_text()
    reserved = {
        name: int(re.search(rf"^{name.upper()}_AT_ONCE = (\d+)", common, re.MULTILINE)[1])
        for name in ("sessions", "people")
    }
    for profile in ("default", "slurm"):
        found = yaml.safe_load((checkout / f"profiles/{profile}/profile.v9+.yaml").read_text())
        assert found["resources"] | reserved == found["resources"]
    names = ("fetch_nsd", "preprocess", "test_sets", "fetch_mosaic", "import")
    rules = "".join((checkout / f"rules/{name}.smk").read_text() for name in names)
    for rule, resource in (
        ("as fetch_betas with:", "sessions=1,"),
        ("rule preprocess_session:", "sessions=1,"),
        ("as fetch_test_betas with:", "sessions=1,"),
        ("rule preprocess_test_set:", "sessions=1,"),
        ("rule fetch_mosaic:", "people=1,"),
        ("rule import_betas:", "people=lambda"),
    ):
        assert resource in rules.partition(rule)[2].partition("params:")[0].partition("\n\n\n")[0]
