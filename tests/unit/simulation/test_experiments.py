"""Simulated NSD-Imagery and NSD-synthetic: NSD's names, shapes and traps, and what imagery does to responses."""

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from neuropictor.config import SimulateConfig
from neuropictor.fetching import manifest
from neuropictor.nsd import imagery, keys
from neuropictor.nsd.constants import SCREEN_GREY
from neuropictor.nsd.design import load_design
from neuropictor.simulation.brain.areas import IMAGINED_HIGH, IMAGINED_LOW
from neuropictor.simulation.brain.features import scene_groups
from neuropictor.simulation.scenes import patterns
from neuropictor.simulation.writer.imagery import write_imagery_images
from neuropictor.simulation.writer.nsd import BETA_VERSION, brain_of


def load(root, experiment, side="lh"):
    return nibabel.load(root / keys.experiment_betas(experiment, 1, side, BETA_VERSION))


@pytest.mark.parametrize(("experiment", "rows"), [("imagery", 720), ("synthetic", 744)])
def test_betas_have_nsds_form(experiments_root, experiment, rows):
    for side in ("lh", "rh"):
        image = load(experiments_root, experiment, side)
        assert image.shape == (10_242, 1, 1, rows)
        assert image.header.get_data_dtype() == np.dtype(">f4")
    known = manifest.read(experiments_root)
    assert known[keys.experiment_betas(experiment, 1, "rh", BETA_VERSION)].checked == "simulated"


def test_tables_have_nsds_columns_and_attention_has_a_table_but_two_betas_a_trial(experiments_root):
    tables = {run: pd.read_csv(experiments_root / keys.imagery_trials(1, run), sep="\t") for run in imagery.RUN_NAMES}
    assert all(len(table) == 48 and len(table.columns) == 20 for table in tables.values())
    assert tables["visA"].columns[4:8].tolist() == ["CONDITION", "CUE", "FRAMEFILE", "IMAGEFILE"]
    assert tables["visA"]["GROUNDTRUTH"].sum() == 24
    fits = tables["imgB_1"]["CONDITION"] == tables["imgB_1"]["CUE"]
    assert fits.all()
    assert tables["imgA_1"]["CUE"].tolist() != tables["imgA_2"]["CUE"].tolist()
    assert len(imagery.RUNS["attA"].rows) == 96


def test_targets_are_images_of_the_core_and_one_that_nobody_saw(experiments_root):
    design = load_design(experiments_root)
    targets = imagery.targets_of(design)
    of_nsd = targets["nsd_id"][targets["nsd_id"] >= 0]
    assert np.isin(of_nsd, design.shared).all() and of_nsd.is_unique and len(of_nsd) == 5
    with h5py.File(experiments_root / keys.STIMULI) as bank:
        for cue, name in targets["name"][targets["stimulus_set"] == "B"].items():
            shown = np.asarray(Image.open(experiments_root / keys.imagery_target("B", name)))
            if cue != imagery.ARTWORK_CUE:
                np.testing.assert_array_equal(shown, bank["imgBrick"][targets.loc[cue, "nsd_id"]])
            else:
                assert not any((image == shown).all() for image in bank["imgBrick"])


def test_imagined_responses_are_weak_in_early_areas(experiments_root):
    """Means over the rows of a target, against those of the others, as a slope on the signal of seeing it."""
    config = SimulateConfig(sessions=1, trials_per_session=60, shared_images=12, image_size=120)
    brain = brain_of(1, config)
    betas = np.concatenate(
        [np.asarray(load(experiments_root, "imagery", side).dataobj)[:, 0, 0] for side in ("lh", "rh")]
    )
    betas = np.nan_to_num(betas[brain.visual])
    targets = imagery.targets_of(load_design(experiments_root))
    means = {}
    for test_set in ("vision", "imagery"):
        trials = imagery.read_trials(experiments_root, 1, test_set, targets)
        by_target = [betas[:, rows["row"]].mean(1) for _, rows in trials.groupby("target")]
        means[test_set] = np.stack(by_target) - np.mean(by_target, axis=0)
    early, high = brain.low_level == 1, brain.low_level < 0.3
    slope = {
        name: (means["vision"] * means["imagery"])[:, part].sum() / np.square(means["vision"][:, part]).sum()
        for name, part in (("early", early), ("high", high))
    }
    assert slope["early"] < IMAGINED_LOW + 0.1
    assert slope["high"] > slope["early"] + 0.1
    assert slope["high"] < IMAGINED_HIGH


def test_the_notice_says_what_was_chosen(experiments_root):
    notice = (experiments_root / keys.SIMULATED).read_text()
    assert f"imagined images evoke {IMAGINED_HIGH} of the response to seen ones" in notice
    assert "a choice" in notice


def test_nothing_real_is_overwritten(tmp_path):
    (tmp_path / "nsddata_betas").mkdir()
    with pytest.raises(FileExistsError, match=r"holds nsddata_betas but no SIMULATED\.json"):
        write_imagery_images(tmp_path, SimulateConfig())


def test_images_without_objects_have_no_meaning():
    groups = scene_groups([None])
    assert all(not values.any() for values in groups.values())


def test_patterns():
    size, rng = 60, np.random.default_rng(0)
    cross = patterns.bars((0.0, 90.0), size)
    assert (cross == np.rot90(cross)).mean() > 0.99
    assert cross[0, 0].tolist() == [SCREEN_GREY] * 3 and cross[30, 30].tolist() == [0, 0, 0]
    rising = patterns.bars((45.0,), size)[..., 0]
    assert rising[20, 40] < 50 < rising[40, 40]
    image = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    grey = patterns.grey(image)
    assert np.abs(patterns.contrast(image, 1.0).astype(int) - grey).max() <= 1
    assert patterns.contrast(image, 0.1).std() == pytest.approx(grey.std() / 10, rel=0.05)
    assert np.abs(patterns.scrambled(image, 1.0, rng).astype(int) - grey).max() <= 1
    mixed = patterns.scrambled(image, 0.0, rng)
    assert abs(np.corrcoef(mixed.ravel(), grey.ravel())[0, 1]) < 0.2
    assert set(np.unique(patterns.two_toned(image))) == {0, 255}
    coloured = patterns.coloured_noise(size, rng, 1 / 3).mean((0, 1))
    assert coloured.argmax() == 1
    for drawn in (patterns.noise(size, rng, pink=True), patterns.spiral(size, 8, 0, 0.0), patterns.lines(image)):
        assert (drawn[..., 0] == drawn[..., 2]).all()
        assert drawn.std() > 10
