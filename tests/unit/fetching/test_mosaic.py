"""People's files of MOSAIC: what is asked for, compared, planned and refused, with the words for MOSAIC."""

import json
import random

import pytest
from stand_in_bucket import Mischief, Stored, serving

from neuropictor.config import MosaicConfig
from neuropictor.config.mosaic import file_key
from neuropictor.fetching import download, manifest
from neuropictor.fetching.download import FetchError
from neuropictor.fetching.mosaic import fetch_people, plan_people

PEOPLE = ["sub-01_NOD", "sub-02_NOD", "sub-01_THINGS"]
SIZES = [30_000, 50_000, 40_000]


@pytest.fixture
def server():
    contents = (random.Random(size).randbytes(size) for size in SIZES)
    with serving({file_key(name): Stored(content) for name, content in zip(PEOPLE, contents, strict=True)}) as server:
        yield server


def test_people_are_fetched_compared_and_not_fetched_again(server, tmp_path):
    for _ in range(2):
        fetch_people(PEOPLE[:2], tmp_path, MosaicConfig(endpoint=server.address))
    assert sum(method == "GET" for method, *_ in server.requests) == 2
    for name in PEOPLE[:2]:
        assert (tmp_path / file_key(name)).read_bytes() == server.objects[file_key(name)].content
        assert manifest.read(tmp_path)[file_key(name)].checked == "md5"


def test_wrong_bytes_are_never_used(server, tmp_path):
    server.mischief = Mischief({"wrong": 1})
    with pytest.raises(FetchError, match=rf"{PEOPLE[0]}\.hdf5: md5 .* are not those at the endpoint"):
        fetch_people(PEOPLE[:1], tmp_path, MosaicConfig(endpoint=server.address))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_the_bucket_lacks_is_told_with_the_setting(server, tmp_path):
    with pytest.raises(
        FetchError, match=r"sub-03_GOD\.hdf5: .* answers 404 .*sub-01_NOD.*Check mosaic\.endpoint"
    ) as error:
        fetch_people(["sub-03_GOD"], tmp_path, MosaicConfig(endpoint=server.address))
    assert "nsd" not in str(error.value)
    with pytest.raises(ValueError, match="mosaic:sub-31_NOD is nobody of MOSAIC"):
        fetch_people(["sub-31_NOD"], tmp_path, MosaicConfig(endpoint=server.address))


@pytest.mark.parametrize("keep_raw", [False, True])
def test_the_plan_counts_the_largest_files_or_all(server, tmp_path, monkeypatch, keep_raw):
    config, out = MosaicConfig(endpoint=server.address, keep_raw=keep_raw), tmp_path / "plan.json"
    plan_people(PEOPLE, 2, tmp_path, config, out)
    plan = json.loads(out.read_text())
    assert plan["bytes_needed"] == (sum(SIZES) if keep_raw else 90_000)
    assert [(file["key"], file["size"]) for file in plan["files"]] == list(
        zip(map(file_key, PEOPLE), SIZES, strict=True)
    )
    assert {method for method, *_ in server.requests} == {"HEAD"}
    fetch_people(PEOPLE[1:2], tmp_path, config)  # what is there needs no room
    plan_people(PEOPLE, 2, tmp_path, config, out)
    assert json.loads(out.read_text())["bytes_needed"] == 70_000
    monkeypatch.setattr(download, "free_bytes", lambda folder: 69_999)
    with pytest.raises(FetchError, match=r"No room for 3 files on the disk of .*fewer people or sessions"):
        plan_people(PEOPLE, 2, tmp_path, config, out)
