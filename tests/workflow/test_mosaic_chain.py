"""People of MOSAIC from a bucket to scores, beside a simulated NSD: fetched, killed, continued, trained together."""

import json
import os
import signal
import subprocess
import time

import lab_files
import numpy as np
import pytest
import yaml
from PIL import Image
from stand_in_bucket import Mischief, Stored, serving
from tiny_chain import WARM, command, snakemake

from neuropictor.config import PreprocessConfig
from neuropictor.config.mosaic import file_key
from neuropictor.data.own_data import import_betas
from neuropictor.data.responses import ResponseStore
from neuropictor.fetching import manifest
from neuropictor.fetching.download import BLOCK_BYTES, USUAL_PART

pytestmark = pytest.mark.workflow
#: By label: name in MOSAIC, and images that train and test; those of the test come three times.
PEOPLE = {"N01": ("sub-01_NOD", 36, 8), "N02": ("sub-02_NOD", 16, 4), "T01": ("sub-01_THINGS", 16, 4)}
TABLE = """subject\tdataset\tpath\timages\tcaptions\tpretrain\trefine
1\tnsd\t\t\t\tyes\tno
N01\tNOD\tmosaic:sub-01_NOD\tstimuli/NOD\tnone\tyes\tyes
N02\tNOD\tmosaic:sub-02_NOD\tstimuli/NOD\tnone\tyes\tno
T01\tTHINGS\tmosaic:sub-01_THINGS\tstimuli/things.csv\t\tyes\tno
"""
WORDS = ("boat", "cat", "car", "mug", "tree")


def write_bucket(folder, *labels):
    """Write people's files, with uploads in parts as MOSAIC's have, and return them as objects."""
    objects = {}
    for seed, (person, train, test) in enumerate(PEOPLE[label] for label in labels):
        names = [(f"{person[-3:]}_{i}.jpg", "train") for i in range(train)]
        names += [(f"{person[-3:]}_{100 + i}.jpg", "test") for i in range(test)] * 3
        values = np.random.default_rng(seed).standard_normal((len(names), 2 * lab_files.HALF), np.float32)
        lab_files.mosaic(folder / f"{person}.hdf5", values, names, missing=range(400) if seed else ())
        objects[file_key(person)] = Stored((folder / f"{person}.hdf5").read_bytes(), USUAL_PART)
    return objects


def write_images(folder):
    """Write a folder of NOD's images, of which nobody saw all, and a table of those of THINGS."""
    generator = np.random.default_rng(0)
    rows = ["file,captions"]
    for data_set, numbers in (("NOD", (*range(40), *range(100, 110))), ("NGS", (*range(16), *range(100, 104)))):
        (folder / data_set).mkdir(parents=True)
        for number in numbers:
            name = f"{data_set}/{data_set}_{number}.jpg"
            blocks = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(blocks.repeat(16, 0).repeat(16, 1)).save(folder / name)
            if data_set == "NGS":
                rows.append(f"{name},a {generator.choice(WORDS)} and a {generator.choice(WORDS)}")
    (folder / "things.csv").write_text("\n".join(rows) + "\n")


def kill_in_the_middle(folder, large, further):
    """Run the workflow until another file is whole and more than a block of this one has come, and kill it."""
    asked = command(folder, *(f"data/prepared/sub-{label}/responses.h5" for label in PEOPLE), further=further)
    with open(folder / "killed.txt", "w+") as told:
        running = subprocess.Popen(asked, stdout=told, stderr=told, start_new_session=True)
        root = folder / "data/mosaic"

        def in_the_middle():
            parts = (path.stat().st_size for path in (root / large).parent.glob(f"{(root / large).name}.*.part"))
            return max(parts, default=0) > BLOCK_BYTES and manifest.read(root)

        while running.poll() is None and not in_the_middle():
            time.sleep(0.02)
        assert running.poll() is None, (folder / "killed.txt").read_text()
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    whole = set(manifest.read(root))
    assert large not in whole
    return whole


def test_files_are_kept_where_that_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    objects = write_bucket(tmp_path, "T01")
    (tmp_path / "subjects.tsv").write_text("".join(TABLE.splitlines(True)[::4]).replace("\tno", "\tyes"))
    with serving(objects) as server:
        settings = {"subjects": {"table": "subjects.tsv"}, "mosaic": {"endpoint": server.address, "keep_raw": True}}
        (tmp_path / "my.yaml").write_text(yaml.safe_dump(settings))
        wanted = "data/prepared/sub-T01/responses.h5"
        snakemake(tmp_path, wanted, further=[tmp_path / "my.yaml"], program=WARM)
    ((key, stored),) = objects.items()
    assert (tmp_path / "data/mosaic" / key).read_bytes() == stored.content
    assert (tmp_path / wanted).is_file()


def test_people_of_mosaic_are_fetched_killed_continued_and_trained_with_nsds(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    objects = write_bucket(tmp_path, *PEOPLE)
    write_images(tmp_path / "stimuli")
    (tmp_path / "subjects.tsv").write_text(TABLE)
    large = file_key(PEOPLE["N01"][0])
    assert len(objects[large].content) > BLOCK_BYTES + 2**20
    line = Mischief(bytes_per_second=12e6)
    further = [tmp_path / "my.yaml"]
    with serving(objects, line) as server:
        settings = {"subjects": {"table": "subjects.tsv"}, "mosaic": {"endpoint": server.address}}
        further[0].write_text(yaml.safe_dump(settings))
        whole = kill_in_the_middle(tmp_path, large, further)
        line.bytes_per_second = 0
        snakemake(tmp_path, "--unlock", further=further, program=WARM)
        snakemake(tmp_path, "results/metrics.csv", further=further, program=WARM)
        assert "Nothing to be done" in snakemake(tmp_path, "results/metrics.csv", "-n", further=further)
        fetched = [(key, start) for method, key, start, _ in server.requests if method == "GET"]
    assert [start for key, start in fetched if key == large] == ["", f"bytes={BLOCK_BYTES}-"]
    assert whole and all([start for key, start in fetched if key == other] == [""] for other in whole)
    root = tmp_path / "data/mosaic"
    noted = manifest.read(root)
    assert {key: entry.checked for key, entry in noted.items()} == dict.fromkeys(objects, "md5 of parts")
    assert sorted(path.name for path in root.rglob("*") if path.is_file()) == ["manifest.jsonl", "plan.json"]
    plan = json.loads((root / "plan.json").read_text())
    sizes = sorted((len(stored.content) for stored in objects.values()), reverse=True)
    assert plan["bytes_needed"] == sum(sizes[:2]) and len(plan["files"]) == 3
    for label, (person, train, test) in PEOPLE.items():
        path = tmp_path / f"data/prepared/sub-{label}/responses.h5"
        import_betas(None, label, PreprocessConfig(), tmp_path / "direct.h5", tmp_path / f"{person}.hdf5")
        made, direct = ResponseStore(path), ResponseStore(tmp_path / "direct.h5")
        every = np.arange(len(direct))
        np.testing.assert_array_equal(made.responses(every), direct.responses(every))
        record = json.loads(path.with_suffix(".run.json").read_text())["results"]
        assert record["standardised_before"] and record["visual_angle"] == 16
        assert (record["vertices_missing"] > 0) is (label != "N01")
        images = json.loads(path.with_name("stimuli.run.json").read_text())["results"]
        assert images["images"] == train + test
    scores = (tmp_path / "results/metrics.csv").read_text()
    assert "\nN01,refined," in scores and "\nN01,pretrained," in scores and "\n01," not in scores
    pretrained = json.loads((tmp_path / "results/pretrain/run.json").read_text())
    used = " ".join(pretrained["inputs"])
    assert all(f"sub-{label}/responses.h5" in used for label in ("01", *PEOPLE))
