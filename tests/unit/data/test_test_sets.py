"""Test sets beside NSD's core: their stores, from simulated files in NSD's layout."""

import json
import shutil

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
from small_nsd import BETAS

from neuropictor.config import NsdConfig, PreprocessConfig
from neuropictor.data.responses import ResponseStore
from neuropictor.data.stimuli import StimulusStore
from neuropictor.data.test_sets import as_seen, preprocess_test_set
from neuropictor.nsd import imagery, keys, synthetic
from neuropictor.nsd.design import load_design
from neuropictor.surface import load_geometry

SIZE = 40
SIDES = ("lh", "rh")


def prepare(root, test_set, folder, **changes):
    config = PreprocessConfig(**{"image_size": SIZE, **changes.pop("preprocess", {})})
    out = [folder / "sub-01" / test_set / name for name in ("responses.h5", "stimuli.h5")]
    preprocess_test_set(root, 1, test_set, config, NsdConfig(**changes), *out)
    return ResponseStore(out[0]), StimulusStore(out[1])


@pytest.fixture(scope="module")
def stores(experiments_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    return {name: prepare(experiments_root, name, folder) for name in ("vision", "imagery", "synthetic")}


def z_scores(root, experiment, rows):
    """Responses straight from the definition, z-scored over some rows of the file, in float64."""
    paths = [root / keys.experiment_betas(experiment, 1, side, BETAS) for side in SIDES]
    betas = np.concatenate([nibabel.load(path).get_fdata()[:, 0, 0] for path in paths])[:, rows]
    weights = load_geometry().resampler("fsaverage5").astype(np.float64)
    valid = np.isfinite(betas)
    values = weights @ np.where(valid, betas, 0) / np.maximum(weights @ valid.astype(float), 1e-12)
    z = (values - values.mean(1, keepdims=True)) / values.std(1, ddof=1, keepdims=True)
    z[~((weights @ valid.astype(float)) > 1e-3).all(1)] = 0
    return np.clip(z, -8, 8).T


@pytest.mark.parametrize("test_set", ["vision", "imagery"])
def test_seen_and_imagined_trials_are_z_scored_apart(experiments_root, stores, test_set):
    responses, _ = stores[test_set]
    rows = [row for run in imagery.RUNS.values() if run.kind == test_set[:3].replace("ima", "img") for row in run.rows]
    assert len(responses) == {"vision": 144, "imagery": 288}[test_set]
    found = responses.responses(np.arange(len(responses)))
    assert np.abs(found - z_scores(experiments_root, "imagery", rows)).max() < 0.01
    assert (responses.split == 2).all()
    assert (responses.subject, responses.data, responses.mesh) == ("01", "simulated", "fsaverage5")
    assert set(responses.images("test")) == set(stores["vision"][1].nsd_id)
    assert np.bincount(responses.repeat).tolist() == [18] * {"vision": 8, "imagery": 16}[test_set]


def test_trials_have_the_number_of_the_seen_image(experiments_root, stores):
    responses, stimuli = stores["vision"]
    cue = dict(zip(stimuli.nsd_id, stimuli.names(stimuli.nsd_id), strict=True))
    tables = [pd.read_csv(experiments_root / keys.imagery_trials(1, run), sep="\t") for run in ("visA", "visB", "visC")]
    table = pd.concat(tables)
    assert [cue[number] for number in responses.nsd_id] == table["CONDITION"].tolist()
    assert (table["CONDITION"] != table["CUE"]).sum() == 72


def test_images_are_numbered_apart_from_all_others_and_alike_in_both_sets(stores):
    (_, seen), (_, imagined), (_, artificial) = (stores[name] for name in ("vision", "imagery", "synthetic"))
    np.testing.assert_array_equal(seen.nsd_id, imagined.nsd_id)
    np.testing.assert_array_equal(seen.images(seen.nsd_id), imagined.images(seen.nsd_id))
    numbers = np.concatenate([seen.nsd_id, artificial.nsd_id])
    assert len(np.unique(numbers)) == 18 + 284
    assert numbers.min() >= 10**9  # above those that tables of other data sets may give


def test_images_of_imagery_are_the_true_ones(experiments_root, stores):
    _, stimuli = stores["vision"]
    number = dict(zip(stimuli.names(stimuli.nsd_id), stimuli.nsd_id, strict=True))
    category = dict(zip(stimuli.names(stimuli.nsd_id), stimuli.category(stimuli.nsd_id), strict=True))
    assert category == dict.fromkeys("HRVLPE", "A") | dict.fromkeys("WKBCDT", "B") | dict.fromkeys("SZMYNF", "C")
    flat, upright = (stimuli.images([number[cue]])[0, ..., 0].astype(int) for cue in "HV")
    assert flat[SIZE // 2, SIZE // 2] < 30 and upright[SIZE // 2, SIZE // 2] < 30
    assert (flat[SIZE // 2, 10], flat[10, SIZE // 2]) == (flat.min(), 127)
    assert (upright[10, SIZE // 2], upright[SIZE // 2, 10]) == (upright.min(), 127)
    words = stimuli.images([number[cue] for cue in "SZMYNF"])
    assert (words == 127).all()
    assert stimuli.captions([number["Z"]]) == [["zebra"]]
    targets = imagery.targets_of(load_design(experiments_root))
    with h5py.File(experiments_root / keys.STIMULI) as bank:
        shown = bank["imgBrick"][targets.loc["W", "nsd_id"]]
    seen = stimuli.images([number["W"]])[0]
    blocks = shown.reshape(SIZE, 3, SIZE, 3, 3).mean((1, 3))
    assert np.abs(seen - blocks).max() <= 1
    assert stimuli.background([number["W"]])[0] == targets.loc["W", "name"].removesuffix(".png")


def test_synthetic_leaves_out_repeats_of_the_last(experiments_root, stores):
    responses, stimuli = stores["synthetic"]
    order = synthetic.read_order(experiments_root)
    again = synthetic.repeats_of_the_last(order)
    assert len(responses) == 744 - 80
    found = responses.responses(np.arange(len(responses)))
    assert np.abs(found - z_scores(experiments_root, "synthetic", np.arange(744))[~again]).max() < 0.01
    names = synthetic.read_images(experiments_root)["name"].to_numpy()
    shown = dict(zip(stimuli.nsd_id, stimuli.names(stimuli.nsd_id), strict=True))
    assert [shown[number] for number in responses.nsd_id] == names[order[~again]].tolist()
    counts = np.unique(responses.nsd_id, return_counts=True)[1]
    assert (len(counts), counts.min(), counts.max()) == (284, 2, 8)
    assert pd.Series(stimuli.category(stimuli.nsd_id)).value_counts().to_dict()["Spiral gratings"] == 112
    assert set(stimuli.background(stimuli.nsd_id)) >= {"Mooney", "Contrast 4%", "Hue 16"}
    record = json.loads((responses.path.parent / "responses.run.json").read_text())["results"]
    assert (record["repeats_of_the_last"], record["trials_left_out"], record["test_set"]) == (80, 80, "synthetic")


def test_synthetic_images_are_the_root_of_the_middle_square(experiments_root, stores):
    screen = np.zeros((20, 38, 3), np.uint8)
    screen[:, 9:29] = np.arange(20)[:, None, None] * 13
    expected = np.floor(np.sqrt(np.arange(20) * 13 / 255) * 255)
    assert as_seen(screen).shape == (20, 20, 3)
    np.testing.assert_array_equal(as_seen(screen)[..., 1], np.tile(expected[:, None], 20))
    _, stimuli = stores["synthetic"]
    names = stimuli.names(stimuli.nsd_id).tolist()
    with h5py.File(experiments_root / keys.synthetic_colours(1)) as file:
        raw = file["imgBrick"][5]
    left = (raw.shape[1] - raw.shape[0]) // 2
    seen = np.sqrt(raw[:, left : left + raw.shape[0]] / 255) * 255
    name = synthetic.read_images(experiments_root)["name"][220 + 5]
    found = stimuli.images([stimuli.nsd_id[names.index(name)]])[0]
    assert np.abs(found.mean((0, 1)) - seen.mean((0, 1))).max() < 1
    assert np.abs(found.astype(int) - found.mean((0, 1))).max() > 5


def test_images_shown_at_another_size_are_framed(experiments_root, tmp_path):
    _, stimuli = prepare(experiments_root, "vision", tmp_path, preprocess={"visual_angle": 16.8})
    number = dict(zip(stimuli.names(stimuli.nsd_id), stimuli.nsd_id, strict=True))
    image = stimuli.images([number["T"]])[0]
    assert (image[: SIZE // 4] == 127).all()
    assert (image[SIZE // 4 : -SIZE // 4] != 127).any()


def test_other_orders_and_versions_are_refused(experiments_root, tmp_path):
    with pytest.raises(ValueError, match=r"betas_fithrf and nsd\.test_sets has imagery, whose order .*is not public"):
        prepare(experiments_root, "imagery", tmp_path, beta_version="betas_fithrf")
    with pytest.raises(ValueError, match="synthetic, which NSD does not have of this experiment"):
        prepare(experiments_root, "synthetic", tmp_path, beta_version="betas_assumehrf")
    with pytest.raises(ValueError, match="test set 'seen' does not exist; allowed: vision, imagery, synthetic"):
        preprocess_test_set(tmp_path, 1, "seen", PreprocessConfig(), NsdConfig(), tmp_path / "a", tmp_path / "b")
    root = tmp_path / "grouped"
    shutil.copytree(experiments_root, root)
    (root / "manifest.jsonl").unlink()
    targets = imagery.targets_of(load_design(root))
    trials = imagery.read_trials(root, 1, "vision", targets)
    rows = np.arange(imagery.ROWS)
    for _, run in trials.groupby("run"):
        rows[run["row"]] = run.sort_values("target", kind="stable")["row"]
    for side in SIDES:
        path = root / keys.experiment_betas("imagery", 1, side, BETAS)
        image = nibabel.load(path)
        nibabel.save(nibabel.MGHImage(np.asarray(image.dataobj)[..., rows], np.eye(4)), path)
    for test_set in ("vision", "imagery"):
        with pytest.raises(ValueError, match=r"betas_nsdimagery\.mgh .*in the order of the trials.*grouped by target"):
            prepare(root, test_set, tmp_path)
    assert not list(tmp_path.rglob("responses.h5"))


def test_bricks_of_another_form_are_refused(experiments_root, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(experiments_root, root)
    (root / "manifest.jsonl").unlink()
    with h5py.File(root / keys.synthetic_colours(1), "w") as file:
        file["imgBrick"] = np.zeros((64, 30, 20, 3), np.uint8)
    with pytest.raises(ValueError, match=r"subj01\.hdf5: imgBrick is uint8 \(64, 30, 20, 3\); allowed: uint8 \[64"):
        prepare(root, "synthetic", tmp_path)
