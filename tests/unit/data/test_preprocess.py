import json

import h5py
import nibabel
import numpy as np
import pytest
from scipy import sparse
from small_nsd import BETAS, PER_SESSION, SLOTS, config, write_root

from neuropictor.config import NsdConfig
from neuropictor.data.preprocess import preprocess_stimuli, preprocess_subject
from neuropictor.data.responses import ResponseStore
from neuropictor.data.sessions import Resampler
from neuropictor.data.stimuli import StimulusStore
from neuropictor.data.z_scores import Statistics, noise_ceiling, z_score
from neuropictor.nsd import keys
from neuropictor.surface import load_geometry


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_root(tmp_path_factory.mktemp("nsd"))


@pytest.fixture(scope="module")
def store(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "sub-01" / "responses.h5"
    preprocess_subject(nsd_root=root, subject=1, config=config(), nsd=NsdConfig(), out=out)
    return ResponseStore(out)


def reference(root, session, test):
    """Z-scored responses of a session straight from the definition, in float64."""
    halves = [nibabel.load(root / keys.betas(1, session, side, BETAS)).get_fdata()[:, 0, 0] for side in ("lh", "rh")]
    betas = np.concatenate(halves)
    weights = load_geometry().resampler("fsaverage5").astype(np.float64)
    valid = np.isfinite(betas)
    values = weights @ np.where(valid, betas, 0) / np.maximum(weights @ valid.astype(float), 1e-12)
    used = values[:, ~test]
    z = (values - used.mean(1, keepdims=True)) / used.std(1, ddof=1, keepdims=True)
    z[~((weights @ valid.astype(float)) > 1e-3).all(1)] = 0
    return np.clip(z, -8, 8).T


def test_responses_equal_the_definition(root, store):
    for session in (1, 2):
        rows = store.session == session
        expected = reference(root, session, store.split[rows] == 2)
        found = store.responses(np.flatnonzero(rows))
        assert found.shape == (PER_SESSION, 8921)
        assert np.abs(found - expected).max() < 0.01
        used = found[store.split[rows] != 2]
        moving = used.std(0) > 0
        assert np.abs(used[:, moving].mean(0)).max() < 5e-3
        assert np.isfinite(found).all()


def test_trials_follow_the_design(store):
    assert (store.subject, store.data, store.mesh) == ("01", "simulated", "fsaverage5")
    assert store.images("test").tolist() == [4, 9]
    assert len(store.images("validation")) == 2
    assert len(store.images("train")) == 4
    assert np.bincount(store.repeat).tolist() == [SLOTS] * 3
    assert store.session.tolist() == [1] * PER_SESSION + [2] * PER_SESSION
    both = set(store.images("train")) & set(store.images("validation"))
    assert not both
    record = json.loads((store.path.parent / "responses.run.json").read_text())
    assert record["results"]["splits"]["test"] == {"trials": 6, "images": 2}


def test_all_statistics_differ_and_clip_limits(root, tmp_path, store):
    preprocess_subject(root, 1, config(statistics="all", clip=0.5), NsdConfig(), tmp_path / "r.h5")
    other = ResponseStore(tmp_path / "r.h5")
    values = other.responses(np.arange(len(other)))
    assert np.abs(values).max() == 0.5
    assert not np.allclose(values, np.clip(store.responses(np.arange(len(store))), -0.5, 0.5), atol=0.01)


def test_equal_runs_give_equal_bytes(root, tmp_path, store):
    preprocess_subject(root, 1, config(), NsdConfig(), tmp_path / "r.h5")
    assert (tmp_path / "r.h5").read_bytes() == store.path.read_bytes()


def test_nothing_is_left_behind_by_a_truncated_file(root, tmp_path):
    path = root / keys.betas(1, 2, "rh", BETAS)
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:2000])
        with pytest.raises(ValueError, match="truncated"):
            preprocess_subject(root, 1, config(), NsdConfig(), tmp_path / "r.h5")
    finally:
        path.write_bytes(whole)
    assert not list(tmp_path.iterdir())


def test_resample_leaves_invalid_neighbours_out():
    resample = Resampler(sparse.csr_array(np.array([[0.5, 0.5, 0], [0, 0.25, 0.75], [0, 0, 1]], np.float32)))
    betas = np.array([[1, 2, 4], [3, 5, 8]], np.float32)
    assert np.allclose(resample(betas), [[1.5, 3.5, 4], [4, 7.25, 8]])
    whole = betas.copy()
    whole[:, 2] = np.nan
    assert np.allclose(resample(whole), [[1.5, 2, np.nan], [4, 5, np.nan]], equal_nan=True)
    single = betas.copy()
    single[1, 1] = np.inf
    assert np.allclose(resample(single), [[1.5, 3.5, 4], [3, 8, 8]])


def test_z_score_ignores_missing_and_refuses_too_few_trials():
    values = np.array([[1, 5, np.nan], [3, 5, 2], [5, 5, 4], [100, 6, 6]], np.float32)
    counted = np.array([True, True, True, False])
    found = z_score(values, Statistics.of(values, counted), "here")
    assert np.allclose(found[:, 0], [-1, 0, 1, 48.5])
    assert np.isnan(found[:, 1]).all()
    assert np.allclose(found[1:, 2], np.array([-1, 1, 3]) / np.sqrt(2))
    with pytest.raises(ValueError, match=r"here: 1 of 4 trials.*preprocess\.statistics"):
        z_score(values, Statistics.of(values, np.array([True, False, False, False])), "here")


def test_noise_ceiling_follows_nsd_rule(tmp_path):
    generator = np.random.default_rng(0)
    images = np.repeat(np.arange(400), 3)
    images[-1] = 999  # the last image has two trials only
    signal = np.repeat(generator.standard_normal((400, 3)), 3, axis=0)
    values = np.sqrt([0.3, 0.0, 0.6]) * signal + np.sqrt([0.7, 1.0, 0.4]) * generator.standard_normal((1200, 3))
    absent = np.zeros((2, 3), bool)
    absent[1, 2] = True
    session = np.repeat([0, 1], 600)
    values[600:, 2] = 0
    with h5py.File(tmp_path / "r.h5", "w") as file:
        file["responses"] = values.astype(np.float16)
        found = noise_ceiling(file["responses"], images, np.ones(1200, bool), absent, session)
        only = noise_ceiling(file["responses"], images, images == 999, absent, session)
    stored = values.astype(np.float16).astype(float)
    for vertex, limit in ((0, 399), (1, 399), (2, 200)):
        noise = np.mean([stored[3 * i : 3 * i + 3, vertex].var(ddof=1) for i in range(limit)])
        assert found[vertex] == pytest.approx(np.sqrt(max(0, 1 - noise)) / np.sqrt(noise), abs=1e-4)
    assert found[0] == pytest.approx(np.sqrt(0.3 / 0.7), abs=0.1)
    assert np.isnan(only).all()


def test_stimuli(root, tmp_path):
    preprocess_stimuli(nsd_root=root, subjects=[1], config=config(), nsd=NsdConfig(), out=tmp_path / "stimuli.h5")
    store = StimulusStore(tmp_path / "stimuli.h5")
    assert store.nsd_id.tolist() == [1, 2, 3, 4, 6, 7, 8, 9]
    with h5py.File(root / keys.STIMULI) as file:
        image = file["imgBrick"][6].astype(float)
    expected = image.reshape(20, 2, 20, 2, 3).mean((1, 3))
    assert np.abs(store.images([6])[0] - expected).max() <= 1  # Pillow rounds after each of two passes
    assert store.captions([3]) == [[f"caption {k} of 3" for k in range(5)]]
    assert store.category([3, 4]).tolist() == ["dog", "cat"]
    assert store.background([3, 4]).tolist() == ["city", "sea"]
    assert store.data == "simulated"
    assert json.loads((tmp_path / "stimuli.run.json").read_text())["results"]["visual_angle"] == 8.4
    half = config(visual_angle=4.2)  # the middle, enlarged
    preprocess_stimuli(nsd_root=root, subjects=[1], config=half, nsd=NsdConfig(), out=tmp_path / "half.h5")
    assert np.abs(StimulusStore(tmp_path / "half.h5").images([6])[0].astype(int) - image[10:30, 10:30]).max() == 0


def test_missing_images_are_named(root, tmp_path):
    with pytest.raises(ValueError, match="subject 2 is not in"):
        preprocess_stimuli(root, [2], config(), NsdConfig(), tmp_path / "s.h5")
    hidden = (root / keys.STIMULI).rename(root / "hidden.hdf5")
    try:
        with pytest.raises(FileNotFoundError, match=r"nsd_stimuli\.hdf5 is missing"):
            preprocess_stimuli(root, [1], config(), NsdConfig(), tmp_path / "s.h5")
    finally:
        hidden.rename(root / keys.STIMULI)
