"""Downloads: resumed, compared, told; over bad lines from bad servers, killed, and never a wrong file."""

import errno
import fcntl
import hashlib
import io
import os
import random
import re
import subprocess
import sys

import pytest
from killed_fetch import PROGRAM, ROOT, campaign
from requests import Response
from stand_in_bucket import Mischief, Stored, serving

from neuropictor.fetching import download, manifest
from neuropictor.fetching.download import Client, FetchError, compare
from neuropictor.nsd import keys

KEY = "folder/file [1].mgh"
CONTENT = random.Random(0).randbytes(50_000)


def get(server, root, known="", connections=4) -> list:
    """Download all that the server has; return what was noted."""
    client, noted = Client(connections), []
    remotes = client.find_all(server.address, server.objects)
    client.download(remotes, root, dict.fromkeys(server.objects, known), lambda *what: noted.append(what))
    return noted


def refusal(server, root, **options) -> str:
    with pytest.raises(FetchError) as error:
        get(server, root, **options)
    assert not (root / KEY).exists()
    return str(error.value)


def requests(server) -> list[tuple[str, str]]:
    """Ranges and conditions of the requests for bytes."""
    return [(wanted, condition) for method, _, wanted, condition in server.requests if method == "GET"]


def interrupt(server, root, at: int) -> None:
    """Leave a part of so many bytes, as a killed process does."""
    remote = Client(1).find(server.address, KEY)
    part = download._part(root / KEY, remote)
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(server.objects[KEY].content[:at])


def test_a_file_arrives_in_one_request_and_its_part_is_gone(tmp_path):
    with serving({KEY: Stored(CONTENT), "empty": Stored(b"")}) as server:
        noted = get(server, tmp_path)
        assert requests(server) == [("", "")]
    assert (tmp_path / KEY).read_bytes() == CONTENT
    assert (tmp_path / "empty").read_bytes() == b""
    assert sorted((remote.key, checked) for remote, _, checked in noted) == [("empty", "md5"), (KEY, "md5")]
    assert [path.name for path in (tmp_path / KEY).parent.iterdir()] == ["file [1].mgh"]


def test_a_part_goes_on_from_its_last_block_on_condition(tmp_path):
    with serving({KEY: Stored(CONTENT)}) as server:
        interrupt(server, tmp_path, 20_000)
        get(server, tmp_path)
        assert requests(server) == [(f"bytes={4 * 4096}-", f'"{server.objects[KEY].etag}"')]
    assert (tmp_path / KEY).read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_sends_the_whole_file(tmp_path):
    with serving({KEY: Stored(CONTENT)}, Mischief({"whole": 1})) as server:
        interrupt(server, tmp_path, 20_000)
        get(server, tmp_path)
        assert len(requests(server)) == 1
    assert (tmp_path / KEY).read_bytes() == CONTENT


def test_a_part_of_another_version_is_thrown_away(tmp_path, caplog):
    with serving({KEY: Stored(CONTENT)}) as server:
        interrupt(server, tmp_path, 20_000)
        server.objects[KEY] = Stored(CONTENT[::-1])
        get(server, tmp_path)
    assert (tmp_path / KEY).read_bytes() == CONTENT[::-1]
    assert "has changed since a part of it was fetched" in caplog.text


def test_an_object_that_changes_half_way_is_fetched_anew(tmp_path, caplog):
    with serving({KEY: Stored(CONTENT)}, Mischief({"drop": 1})) as server:
        server.next_version[KEY] = Stored(CONTENT[::-1])
        interrupt(server, tmp_path, 20_000)
        server.mischief.rates = {"swap": 1}
        [(remote, *_)] = get(server, tmp_path)
        assert remote.etag == Stored(CONTENT[::-1]).etag
    assert (tmp_path / KEY).read_bytes() == CONTENT[::-1]
    assert "was replaced at" in caplog.text


@pytest.mark.parametrize("spoil", [CONTENT[:20_000][::-1], CONTENT + b"more"], ids=["wrong", "long"])
def test_a_part_with_wrong_bytes_is_fetched_once_more(tmp_path, spoil):
    with serving({KEY: Stored(CONTENT)}) as server:
        interrupt(server, tmp_path, 0)
        next((tmp_path / KEY).parent.iterdir()).write_bytes(spoil)
        get(server, tmp_path)
    assert (tmp_path / KEY).read_bytes() == CONTENT


def test_wrong_bytes_are_told_and_removed(tmp_path):
    with serving({KEY: Stored(CONTENT)}, Mischief({"wrong": 1})) as server:
        message = refusal(server, tmp_path)
        for words in (KEY, "50000 bytes", "md5", f"expected {server.objects[KEY].etag}", "e.g. over https://"):
            assert words in message
        server.mischief.rates, server.objects[KEY] = {}, Stored(CONTENT, 20_001)
        assert "sha256" in refusal(server, tmp_path, known="0" * 8)
    assert not list((tmp_path / KEY).parent.iterdir())


@pytest.mark.parametrize(("part_size", "known", "checked"), [(None, "", "md5"), (999, "", "size"), (9, "d7", "sha256")])
def test_what_is_compared(tmp_path, part_size, known, checked):
    (tmp_path / "file").write_bytes(b"")
    sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    with serving({"file": Stored(b"", part_size)}) as server:
        remote = Client(1).find(server.address, "file")
        assert compare(tmp_path / "file", remote, known and sha256[:8]) == (sha256, checked)
        (tmp_path / "file").write_bytes(b"a")
        with pytest.raises(FetchError, match="1 bytes came, expected 0"):
            compare(tmp_path / "file", remote)


@pytest.mark.parametrize(
    ("part_size", "checked"),
    [(8000, "md5 of parts"), (12_000, "md5 of parts"), (24_000, "size"), (20_001, "size")],
)
def test_uploads_in_parts_are_compared_where_the_parts_can_be_told(tmp_path, monkeypatch, part_size, checked):
    """The usual part is told apart from all, others by being a multiple of the unit, while few of these fit."""
    monkeypatch.setattr(download, "PART_UNIT", 1000)
    monkeypatch.setattr(download, "USUAL_PART", 8000)
    with serving({KEY: Stored(CONTENT, part_size)}) as server:
        assert [how for *_, how in get(server, tmp_path)] == [checked]
        again = get(server, tmp_path, known=hashlib.sha256(CONTENT).hexdigest()[:8])
        assert [how for *_, how in again] == ["sha256"]


def test_wrong_bytes_of_an_upload_in_many_parts_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PART_UNIT", 400)
    monkeypatch.setattr(download, "USUAL_PART", 400)
    with serving({KEY: Stored(CONTENT, 400)}, Mischief({"wrong": 1})) as server:
        assert "md5 of parts" in refusal(server, tmp_path)
        server.mischief.rates = {}
        assert [how for *_, how in get(server, tmp_path)] == ["md5 of parts"]


def test_two_processes_do_not_write_the_same_file(tmp_path):
    with serving({KEY: Stored(CONTENT)}) as server:
        interrupt(server, tmp_path, 9)
        part = next((tmp_path / KEY).parent.iterdir())
        with open(part, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            message = refusal(server, tmp_path)
    for words in (f"{part} is being written by another process", "one at a time", "e.g. until the .part file is gone"):
        assert words in message


ANSWERS = {
    403: ["answers 403 (Forbidden)", "what it holds back", "e.g. nsddata/experiments", "nsd.endpoint"],
    404: ["answers 404 (Not Found)", "e.g. nsddata/experiments", "nsd.beta_version", "a mirror"],
    418: ["answers 418", "no answer of a public bucket", "Allowed: 200 or 206", "endpoint: https://natural-scenes"],
    503: ["given up after 3 tries", "503 Service Unavailable", "goes on from there", "endpoint: https://natural"],
}


@pytest.mark.parametrize("status", ANSWERS)
def test_answers_that_are_refused(tmp_path, status):
    with serving({"other": Stored(CONTENT), KEY: status}) as server:
        message = refusal(server, tmp_path)
    for words in (KEY, *ANSWERS[status]):
        assert words in message


@pytest.mark.parametrize(
    ("mischief", "words"),
    [
        ("stall", "timed out"),
        ("drop", "the connection failed"),
        ("reset", "the connection failed"),
        ("503", "503"),
        ("short", "bytes short"),
    ],
)
def test_what_may_pass_is_tried_again_and_in_the_end_told(tmp_path, monkeypatch, mischief, words):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    with serving({KEY: Stored(CONTENT[:200])}, Mischief({mischief: 1}, stall=0.5)) as server:
        server.mischief.below = lambda limit: 0
        message = refusal(server, tmp_path)
        assert len(requests(server)) == 3
        assert "given up after 3 tries in a row without a new byte" in message
        assert words in message.lower()
        server.mischief.rates = {}
        get(server, tmp_path)
    assert (tmp_path / KEY).read_bytes() == CONTENT[:200]


def test_a_server_that_never_ends_is_told(tmp_path):
    with serving({KEY: Stored(CONTENT)}, Mischief({"endless": 1})) as server:
        assert f"{KEY}: {server.address} sends more than the 50000 bytes told" in refusal(server, tmp_path)


def test_a_server_that_is_too_slow_is_given_up_and_what_came_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 0.2)
    monkeypatch.setattr(download, "SLOWEST", 10**6)
    with serving({KEY: Stored(CONTENT)}, Mischief(bytes_per_second=20_000)) as server:
        assert "bytes came in 0 s. Allowed: 1000000 bytes a second or more" in refusal(server, tmp_path)
        assert len(requests(server)) == 1
        assert (part := next((tmp_path / KEY).parent.iterdir())).stat().st_size < len(CONTENT)
    assert CONTENT.startswith(part.read_bytes())


@pytest.mark.parametrize("size", ["-5", "abc"])
def test_a_size_that_is_none_is_refused(monkeypatch, size):
    client, answer = Client(1), Response()
    answer.status_code, answer.url, answer.headers["Content-Length"] = 200, "http://here/x", size
    answer.headers["ETag"], answer.raw = '"e"', io.BytesIO()
    monkeypatch.setattr(client._session, "request", lambda *given, **options: answer)
    with pytest.raises(FetchError, match=f"x: http://here tells the size {size}"):
        client.find("http://here", "x")


def test_nobody_gets_the_credentials_of_their_host(tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with serving({KEY: Stored(CONTENT)}) as server, serving({KEY: 302}) as first:
        first.sent_on[KEY] = f"{server.address}/{KEY.replace(' ', '%20')}"
        get(first, tmp_path)
        assert [method for method, *_ in server.requests] == ["HEAD", "GET"]
        assert server.credentials == first.credentials == []


def test_a_secure_endpoint_that_sends_on_to_an_insecure_one_is_refused(monkeypatch):
    client, answer = Client(1), Response()
    answer.status_code, answer.url, answer.raw = 200, "http://elsewhere/x", io.BytesIO()
    monkeypatch.setattr(client._session, "request", lambda *given, **options: answer)
    with pytest.raises(FetchError, match=r"x: https://here sends on to http://elsewhere/x.*stays with https://"):
        client.find("https://here", "x")


@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo"])
def test_what_lies_in_the_place_of_a_part_is_never_written_through(tmp_path, kind):
    with serving({KEY: Stored(CONTENT)}) as server:
        interrupt(server, tmp_path, 9)
        part, precious = next((tmp_path / KEY).parent.iterdir()), tmp_path / "precious"
        precious.write_text("of somebody else")
        part.unlink()
        {"symlink": part.symlink_to, "hard link": part.hardlink_to}.get(kind, lambda _: os.mkfifo(part))(precious)
        assert f"{part} is a link or no file" in refusal(server, tmp_path)
    assert precious.read_text() == "of somebody else"


def test_files_are_fetched_and_noted_where_there_are_no_locks(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with serving({KEY: Stored(CONTENT)}) as server:
        ((remote, sha256, checked),) = get(server, tmp_path)
        manifest.note(tmp_path, KEY, sha256, remote.etag, checked)
    assert manifest.verify(tmp_path).right == [KEY]


def test_nobody_at_the_endpoint_is_told():
    with serving({}) as server:
        pass
    with pytest.raises(FetchError, match=r"given up after 3 tries .* no answer"):
        Client(1).find(server.address, KEY)


def test_a_server_without_a_strong_etag_is_refused(monkeypatch):
    monkeypatch.setattr(Stored, "etag", "")
    with serving({KEY: Stored(CONTENT)}) as server, pytest.raises(FetchError, match=r"the ETag \"\".*e\.g\. ETag"):
        Client(1).find(server.address, KEY)


def test_a_full_disk_is_told_and_what_came_is_kept(tmp_path, monkeypatch):
    def fsync(file, calls=[]):  # noqa: B006
        calls.append(file)
        if len(calls) == 6:
            raise OSError(errno.ENOSPC, "No space left on device")

    with serving({KEY: Stored(CONTENT)}) as server:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fsync)
            message = refusal(server, tmp_path)
        for words in (KEY, "No room for", "GB more are needed", "GB are free", "e.g. paths: {nsd: /scra"):
            assert words in message
        get(server, tmp_path)
        assert int(re.search(r"\d+", requests(server)[-1][0])[0]) >= 5 * 4096
    assert (tmp_path / KEY).read_bytes() == CONTENT


def test_room_is_checked_before_the_first_byte(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(download, "free_bytes", lambda folder: 49_999)
    with serving({KEY: Stored(CONTENT)}) as server:
        message = refusal(server, tmp_path / "new")
        assert not requests(server)
    assert "No room for 1 files on the disk of" in message
    assert f"0.000 GB to come, 0.0 GB free at {tmp_path}" in caplog.text
    assert not (tmp_path / "new").exists()


#: What an error may say, and what must have happened then.
CAUSES = {
    "was replaced": "swap",
    "are not those at": "wrong",
    "given up after 6 tries": "503",  # or anything else that may pass
    "403 (Forbidden)": "403",
    "404 (Not Found)": "404",
}


def scenario(seed: int) -> tuple[Stored, Stored, Mischief]:
    """Choose an object, its next version, and what goes wrong."""
    chance = random.Random(seed)
    size = chance.choice([0, 1, chance.randrange(1, 2000), *[chance.randrange(20_000, 60_000)] * 9])
    versions = [Stored(chance.randbytes(size)) for _ in range(2)]
    rates = {name: chance.choice([0.0, 0.1, 0.3]) for name in ("drop", "reset", "503", "short", "whole")}
    special = chance.random()
    if special < 0.15:
        rates = {"swap": 0.4, **rates}
    elif special < 0.3:
        rates = {"wrong": chance.choice([0.1, 1.0]), **rates}
    elif special < 0.35:
        rates = {"503": 0.97}
    elif special < 0.45:
        rates = {chance.choice(["403", "404"]): 0.6, **rates}
    return *versions, Mischief(rates, seed)


def test_two_hundred_fetches_end_in_the_right_file_or_the_right_message(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 6)
    outcomes = []
    for seed in range(200):
        root = tmp_path / str(seed)
        first, second, mischief = scenario(seed)
        with serving({KEY: first}, mischief) as server:
            server.next_version[KEY] = second
            try:
                get(server, root)
                outcomes.append("arrived")
            except FetchError as error:
                outcome = next(text for text in CAUSES if text in str(error))
                assert outcome.startswith("given up") or mischief.done[CAUSES[outcome]], f"seed {seed}: {error}"
                assert not (root / KEY).exists(), f"seed {seed}: a file in spite of {error}"
                outcomes.append(outcome)
                mischief.rates = {}
                get(server, root)
        content = (root / KEY).read_bytes()
        assert content in (first.content, second.content), f"seed {seed}: wrong bytes under the final name"
        assert [path.name for path in (root / KEY).parent.iterdir()] == [(root / KEY).name]
    assert all(outcomes.count(text) for text in ("arrived", *list(CAUSES)[1:])), outcomes
    assert outcomes.count("arrived") > 100


def test_killed_fetches_go_on_and_end_in_the_same_bytes(tmp_path):
    seen = campaign(tmp_path, kills=4, seed=0, megabytes=1, seconds=0.8)
    assert seen["kills"] == 4
    assert seen["fetches that ended"] >= 1
    # A kill loses at most a block of each file, and what was on its way.
    assert seen["bytes sent"] <= seen["fetches that ended"] * seen["bytes of the files"] + 4 * 2 * (65536 + 2**19)


def test_a_fetch_that_has_ended_is_not_repeated(tmp_path):
    key = keys.betas(1, 1, "lh", "betas_fithrf_GLMdenoise_RR")
    with serving({key: Stored(b"beta" * 999)}) as server:
        for _ in range(2):
            command = [sys.executable, "-c", PROGRAM, server.address, str(tmp_path), key]
            subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_PROXY": "127.0.0.1"}, check=True)
        assert sum(method == "GET" for method, *_ in server.requests) == 1
