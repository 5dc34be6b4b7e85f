import tracemalloc

import h5py
import numpy as np
import pytest
import torch
from small_stores import write_random_latents

from neuropictor.config import AlignConfig
from neuropictor.data import alignment
from neuropictor.data.alignment import (
    ComponentSpace,
    ComponentStore,
    align_subject,
    align_test_set,
    latent_features,
    make_space,
)
from neuropictor.data.datasets import ImageResponses, TrainingBatches
from neuropictor.data.latents import LatentStore
from neuropictor.data.responses import ResponseStore, ResponseWriter
from neuropictor.models.alignment import AlignmentNetwork

VERTICES, IMAGES = 40, 90
TEST = np.arange(80, 90)
CONFIG = AlignConfig(tokens=2, text_components=3, latent_components=4, folds=4, ridge_alphas=[0.1, 10.0, 1000.0])


@pytest.fixture
def stores(tmp_path):
    """A subject whose vertices mix the images' latents and text features; two noisy repeats of each image."""
    random = np.random.default_rng(0)
    mean, text = write_random_latents(tmp_path / "latents.h5", IMAGES, random)
    features = np.concatenate([mean.reshape(IMAGES, -1), text.reshape(IMAGES, -1)], 1)
    signal = features @ random.standard_normal((features.shape[1], VERTICES))
    nsd_id = random.permutation(np.repeat(np.arange(IMAGES), 2))
    with h5py.File(tmp_path / "responses.h5", "w") as file:
        writer = ResponseWriter(
            file, len(nsd_id), VERTICES, subject=1, data="simulated", beta_version="b3", mesh="fsaverage5"
        )
        writer.append(signal[nsd_id] + 5 * random.standard_normal((len(nsd_id), VERTICES)))
        writer.finish(
            ncsnr=np.ones(VERTICES),
            nsd_id=nsd_id,
            session=np.ones_like(nsd_id),
            repeat=np.zeros_like(nsd_id),
            split=np.select([np.isin(nsd_id, TEST), nsd_id < 10], [2, 1], 0),
        )
    make_space([tmp_path / "latents.h5"], [tmp_path / "responses.h5"], None, CONFIG, tmp_path / "space.safetensors")
    return tmp_path


def align(folder, config=CONFIG, name="components.h5"):
    files = (folder / "responses.h5", folder / "latents.h5", folder / "space.safetensors")
    align_subject(*files, config, folder / name)
    return ComponentStore(folder / name, ResponseStore(folder / "responses.h5"))


def test_images_counted_otherwise_than_the_responses_are_refused(stores):
    with h5py.File(stores / "latents.h5", "r+") as file:
        file["nsd_id"][:] += 1
    with pytest.raises(ValueError, match=r"latents\.h5: no image 0 among .*, but .*responses\.h5 has a response to it"):
        align(stores)


@pytest.mark.parametrize("count", [70, 6])  # more and fewer images than features
def test_components_are_whitened_principal_components(stores, count):
    latents, ids = LatentStore(stores / "latents.h5"), np.arange(count)
    space = ComponentSpace.fit(latents, ids, {"text": 3, "latent": 4}, seed=0)
    found = space.components(latents, ids)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(found[:, 3:].T @ found[:, 3:] / count, np.eye(4), atol=1e-3)
    features = latent_features(latents, ids)
    centred = features - features.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :4] * np.sqrt(count)
    np.testing.assert_allclose(np.abs((found[:, 3:] * expected).mean(0)), 1, atol=1e-3)
    assert (np.diff(values) <= 0).all()


def test_space_sees_training_images_alone_and_survives_its_file(stores):
    latents = LatentStore(stores / "latents.h5")
    train = ResponseStore(stores / "responses.h5").images("train")
    own, read = ComponentSpace.fit(latents, train, {"text": 3, "latent": 4}, 10), None
    read = ComponentSpace.load(stores / "space.safetensors")
    for kind in ("text", "latent"):
        np.testing.assert_allclose(read.axes[kind], own.axes[kind], rtol=2e-3, atol=1e-4)
    other = ComponentSpace.fit(latents, np.arange(IMAGES), {"text": 3, "latent": 4}, 10)
    assert not np.allclose(other.mean["latent"], own.mean["latent"], atol=1e-3)


def test_components_of_new_images_are_predicted(stores):
    store, aligned = ResponseStore(stores / "responses.h5"), align(stores)
    space, latents = ComponentSpace.load(stores / "space.safetensors"), LatentStore(stores / "latents.h5")
    predicted = np.stack([aligned.rows[store.trials(i)].mean(0) for i in TEST])
    true = space.components(latents, TEST)
    assert aligned.size == 7
    assert np.corrcoef(predicted.ravel(), true.ravel())[0, 1] > 0.8
    again = align(stores, name="again.h5")
    trials = np.arange(len(store))
    np.testing.assert_array_equal(again.rows[trials], aligned.rows[trials])


def test_a_training_image_is_predicted_without_itself(stores):
    """Another target for one image leaves its own components alone and moves those of other folds."""
    before, store = align(stores), ResponseStore(stores / "responses.h5")
    changed = 40
    with h5py.File(stores / "latents.h5", "r+") as file:
        mean = file["mean"][:]
        mean[changed] += 50
        file["mean"][...] = mean
    after = align(stores, name="changed.h5")
    own = store.trials(changed)
    np.testing.assert_array_equal(after.rows[own], before.rows[own])
    moved = np.abs(after.rows[np.arange(len(store))] - before.rows[np.arange(len(store))]).max(1) > 1e-6
    train = store.split == 0
    assert 0.6 < moved[train].mean() < 0.9  # three of four folds
    assert moved[~train].all()


def test_components_of_any_responses_are_those_of_new_images(stores):
    aligned, store = align(stores), ResponseStore(stores / "responses.h5")
    trials = np.flatnonzero(np.isin(store.nsd_id, TEST))
    np.testing.assert_allclose(aligned.predict(store.responses(trials)), aligned.rows[trials], atol=1e-4)
    seen = np.flatnonzero(store.split == 0)  # these were left out of their own regression
    assert np.abs(aligned.predict(store.responses(seen)) - aligned.rows[seen]).max() > 0.01
    with h5py.File(stores / "components.h5", "r+") as file:
        del file["weights"]
    with pytest.raises(ValueError, match=r"components\.h5: holds no weights; allowed: .* running stage align again"):
        aligned.predict(store.responses(trials))


def test_components_of_a_further_test_set_are_predicted_by_the_same_regression(stores):
    aligned = align(stores)
    align_test_set(stores / "responses.h5", stores / "components.h5", stores / "further.h5")
    store = ResponseStore(stores / "responses.h5")
    further = ComponentStore(stores / "further.h5", store)
    tested = np.flatnonzero(store.split == 2)
    np.testing.assert_allclose(further.rows[tested], aligned.rows[tested], atol=1e-4)
    assert further.space == aligned.space
    with h5py.File(stores / "responses.h5", "r+") as file:
        file.attrs["subject"] = "02"
    with pytest.raises(ValueError, match=r"components\.h5 is of subject 01, .* of 02; allowed: both of one"):
        align_test_set(stores / "responses.h5", stores / "components.h5", stores / "further.h5")


def test_batches_hold_the_mean_of_the_same_trials(stores):
    aligned = align(stores)
    images = ImageResponses([stores / "responses.h5"], "train", [stores / "components.h5"])
    assert images.space == aligned.space
    batch = TrainingBatches(images, 6, "mean", seed=1)[0]
    store = ResponseStore(stores / "responses.h5")
    for row, response in zip(batch["components"], batch["responses"], strict=True):
        means = np.stack([store.mean_response([i])[0] for i in images.nsd_id])
        image = images.nsd_id[np.abs(means - response.numpy()).sum(1).argmin()]
        np.testing.assert_allclose(row, aligned.rows[store.trials(image)].mean(0), atol=1e-5)


def test_mistakes_are_named(stores):
    latents, train = LatentStore(stores / "latents.h5"), np.arange(20)
    with pytest.raises(ValueError, match=r"align\.latent_components: 9 are more than .* allowed: 1 to 8"):
        ComponentSpace.fit(latents, train, {"text": 3, "latent": 9}, 0)
    with pytest.raises(ValueError, match=r"align\.folds: 60 folds of 70 training images .* allowed: 2 to 35"):
        align(stores, AlignConfig(folds=60))
    wanted = AlignConfig(text_components=2, latent_components=4)
    with pytest.raises(ValueError, match="allowed: its sizes, or calibrate and pretrain with init: scratch"):
        make_space([stores / "latents.h5"], [], stores / "space.safetensors", wanted, stores / "s.safetensors")


def test_tokens_have_the_encoders_width():
    torch.manual_seed(0)
    network = AlignmentNetwork(7, 5, 16).eval()
    tokens = network(torch.randn(3, 7))
    assert tokens.shape == (3, 5, 16)
    torch.testing.assert_close(tokens.std(-1, correction=0), torch.ones(3, 5), atol=1e-2, rtol=0)


def test_features_that_hardly_differ_are_named(stores):
    with h5py.File(stores / "latents.h5", "r+") as file:
        file["text"][...] = file["text"][:1] + np.arange(IMAGES).reshape(-1, 1, 1) % 3
    latents = LatentStore(stores / "latents.h5")
    with pytest.raises(
        ValueError, match=r"align\.text_components: 3 are more than the 1 directions .* allowed: 1 to 1,"
    ):
        ComponentSpace.fit(latents, np.arange(70), {"text": 3, "latent": 4}, seed=0)


def test_components_and_axes_take_features_in_parts(stores, monkeypatch):
    """Text features of all images of a subject would take the memory of the job several times over."""
    latents, ids = LatentStore(stores / "latents.h5"), np.arange(70)
    space = ComponentSpace.fit(latents, ids, {"text": 3, "latent": 4}, seed=0)
    whole, sizes = space.components(latents, ids), []
    monkeypatch.setattr(alignment, "_IMAGES_AT_ONCE", 16)
    monkeypatch.setattr(alignment, "_FEATURES_AT_ONCE", 5)
    kept = dict(alignment._FEATURES)
    monkeypatch.setattr(
        alignment,
        "_FEATURES",
        {kind: lambda *given, k=kind: sizes.append(len(given[1])) or kept[k](*given) for kind in kept},
    )
    np.testing.assert_allclose(space.components(latents, ids), whole, atol=1e-5)
    assert max(sizes) <= 16
    few = np.arange(6)  # fewer images than features
    expected = ComponentSpace.fit(latents, few, {"text": 3, "latent": 4}, seed=0).components(latents, few)
    monkeypatch.setattr(alignment, "_FEATURES_AT_ONCE", 8192)
    found = ComponentSpace.fit(latents, few, {"text": 3, "latent": 4}, seed=0).components(latents, few)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-4)


def test_axes_are_found_without_a_copy_of_all_features_in_float64(monkeypatch):
    """Of 4096 images in Stable Diffusion it would take 2.6 GB beside the features' 1.3."""
    features = np.random.default_rng(0).standard_normal((60, 100_000), dtype=np.float32)
    monkeypatch.setattr(alignment, "_FEATURES", {"latent": lambda *_: features})
    tracemalloc.start()
    try:
        ComponentSpace.fit(None, np.arange(len(features)), {"latent": 1}, seed=0)
        assert tracemalloc.get_traced_memory()[1] < features.nbytes
    finally:
        tracemalloc.stop()
