"""Fetching: what is asked for, resumed, checked, recorded and refused, and with which words."""

import errno
import fcntl
import hashlib
import json
import os
import random
from dataclasses import replace

import pytest
from stand_in_bucket import Mischief, Stored, serving

from neuropictor.config import NsdConfig
from neuropictor.fetching import agreement, manifest
from neuropictor.fetching import nsd as fetch
from neuropictor.fetching.bucket import Bucket, FetchError, Remote, Retries
from neuropictor.fetching.etag import check, part_sizes
from neuropictor.fetching.part_file import PartFile, left_behind
from neuropictor.nsd import keys

KEY = keys.EXPERIMENT_DESIGN
CONTENT = random.Random(0).randbytes(50_000)
QUICK = Retries(attempts=3, first_wait=0.001, longest_wait=0.002, timeout=5)
MIB = 2**20


@pytest.fixture(autouse=True)
def _local_and_quick(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(os, "fsync", lambda file: None)


def get(server, root, *wanted, connections=4, retries=QUICK, range_bytes=4096):
    config = NsdConfig(terms_accepted=True, endpoint=server.address, connections=connections)
    fetch.fetch(wanted or [KEY], root, config, retries, range_bytes)


def refusal(server, root, *wanted, **options) -> str:
    with pytest.raises(FetchError) as error:
        get(server, root, *wanted, **options)
    assert not (root / KEY).exists()
    return str(error.value)


def ranges(server) -> list[str]:
    return [wanted for method, _, wanted, _ in server.requests if method == "GET"]


def test_a_file_arrives_in_ranges_on_condition_and_is_recorded(tmp_path):
    with serving({KEY: Stored(CONTENT)}) as server:
        get(server, tmp_path)
        etag = server.objects[KEY].etag
        assert {condition for method, *_, condition in server.requests if method == "GET"} == {f'"{etag}"'}
        assert sorted(ranges(server))[0] == "bytes=0-4095"
        assert len(ranges(server)) == 13
    assert (tmp_path / KEY).read_bytes() == CONTENT
    entry = manifest.read(tmp_path)[KEY]
    assert (entry.size, entry.etag, entry.checked) == (50_000, etag, "md5")
    assert entry.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert entry.time.endswith("+00:00")


def test_what_is_there_is_not_fetched_again(tmp_path, caplog):
    caplog.set_level("INFO")
    with serving({KEY: Stored(CONTENT)}) as server:
        get(server, tmp_path)
        before = len(ranges(server))
        get(server, tmp_path)
        assert len(ranges(server)) == before
    assert "All 1 files are there already." in caplog.text


def test_a_file_put_there_by_hand_is_compared_then_kept_or_replaced(tmp_path, caplog):
    (tmp_path / KEY).parent.mkdir(parents=True)
    (tmp_path / KEY).write_bytes(CONTENT)
    with serving({KEY: Stored(CONTENT)}) as server:
        get(server, tmp_path)
        assert not ranges(server)
        assert manifest.read(tmp_path)[KEY].sha256 == hashlib.sha256(CONTENT).hexdigest()
        server.objects[KEY] = Stored(CONTENT[::-1])
        get(server, tmp_path)
    assert (tmp_path / KEY).read_bytes() == CONTENT[::-1]
    assert "is replaced, as it is not what the endpoint has" in caplog.text


def test_only_what_is_missing_is_fetched_after_an_interruption(tmp_path):
    with serving({KEY: Stored(CONTENT)}) as server:
        remote = Remote(KEY, 50_000, server.objects[KEY].etag)
        with PartFile(tmp_path / KEY, remote) as part:
            part.write(CONTENT[:20_000], 0)
            part.keep(0, 20_000)
            part.write(CONTENT[40_000:], 40_000)
            part.keep(40_000, 50_000)
        assert left_behind(tmp_path / KEY, remote) == ([(0, 20_000), (40_000, 50_000)], "")
        get(server, tmp_path, range_bytes=15_000)
        assert sorted(ranges(server)) == ["bytes=20000-34999", "bytes=35000-39999"]
    assert (tmp_path / KEY).read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / KEY).parent.iterdir()] == [(tmp_path / KEY).name]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ({"etag": "0" * 32}, "has changed since a part of it was fetched"),
        ({"size": 49_999}, "has changed since a part of it was fetched"),
        ("{", "is damaged"),
        ("size", "does not have the size that it was left with"),
    ],
    ids=str,
)
def test_a_part_of_something_else_is_thrown_away(tmp_path, caplog, spoil, reason):
    with serving({KEY: Stored(CONTENT)}) as server:
        with PartFile(tmp_path / KEY, Remote(KEY, 50_000, server.objects[KEY].etag)) as part:
            part.keep(0, 50_000)  # noted, and never written
        if spoil == "size":
            os.truncate(part.path, 7)
        elif isinstance(spoil, dict):
            part.state.write_text(json.dumps({**json.loads(part.state.read_text()), **spoil}))
        else:
            part.state.write_text(spoil)
        get(server, tmp_path)
    assert (tmp_path / KEY).read_bytes() == CONTENT
    assert reason in caplog.text


def test_a_part_with_wrong_bytes_is_found_out_and_fetched_once_more(tmp_path, caplog):
    with serving({KEY: Stored(CONTENT)}) as server:
        with PartFile(tmp_path / KEY, Remote(KEY, 50_000, server.objects[KEY].etag)) as part:
            part.keep(0, 50_000)
        get(server, tmp_path)
    assert (tmp_path / KEY).read_bytes() == CONTENT
    assert "Fetching it once more" in caplog.text


def test_two_processes_do_not_write_the_same_file(tmp_path):
    with serving({KEY: Stored(CONTENT)}) as server:
        part = tmp_path / f"{KEY}.part"
        part.parent.mkdir(parents=True)
        with open(part, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            message = refusal(server, tmp_path)
    for words in (f"{part} is being written by another process", "one at a time", "e.g. until the .part file is gone"):
        assert words in message


def test_wrong_bytes_are_told_and_removed(tmp_path):
    with serving({KEY: Stored(CONTENT)}, Mischief({"wrong": 1})) as server:
        message = refusal(server, tmp_path)
        for words in (KEY, "50000 bytes", "MD5", f"expected {server.objects[KEY].etag} (ETag)", "e.g. over https://"):
            assert words in message
    assert not list((tmp_path / KEY).parent.iterdir())


def test_an_object_that_changes_half_way_is_told(tmp_path):
    with serving({KEY: Stored(CONTENT)}, Mischief({"swap": 0.5})) as server:
        server.next_version[KEY] = Stored(CONTENT[::-1])
        message = refusal(server, tmp_path)
        for words in (KEY, "was replaced at", "found: 412", "halves of two versions", "e.g. snakemake"):
            assert words in message
        assert not list((tmp_path / KEY).parent.iterdir())
        get(server, tmp_path)
    assert (tmp_path / KEY).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize(
    ("status", "parts"),
    [
        (403, ["answers 403 (forbidden)", "what it holds back", "e.g. nsddata/experiments", "nsd.endpoint"]),
        (404, ["answers 404 (not found)", "e.g. nsddata/experiments", "nsd.beta_version", "a mirror"]),
        (
            418,
            ["answers 418", "no answer of a public bucket", "Allowed: 200 or 206", "endpoint: https://natural-scenes"],
        ),
        (503, ["given up after 3 tries", "503 Service Unavailable", "goes on from there", "endpoint: https://natural"]),
    ],
)
def test_answers_that_are_refused(tmp_path, status, parts):
    other = keys.STIMULUS_INFO
    with serving({KEY: status, other: Stored(CONTENT)}) as server:
        message = refusal(server, tmp_path, other, KEY)
    for words in (KEY, *parts):
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
def test_what_may_pass_is_tried_again_and_in_the_end_told(tmp_path, mischief, words):
    with serving({KEY: Stored(CONTENT[:200])}, Mischief({mischief: 1}, stall=0.5)) as server:
        server.mischief.below = lambda limit: 0
        message = refusal(server, tmp_path, retries=replace(QUICK, timeout=0.2))
        assert len(ranges(server)) == 3
        assert "given up after 3 tries in a row without a new byte" in message
        assert words in message.lower()
        server.mischief.rates = {}
        get(server, tmp_path)
    assert (tmp_path / KEY).read_bytes() == CONTENT[:200]


def test_nobody_at_the_endpoint_is_told(tmp_path):
    with serving({}) as server:
        pass
    message = refusal(server, tmp_path)
    assert "given up after 3 tries" in message
    assert "no answer" in message


def test_a_server_of_whole_files_or_without_etag_is_refused(tmp_path):
    with serving({KEY: Stored(CONTENT)}) as server:
        bucket = Bucket(server.address, 1, QUICK)
        remote = bucket.find(KEY)
        answer = bucket._ask("GET", KEY)
        with pytest.raises(FetchError, match=r"only sends whole files. Allowed: .* 206"):
            bucket._check_range(remote, 0, 10, answer)
        answer.headers["ETag"] = 'W/"1"'
        with pytest.raises(FetchError, match=r"the ETag W/\"1\".*e\.g\. ETag"):
            bucket._described(KEY, answer)
        answer.close()


def test_waits_double_up_to_the_longest_and_differ():
    waits = [Retries(generator=random.Random(seed)) for seed in (1, 2)]
    first, second = ([retries.wait(failures) for failures in range(1, 9)] for retries in waits)
    assert first != second
    for failures, wait in enumerate(first):
        assert min(60, 2**failures) / 2 <= wait <= min(60, 2**failures)
    assert first == [Retries(generator=again).wait(i) for again in [random.Random(1)] for i in range(1, 9)]


def test_a_full_disk_is_told_and_what_came_is_kept(tmp_path, monkeypatch):
    written = []

    def pwrite(file, data, position, write=os.pwrite):
        if len(written) >= 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(position)
        return write(file, data, position)

    with serving({KEY: Stored(CONTENT)}) as server:
        monkeypatch.setattr(os, "pwrite", pwrite)
        message = refusal(server, tmp_path)
        monkeypatch.undo()
        for words in (
            KEY,
            "No room for",
            "on the disk of",
            "GB more are needed",
            "GB are free",
            "e.g. paths: {nsd: /scra",
        ):
            assert words in message
        before = len(ranges(server))
        get(server, tmp_path)
        assert len(ranges(server)) - before == 13 - 5
    assert (tmp_path / KEY).read_bytes() == CONTENT


def test_room_is_checked_before_the_first_byte(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(fetch, "free_bytes", lambda folder: 49_999)
    with serving({KEY: Stored(CONTENT)}) as server:
        message = refusal(server, tmp_path / "new")
        assert not ranges(server)
    assert "No room for 1 files on the disk of" in message
    assert f"0.000 GB to come, 0.0 GB free at {tmp_path}" in caplog.text
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("tells", [True, False])
def test_etags_of_uploads_in_parts(tmp_path, tells):
    content = CONTENT * 60  # 2.9 MiB
    with serving({KEY: Stored(content, MIB, tells)}) as server:
        assert server.objects[KEY].etag.endswith("-3")
        get(server, tmp_path, range_bytes=MIB)
    assert manifest.read(tmp_path)[KEY].checked == "md5 of parts"
    assert (tmp_path / KEY).read_bytes() == content


def test_parts_of_unknown_size_are_told(tmp_path, caplog):
    with serving({KEY: Stored(CONTENT, 20_001, tells_part_size=False)}) as server:
        get(server, tmp_path)
    assert manifest.read(tmp_path)[KEY].checked == "size"
    assert "cannot be recomputed (parts of unknown size); only its size, 50000 bytes, could be checked" in caplog.text


def test_wrong_bytes_of_parts_of_known_size_are_told(tmp_path):
    with serving({KEY: Stored(CONTENT, 20_001)}, Mischief({"wrong": 1})) as server:
        assert "are not those at the endpoint" in refusal(server, tmp_path)


def test_part_sizes_that_are_tried():
    assert part_sizes(491_526_304, 59) == [8 * MIB]
    assert part_sizes(39_556_875_000, 4716) == [8 * MIB]
    assert 256 * MIB in part_sizes(491_526_304, 2)
    assert part_sizes(491_526_304, 30)[0] == 16 * MIB
    assert part_sizes(50_000, 3) == []
    assert part_sizes(50_000, 1) == [50_000]
    for size, parts in ((491_526_304, 59), (20 * MIB, 2), (20 * MIB + 1, 3), (20 * MIB, 20)):
        for part in part_sizes(size, parts):
            assert -(-size // part) == parts


def test_an_etag_is_compared_byte_for_byte(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert check(tmp_path / "file", Remote("file", 0, Stored(b"").etag), None).by == "md5"
    with pytest.raises(FetchError, match="0 bytes came, expected 1"):
        check(tmp_path / "file", Remote("file", 1, Stored(b"a").etag), None)


def test_the_agreement_comes_first(tmp_path):
    with pytest.raises(agreement.AgreementError) as error:
        fetch.fetch([KEY], tmp_path, NsdConfig())
    for words in (
        "nsd.terms_accepted is false",
        "https://forms.gle/xue2bCdM9LaFNMeb7",
        "{source: fetch, terms_accepted",
    ):
        assert words in str(error.value)


def test_simulated_and_real_files_never_mix(tmp_path):
    marked = {KEY: Stored(CONTENT), keys.SIMULATED: Stored(b"{}")}
    with serving(marked) as server:
        get(server, tmp_path / "simulated")
        assert keys.is_simulated(tmp_path / "simulated")
        (tmp_path / "real/nsddata_betas").mkdir(parents=True)
        with pytest.raises(FileExistsError, match="may be the real NSD"):
            get(server, tmp_path / "real")
        del server.objects[keys.SIMULATED]
        with pytest.raises(
            FileExistsError, match=r"real files must not come among simulated ones.*e\.g\. paths: {nsd: "
        ):
            get(server, tmp_path / "simulated")
