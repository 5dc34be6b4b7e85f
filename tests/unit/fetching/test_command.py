"""What surrounds fetching: the plan, the manifest, COCO's archives, keys and the command."""

import json
import os
import random
import threading
import zipfile

import pytest
import yaml
from stand_in_bucket import Stored, serving
from typer.testing import CliRunner

from neuropictor.cli import app as cli
from neuropictor.cli import options as cli_options
from neuropictor.config import NsdConfig
from neuropictor.fetching import manifest, part_file
from neuropictor.fetching import nsd as fetch
from neuropictor.fetching.bucket import FetchError, Retries
from neuropictor.fetching.part_file import DiskFullError
from neuropictor.nsd import keys

KEY = keys.EXPERIMENT_DESIGN
CONTENT = random.Random(0).randbytes(50_000)
QUICK = Retries(attempts=3, first_wait=0.001, longest_wait=0.002, timeout=5)


@pytest.fixture(autouse=True)
def _local_and_quick(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(os, "fsync", lambda file: None)


def test_the_manifest_bears_many_writers_and_a_cut_line(tmp_path, caplog):
    entries = [manifest.Entry(f"key{i}", i, "e", "s" * 64, "t", "md5") for i in range(40)]
    with open(tmp_path / manifest.NAME, "w") as file:
        file.write('{"key": "cut')
    threads = [threading.Thread(target=manifest.append, args=(tmp_path, entry)) for entry in entries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(manifest.read(tmp_path).values(), key=lambda entry: entry.size) == entries
    assert "line 1 is cut off or damaged" in caplog.text
    manifest.append(tmp_path, manifest.Entry("key0", 99, "e", "s", "t", "md5"))
    assert manifest.read(tmp_path)["key0"].size == 99


def test_verifying_finds_what_is_wrong_and_what_is_gone(tmp_path):
    others = [keys.STIMULUS_INFO, keys.own_stimuli(3), keys.STIMULI]
    with serving({key: Stored(CONTENT) for key in (KEY, *others)}) as server:
        fetch.fetch([KEY, *others], tmp_path, NsdConfig(terms_accepted=True, endpoint=server.address), QUICK)
    (tmp_path / others[0]).unlink()
    (tmp_path / others[1]).write_bytes(CONTENT[::-1])
    (tmp_path / others[2]).write_bytes(CONTENT[:9])
    found = manifest.verify(tmp_path)
    assert (found.right, found.gone) == ([KEY], [others[0]])
    assert f"{others[1]}: sha256" in found.wrong[0]
    assert f"{others[2]}: 9 bytes, 50000 were fetched; remove it and fetch it again" in found.wrong[1]
    with pytest.raises(FetchError, match=r"manifest.jsonl is missing or empty.*e\.g\. --nsd"):
        manifest.verify(tmp_path / "elsewhere")


def archive(folder, *names: str) -> Stored:
    with zipfile.ZipFile(folder / "made.zip", "w") as packed:
        for name in names:
            packed.writestr(f"annotations/{name}.json", json.dumps(name))
    return Stored((folder / "made.zip").read_bytes())


def archives(folder) -> dict:
    first, second = fetch.ARCHIVES
    names = ["captions_train2017", "captions_val2017", "instances_train2017", "instances_val2017", "person_val2017"]
    return {first: archive(folder, *names), second: archive(folder, "stuff_train2017", "stuff_val2017")}


def test_annotations_are_unpacked_and_recorded(tmp_path):
    with serving(archives(tmp_path)) as server:
        config = NsdConfig(coco_endpoint=server.address)
        fetch.fetch_annotations(tmp_path, config, QUICK)
        for kind in keys.ANNOTATION_KINDS:
            for split in keys.COCO_SPLITS:
                assert json.loads((tmp_path / keys.annotations(kind, split)).read_text()) == f"{kind}_{split}"
                assert manifest.read(tmp_path)[keys.annotations(kind, split)].checked.startswith("crc32 in")
        assert len(list((tmp_path / "annotations").iterdir())) == 6
        server.requests.clear()
        fetch.fetch_annotations(tmp_path, config, QUICK)
        assert not server.requests


def test_an_archive_that_lacks_a_file_is_told(tmp_path):
    objects = archives(tmp_path)
    objects[list(fetch.ARCHIVES)[1]] = archive(tmp_path, "stuff_train2017")
    with serving(objects) as server, pytest.raises(FetchError, match=r"lacks stuff_val2017.json.*nsd.coco_endpoint"):
        fetch.fetch_annotations(tmp_path, NsdConfig(coco_endpoint=server.address), QUICK)


def test_the_plan_counts_what_stays_and_what_passes(tmp_path, monkeypatch):
    passing = [keys.betas(1, session, "lh", "betas_fithrf") for session in range(1, 5)]
    objects = {KEY: Stored(CONTENT), **{key: Stored(CONTENT[:1000]) for key in passing}, **archives(tmp_path)}
    with serving(objects) as server:
        config = NsdConfig(terms_accepted=True, endpoint=server.address, coco_endpoint=server.address)
        fetch.plan_fetch([KEY], passing, 2, tmp_path, config, tmp_path / "plan.json")
        plan = json.loads((tmp_path / "plan.json").read_text())
        zipped = sum(len(objects[key].content) for key in fetch.ARCHIVES)
        assert plan["bytes_needed"] == 50_000 + 2 * 1000 + 2 * zipped
        assert plan["files"][0] == {"key": KEY, "size": 50_000, "etag": objects[KEY].etag}
        assert len(plan["files"]) == 7
        assert {method for method, *_ in server.requests} == {"HEAD"}
        monkeypatch.setattr(fetch, "free_bytes", lambda folder: plan["bytes_needed"] - 1)
        monkeypatch.setattr(part_file, "free_bytes", lambda folder: plan["bytes_needed"] - 1)
        with pytest.raises(DiskFullError, match="No room for 7 files on the disk"):
            fetch.plan_fetch([KEY], passing, 2, tmp_path, config, tmp_path / "plan.json")


def test_keys_by_kind():
    assert fetch.keys_of(["design"], [], None, "betas_fithrf") == [keys.EXPERIMENT_DESIGN, keys.STIMULUS_INFO]
    assert len(fetch.keys_of(["betas"], [1, 4], None, "betas_fithrf")) == 2 * (40 + 30)
    assert fetch.keys_of(["betas"], [1], [2], "betas_fithrf")[1] == keys.betas(1, 2, "rh", "betas_fithrf")
    with pytest.raises(ValueError, match="session 31 of subj04 does not exist; allowed: 1 to 30"):
        fetch.keys_of(["betas"], [4], [31], "betas_fithrf")


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command with settings of a stand-in bucket: call it with the server, then arguments."""
    monkeypatch.setattr(cli_options, "start_log", lambda: None)

    def run(server, *arguments, accepted=True):
        settings = {"terms_accepted": accepted, "endpoint": server.address, "coco_endpoint": server.address}
        (tmp_path / "my.yaml").write_text(yaml.safe_dump({"nsd": settings}))
        given = ["fetch", "--nsd", tmp_path / "nsd", "--settings", tmp_path / "my.yaml", *arguments]
        return CliRunner().invoke(cli.app, [str(item) for item in given])

    return run


def test_the_command_fetches_then_verifies(tmp_path, command):
    betas = [keys.betas(1, 2, side, "betas_fithrf_GLMdenoise_RR") for side in ("lh", "rh")]
    with serving({**{key: Stored(CONTENT) for key in betas}, **archives(tmp_path)}) as server:
        done = command(server, "--subject", 1, "--session", 2, "betas", "annotations")
        assert done.exit_code == 0, done.output
        assert (tmp_path / "nsd" / betas[1]).read_bytes() == CONTENT
        assert (tmp_path / "nsd" / keys.annotations("stuff", "val2017")).is_file()
        assert "8 files are as they were fetched, 0 are not, 2 are gone" in command(server, "--verify").output
        (tmp_path / "nsd" / betas[0]).write_bytes(b"")
        done = command(server, "--verify")
        assert done.exit_code == 1
        assert f"{betas[0]}: 0 bytes, 50000 were fetched" in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["betas"], "no subject given; betas are a subject's, e.g. --subject 1"),
        (["--subject", "4", "--session", "31", "betas"], "session 31 of subj04 does not exist; allowed: 1 to 30"),
        (["design"], "answers 404 (not found)"),
        (["--verify"], "manifest.jsonl is missing or empty"),
    ],
)
def test_the_command_refuses_without_a_traceback(command, arguments, words):
    with serving({}) as server:
        done = command(server, *arguments)
    assert done.exit_code == 1
    assert words in done.output
    assert "Traceback" not in done.output


def test_the_command_asks_for_the_agreement(command):
    with serving({}) as server:
        done = command(server, "design", accepted=False)
        assert done.exit_code == 1
        assert "https://forms.gle/xue2bCdM9LaFNMeb7" in done.output
        assert not server.requests
