"""NSD's files: what is asked for, noted, planned and refused, and with which words; the command around it."""

import hashlib
import json
import random
import zipfile

import pytest
import yaml
from stand_in_bucket import Mischief, Stored, serving
from typer.testing import CliRunner

from neuropictor.cli import app as cli
from neuropictor.cli import options as cli_options
from neuropictor.config import NsdConfig
from neuropictor.fetching import agreement, download, manifest
from neuropictor.fetching import nsd as fetch
from neuropictor.fetching.download import FetchError
from neuropictor.nsd import keys

KEY = keys.EXPERIMENT_DESIGN
CONTENT = random.Random(0).randbytes(50_000)


def config(server, **more) -> NsdConfig:
    return NsdConfig(terms_accepted=True, endpoint=server.address, coco_endpoint=server.address, **more)


def sent(server) -> int:
    return sum(method == "GET" for method, *_ in server.requests)


def test_a_file_is_noted_and_not_fetched_again(tmp_path, caplog):
    caplog.set_level("INFO")
    with serving({KEY: Stored(CONTENT)}) as server:
        for _ in range(2):
            fetch.fetch([KEY], tmp_path, config(server))
        assert sent(server) == 1
        entry = manifest.read(tmp_path)[KEY]
        assert (entry.size, entry.etag, entry.checked) == (50_000, server.objects[KEY].etag, "md5")
    assert entry.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert entry.time.endswith("+00:00")
    assert "All 1 files are there already." in caplog.text


def test_a_file_put_there_by_hand_is_compared_then_kept_or_replaced(tmp_path, caplog):
    (tmp_path / KEY).parent.mkdir(parents=True)
    (tmp_path / KEY).write_bytes(CONTENT)
    with serving({KEY: Stored(CONTENT)}) as server:
        fetch.fetch([KEY], tmp_path, config(server))
        assert not sent(server)
        assert manifest.read(tmp_path)[KEY].sha256 == hashlib.sha256(CONTENT).hexdigest()
        server.objects[KEY] = Stored(CONTENT[::-1])
        fetch.fetch([KEY], tmp_path, config(server))
    assert (tmp_path / KEY).read_bytes() == CONTENT[::-1]
    assert "is replaced, as it is not what the endpoint has" in caplog.text


def test_of_uploads_in_parts_the_sha256_is_compared_from_the_second_fetch_on(tmp_path):
    with serving({KEY: Stored(CONTENT, 20_001)}, Mischief()) as server:
        fetch.fetch([KEY], tmp_path, config(server))
        assert manifest.read(tmp_path)[KEY].checked == "size"
        (tmp_path / KEY).unlink()
        server.mischief.rates = {"wrong": 1}
        with pytest.raises(FetchError, match=r"sha256 .* are not those at"):
            fetch.fetch([KEY], tmp_path, config(server))
        server.mischief.rates = {}
        fetch.fetch([KEY], tmp_path, config(server))
    assert manifest.read(tmp_path)[KEY].checked == "sha256"


def test_verifying_finds_what_is_wrong_and_what_is_gone(tmp_path):
    others = [keys.STIMULUS_INFO, keys.own_stimuli(3), keys.STIMULI]
    with serving({key: Stored(CONTENT) for key in (KEY, *others)}) as server:
        fetch.fetch([KEY, *others], tmp_path, config(server))
    (tmp_path / others[0]).unlink()
    (tmp_path / others[1]).write_bytes(CONTENT[::-1])
    (tmp_path / others[2]).write_bytes(CONTENT[:9])
    verified = manifest.verify(tmp_path)
    assert (verified.right, verified.gone) == ([KEY], [others[0]])
    problems = "\n".join(verified.wrong)
    assert f"{others[1]}: sha256" in problems
    assert f"{others[2]}: 9 bytes, 50000 bytes were fetched; remove it and fetch it again" in problems
    with pytest.raises(FileNotFoundError, match=r"manifest.jsonl is missing or empty.*e\.g\. --nsd"):
        manifest.verify(tmp_path / "elsewhere")


def archives(folder) -> dict:
    def archive(*names: str) -> Stored:
        with zipfile.ZipFile(folder / "packed.zip", "w") as packed:
            for name in names:
                packed.writestr(f"annotations/{name}.json", json.dumps(name))
        return Stored((folder / "packed.zip").read_bytes())

    first, second = fetch.ARCHIVES
    names = ["captions_train2017", "captions_val2017", "instances_train2017", "instances_val2017", "person_val2017"]
    return {
        first: archive(*names),
        second: archive("stuff_train2017", "stuff_val2017"),
        "cut": archive("stuff_val2017"),
    }


def test_annotations_are_unpacked_and_noted(tmp_path):
    with serving(archives(tmp_path)) as server:
        fetch.fetch_annotations(tmp_path, config(server))
        for kind in keys.ANNOTATION_KINDS:
            for split in keys.COCO_SPLITS:
                assert json.loads((tmp_path / keys.annotations(kind, split)).read_text()) == f"{kind}_{split}"
                assert manifest.read(tmp_path)[keys.annotations(kind, split)].checked.startswith("crc32 in")
        assert len(list((tmp_path / "annotations").iterdir())) == 6
        server.requests.clear()
        fetch.fetch_annotations(tmp_path, config(server))
        assert not server.requests


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("cut", r"it lacks annotations/stuff_train2017\.json"),
        ("elsewhere", r"it lacks annotations/stuff_train2017\.json"),
        ("damaged", "Bad CRC-32"),
        ("no archive", "not a zip file"),
        ("a bomb", r"stuff_train2017\.json has 17 bytes, more than 16"),
    ],
)
def test_an_archive_that_cannot_be_used_is_told_and_removed(tmp_path, monkeypatch, fault, words):
    objects, name = archives(tmp_path), list(fetch.ARCHIVES)[1]
    whole = objects[name].content
    content = {
        "cut": objects["cut"].content,
        "elsewhere": whole.replace(b"annotations/stuff_train", b"another/one/stuff_train"),
        "damaged": whole.replace(b'"stuff_train2017"', b'"stuff_trail2017"'),
        "no archive": b"<html>" * 99,
        "a bomb": whole,
    }[fault]
    objects[name] = Stored(content)
    if fault == "a bomb":
        monkeypatch.setattr(fetch, "LARGEST", 16)
        objects[next(iter(fetch.ARCHIVES))] = Stored(b"")
        for kind in ("captions", "instances"):
            for split in keys.COCO_SPLITS:
                path = tmp_path / keys.annotations(kind, split)
                path.parent.mkdir(exist_ok=True)
                path.touch()
    told = rf"{name} cannot be unpacked \(.*{words}.*removed.*nsd\.coco_endpoint"
    with serving(objects) as server, pytest.raises(FetchError, match=told):
        fetch.fetch_annotations(tmp_path, config(server))
    assert not (tmp_path / name).exists()
    assert not (tmp_path / keys.annotations("stuff", "train2017")).exists()


def test_an_archive_stays_where_there_is_no_room_to_unpack_it(tmp_path, monkeypatch):
    def check_room(folder, needed, what):
        raise FetchError("No room")

    monkeypatch.setattr(fetch, "check_room", check_room)
    with serving(archives(tmp_path)) as server, pytest.raises(FetchError, match="No room"):
        fetch.fetch_annotations(tmp_path, config(server))
    assert (tmp_path / next(iter(fetch.ARCHIVES))).exists()


def test_the_plan_counts_what_stays_and_what_passes(tmp_path, monkeypatch):
    passing = [keys.betas(1, session, "lh", "betas_fithrf") for session in range(1, 5)]
    objects = {KEY: Stored(CONTENT), **{key: Stored(CONTENT[:1000]) for key in passing}, **archives(tmp_path)}
    with serving(objects) as server:
        arguments = ([KEY], passing, 2, tmp_path, config(server), tmp_path / "plan.json")
        fetch.plan_fetch(*arguments)
        plan = json.loads((tmp_path / "plan.json").read_text())
        zipped = sum(len(objects[key].content) for key in fetch.ARCHIVES)
        assert plan["bytes_needed"] == 50_000 + 2 * 1000 + 2 * zipped
        assert plan["files"][0] == {"key": KEY, "size": 50_000, "etag": objects[KEY].etag}
        assert len(plan["files"]) == 7
        assert {method for method, *_ in server.requests} == {"HEAD"}
        monkeypatch.setattr(download, "free_bytes", lambda folder: plan["bytes_needed"] - 1)
        with pytest.raises(FetchError, match="No room for 7 files on the disk"):
            fetch.plan_fetch(*arguments)


def test_keys_by_kind():
    assert fetch.keys_of(["design"], [], None, "betas_fithrf") == [keys.EXPERIMENT_DESIGN, keys.STIMULUS_INFO]
    assert len(fetch.keys_of(["betas"], [1, 4], None, "betas_fithrf")) == 2 * (40 + 30)
    assert fetch.keys_of(["betas"], [1], [2], "betas_fithrf")[1] == keys.betas(1, 2, "rh", "betas_fithrf")
    with pytest.raises(ValueError, match="session 31 of subj04 does not exist; allowed: 1 to 30"):
        fetch.keys_of(["betas"], [4], [31], "betas_fithrf")


def test_the_agreement_comes_first(tmp_path):
    with pytest.raises(agreement.AgreementError) as error:
        fetch.fetch([KEY], tmp_path, NsdConfig())
    for words in ("nsd.terms_accepted is false", "https://forms.gle/xue2bCdM9LaFNMeb7", "source: fetch, terms_acc"):
        assert words in str(error.value)


def test_simulated_and_real_files_never_mix(tmp_path):
    with serving({KEY: Stored(CONTENT), keys.SIMULATED: Stored(b"{}")}) as server:
        fetch.fetch([KEY], tmp_path / "simulated", config(server))
        assert keys.is_simulated(tmp_path / "simulated")
        (tmp_path / "real/nsddata_betas").mkdir(parents=True)
        with pytest.raises(FileExistsError, match="may be the real NSD"):
            fetch.fetch([KEY], tmp_path / "real", config(server))
        del server.objects[keys.SIMULATED]
        with pytest.raises(FileExistsError, match=r"real files must not come among simulated.*e\.g\. paths: {nsd: "):
            fetch.fetch([KEY], tmp_path / "simulated", config(server))


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command with settings of a stand-in bucket: call it with the server, then arguments."""
    monkeypatch.setattr(cli_options, "start_log", lambda **given: None)

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
        assert f"{betas[0]}: 0 bytes, 50000 bytes were fetched" in done.output


@pytest.mark.parametrize(
    ("arguments", "words", "accepted"),
    [
        (["betas"], "no subject given; betas are a subject's, e.g. --subject 1", True),
        (["--subject", "4", "--session", "31", "betas"], "session 31 of subj04 does not exist; allowed: 1 to 30", True),
        (["design"], "answers 404 (Not Found)", True),
        (["design"], "https://forms.gle/xue2bCdM9LaFNMeb7", False),
        (["--verify"], "manifest.jsonl is missing or empty", True),
    ],
)
def test_the_command_refuses_what_cannot_be_fetched(command, arguments, words, accepted):
    with serving({}) as server:
        done = command(server, *arguments, accepted=accepted)
        assert accepted or not server.requests
    assert done.exit_code == 1
    assert words in str(done.exception)
