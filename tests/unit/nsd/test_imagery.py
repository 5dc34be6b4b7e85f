"""NSD-Imagery's tables: runs and rows, targets, labels, and what must not train."""

import numpy as np
import pandas as pd
import pytest

from neuropictor.nsd import imagery, keys, set_b
from neuropictor.nsd.design import LEFT_OUT, TEST, TRAIN, VALIDATION, Design, load_design

VERSION = "betas_fithrf_GLMdenoise_RR"


def test_rows_are_those_that_the_list_of_runs_gives():
    first, expected = 0, {}
    for run in [
        "visA",
        "attA",
        "imgA_1",
        "visB",
        "attB",
        "imgB_1",
        "visC",
        "attC",
        "imgC_1",
        "imgA_2",
        "imgB_2",
        "imgC_2",
    ]:
        betas = 6 * 8 * (2 if run[:3] == "att" else 1)
        expected[run] = list(range(first, first + betas))
        first += betas
    assert first == 3 * 48 + 3 * 96 + 6 * 48 == imagery.ROWS
    assert {name: list(run.rows) for name, run in imagery.RUNS.items()} == expected
    # As published (cvnlab/nsddatapaper, main/nsdsetup.m).
    starts = {"visA": 0, "attA": 48, "imgA_1": 144, "visB": 192, "attB": 240, "imgB_1": 336}
    starts |= {"visC": 384, "attC": 432, "imgC_1": 528, "imgA_2": 576, "imgB_2": 624, "imgC_2": 672}
    assert {name: run.rows.start for name, run in imagery.RUNS.items()} == starts


def test_keys_are_those_of_the_bucket():
    assert keys.experiment_betas("imagery", 1, "lh", VERSION) == (
        "nsddata_betas/ppdata/subj01/fsaverage/nsdimagerybetas_fithrf_GLMdenoise_RR/lh.betas_nsdimagery.mgh"
    )
    assert keys.experiment_betas("synthetic", 8, "rh", "betas_fithrf") == (
        "nsddata_betas/ppdata/subj08/fsaverage/nsdsyntheticbetas_fithrf/rh.betas_nsdsynthetic.mgh"
    )
    assert len(imagery.shared_keys()) == 7
    assert "nsddata/experiments/nsdimagery/rawtargetimages/setB/shared0000_nsd00000.png" in imagery.shared_keys()
    tables = imagery.subject_keys(2)
    assert tables[0] == "nsddata/bdata/nsdimagery/nsdimagery_subj02_visA.tsv"
    assert len(tables) == 9 and not any("_att" in key for key in tables)


def design_of(root, shared) -> Design:
    return Design(root, 750, {1: 40}, np.zeros(1, int), np.zeros((8, 1), int), np.asarray(shared))


def nsd_shared() -> np.ndarray:
    """A thousand images with those of set B at their published places."""
    places, images = [0, 384, 412, 740, 841, 906, 999], [2950, 28751, 30856, 53881, 61177, 65872, 72948]
    return np.interp(np.arange(1000), places, images).astype(int)


def test_set_b_of_nsd_is_what_its_names_say(tmp_path):
    shared = nsd_shared()
    assert set_b.set_b_images(shared).tolist() == [28751, 30856, 53881, 61177, 65872]
    targets = imagery.targets_of(design_of(tmp_path, shared))
    assert len(targets) == 18
    assert targets.groupby("stimulus_set").size().to_dict() == {"A": 6, "B": 6, "C": 6}
    assert targets.loc["W"].tolist() == ["B", "shared0385_nsd28752.png", 28751]
    assert targets.loc["T"].tolist() == ["B", "shared0000_nsd00000.png", -1]
    assert "".join(targets.index) == "HRVLPEWKBCDTSZMYNF"
    other = shared.copy()
    other[384] += 1
    with pytest.raises(ValueError, match=r"shared image 385 is NSD's 28753.*allowed: .*shared0385_nsd28752\.png"):
        imagery.targets_of(design_of(tmp_path, other))
    with pytest.raises(ValueError, match=r"4 shared images, but set B .* has 5.*shared_images: 12"):
        set_b.set_b_images(shared[:4])


@pytest.fixture
def targets(experiments_root):
    return imagery.targets_of(load_design(experiments_root))


def test_trials_are_labelled_by_what_was_seen_and_by_the_cue_of_what_was_imagined(experiments_root, targets):
    seen = imagery.read_trials(experiments_root, 1, "vision", targets)
    assert len(seen) == 144
    assert seen["target"].value_counts().eq(8).all()
    assert (seen["target"] == seen["cue"]).sum() == 72  # half
    table = pd.read_csv(experiments_root / keys.imagery_trials(1, "visB"), sep="\t")
    assert seen["target"][48:96].tolist() == table["CONDITION"].tolist()
    assert seen["row"][48:96].tolist() == list(range(192, 240))
    imagined = imagery.read_trials(experiments_root, 1, "imagery", targets)
    assert imagined["target"].value_counts().eq(16).all()
    assert imagined["row"].tolist() == [*range(144, 192), *range(336, 384), *range(528, 720)]


def edited(root, path, change):
    table = pd.read_csv(root / keys.imagery_trials(1, "visA"), sep="\t", dtype=str)
    change(table)
    target = path / keys.imagery_trials(1, "visA")
    target.parent.mkdir(parents=True)
    table.to_csv(target, sep="\t", index=False)
    return path


def test_tables_of_other_trials_are_refused(experiments_root, targets, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"subj03_visA\.tsv is missing; fetch or simulate NSD-Imagery"):
        imagery.read_trials(experiments_root, 3, "vision", targets)

    def cut(table):
        table.loc[3, "CONDITION"] = table.loc[table["CONDITION"] != table.loc[3, "CONDITION"], "CONDITION"].iloc[0]

    with pytest.raises(ValueError, match=r"visA\.tsv: CONDITION has .* 7.*allowed: each of H, R, V, L, P, E 8 times"):
        imagery.read_trials(edited(experiments_root, tmp_path / "cut", cut), 1, "vision", targets)

    def swap(table):
        first, second = table.index[table["CONDITION"] == "H"][0], table.index[table["CONDITION"] == "V"][0]
        table.loc[[first, second], "CONDITION"] = ["V", "H"]

    with pytest.raises(ValueError, match=r"visA\.tsv, line \d+: CONDITION is .*, but FRAMEFILE is"):
        imagery.read_trials(edited(experiments_root, tmp_path / "swap", swap), 1, "vision", targets)

    def rename(table):
        table.insert(0, "COND", table.pop("CONDITION"))

    with pytest.raises(ValueError, match=r"cannot be read \('CONDITION'\); allowed: NSD's table of 48 trials"):
        imagery.read_trials(edited(experiments_root, tmp_path / "rename", rename), 1, "vision", targets)


def test_set_b_never_trains(caplog):
    caplog.set_level("INFO")
    shared = nsd_shared()
    nsd_ids = np.array([28751, 65872, 7, 30856, 8])
    split = np.array([TRAIN, VALIDATION, TRAIN, TEST, VALIDATION], np.int8)
    with pytest.raises(
        ValueError, match=r"elsewhere: image 28751 trains or validates, but it is in set B of NSD-Imagery"
    ):
        set_b.check_untrained(split, nsd_ids, shared, "elsewhere")
    left = set_b.leave_out_of_training(split, nsd_ids, shared, "subject 9")
    assert left.tolist() == [LEFT_OUT, LEFT_OUT, TRAIN, TEST, VALIDATION]
    assert "subject 9: images 28751, 65872 are left out" in caplog.text
    set_b.check_untrained(left, nsd_ids, shared, "elsewhere")
    set_b.check_untrained(split, nsd_ids, shared[:3], "a root too small for set B")


def test_the_core_trains_on_no_image_of_set_b(experiments_root):
    design = load_design(experiments_root)
    split, trials = design.splits(1, 2), design.trials(1)
    used = trials["nsd_id"][split != TEST]
    assert not np.isin(used, set_b.set_b_images(design.shared)).any()
