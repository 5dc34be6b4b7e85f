"""All questions of presets/generalise.yaml, on the tiny chain: each is answered by a table and a part of the page."""

import csv
import re

import h5py
import numpy as np
import pytest
from tiny_chain import ROOT, WARM, snakemake

pytestmark = pytest.mark.workflow
PRESET = [ROOT / "presets/generalise.yaml"]


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generalise")
    snakemake(folder, further=PRESET, program=WARM)
    assert "Nothing to be done" in snakemake(folder, further=PRESET)
    return folder / "results/experiments/generalise"


def test_the_page_has_every_question(asked):
    page = (asked / "report/generalisation.html").read_text()
    assert "SIMULATED" in re.search("<h1>(.*)</h1>", page)[1]
    titles = re.findall("<h2>(.*)</h2>", page)
    assert titles == [
        *("NSD-Imagery, seen", "NSD-Imagery, imagined", "NSD-synthetic", "New people"),
        *("Kinds of images held out of training", "Bottleneck", "Two readings of one brain", "Ceilings"),
    ]
    assert page.count("data:image/png") == 5


@pytest.mark.parametrize(
    ("test_set", "groups"),
    [
        ("vision", {"all": 12, "A": 6, "B": 6}),
        ("imagery", {"all": 12, "A": 6, "B": 6}),
        ("synthetic", {"all": 284, "Words": 40, "Spiral": 112, "Chromatic": 64}),
    ],
)
def test_each_test_set_is_scored_by_kind(asked, test_set, groups):
    table = rows(asked / f"test_sets/{test_set}/metrics.csv")
    counts = {row["group"]: int(row["n_images"]) for row in table if row["metric"] == "two_way"}
    for name, count in groups.items():
        assert count in [number for group, number in counts.items() if name.lower() in group.lower()]
    assert {row["model"] for row in table} == {"refined", "ridge_diffusion", "ridge", "nearest", "mean_image"}
    samples = {"vision": 1, "imagery": 1, "synthetic": 1}[test_set]
    with h5py.File(asked / f"test_sets/{test_set}/sub-01/refined.h5") as file:
        assert file["images"].shape[:2] == ({"synthetic": 284}.get(test_set, 18), samples)


def test_held_out_images_and_test_sets_train_nobody(asked):
    prepared = asked.parents[2] / "data/prepared"
    held_out = {int(row["nsd_id"]) for row in rows(asked / "hold_out/clusters.csv") if row["held_out"] == "1"}
    assert held_out
    further = set()
    for name in ("vision", "imagery", "synthetic"):
        with h5py.File(prepared / f"sub-01/{name}/responses.h5") as file:
            further |= set(file["nsd_id"][:].tolist())
    for subject in ("01", "02"):
        with h5py.File(asked / f"hold_out/sub-{subject}/responses.h5") as file:
            trained = set(file["nsd_id"][:][file["split"][:] != 2].tolist())
        assert trained
        assert not trained & (held_out | further)


def test_new_people_have_their_pairs_alone(asked):
    found = {row["group"]: row["model"] for row in rows(asked / "new_people/metrics.csv")}
    assert list(found) == ["0", "10", "all"]
    for pairs, expected in (("10", 10), ("all", None)):
        with h5py.File(asked / f"new_people/pairs-{pairs}/sub-01/responses.h5") as file:
            trained = np.unique(file["nsd_id"][:][file["split"][:] == 0])
        assert expected is None or len(trained) == expected
