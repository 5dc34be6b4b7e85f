"""A new person from few pairs or none: four others whose vertices respond alike in part, and one who is new."""

import json

import h5py
import numpy as np
import pytest
from small_stores import write_random_latents

from neuropictor.config import AlignConfig
from neuropictor.data import adapt
from neuropictor.data.adapt import adapt_subject
from neuropictor.data.alignment import ComponentSpace, ComponentStore, align_subject, make_space
from neuropictor.data.latents import LatentStore
from neuropictor.data.responses import ResponseStore, ResponseWriter
from neuropictor.data.ridge import Decomposition, Ridge

VERTICES, IMAGES, FEATURES, OTHERS = 60, 110, 20, ("01", "02", "03", "04")
TEST = np.arange(90, 110)
CONFIG = AlignConfig(tokens=2, text_components=3, latent_components=4, folds=4, ridge_alphas=[0.1, 10.0, 1000.0])


def write_person(path, subject, private, splits=(0, 1, 2), noise=4.0, twin=None):
    """Vertices mix features as everyone's do, and in part as no other's; two trials an image."""
    common, own = np.random.default_rng(1), np.random.default_rng([2, int(twin or subject)])
    with h5py.File(path.parent / "latents.h5") as file:
        features = np.concatenate([file["mean"][:].reshape(IMAGES, -1), file["text"][:].reshape(IMAGES, -1)], 1)
    mixing = common.standard_normal((FEATURES, VERTICES)) + private * own.standard_normal((FEATURES, VERTICES))
    split_of_image = np.select([np.isin(np.arange(IMAGES), TEST), np.arange(IMAGES) < 10], [2, 1], 0)
    random = np.random.default_rng([3, int(subject)])
    nsd_id = random.permutation(np.repeat(np.flatnonzero(np.isin(split_of_image, splits)), 2))
    values = features[nsd_id] @ mixing + noise * random.standard_normal((len(nsd_id), VERTICES))
    with h5py.File(path, "w") as file:
        writer = ResponseWriter(
            file, len(nsd_id), VERTICES, subject=subject, data="simulated", beta_version="b3", mesh="fsaverage5"
        )
        writer.append(values / values.std(0))
        fields = {"session": np.ones_like(nsd_id), "repeat": np.zeros_like(nsd_id), "split": split_of_image[nsd_id]}
        writer.finish(ncsnr=np.ones(VERTICES), nsd_id=nsd_id, **fields)
    return path


@pytest.fixture
def people(tmp_path):
    """Latents of all images, a space, alignments of the others, and the new person's responses."""
    random = np.random.default_rng(0)
    write_random_latents(tmp_path / "latents.h5", IMAGES, random)
    responses = [write_person(tmp_path / f"{label}.h5", label, private=0.7) for label in OTHERS]
    make_space([tmp_path / "latents.h5"], responses, None, CONFIG, tmp_path / "space.safetensors")
    for path in responses:
        align(tmp_path, path)
    write_person(tmp_path / "responses.h5", "09", private=0.7)
    return tmp_path


def align(folder, responses):
    out = folder / f"{responses.stem}-components.h5"
    align_subject(responses, folder / "latents.h5", folder / "space.safetensors", CONFIG, out)
    return out


def alignments(folder):
    return [folder / f"{label}-components.h5" for label in OTHERS]


def adapted(folder, pairs, name="new.h5", others=None, **given):
    files = {"space": folder / "space.safetensors", "latents": folder / "latents.h5"} | given
    others = others or alignments(folder)
    adapt_subject(folder / "responses.h5", others=others, pairs=pairs, config=CONFIG, out=folder / name, **files)
    return folder / name


def mean_weights(paths):
    with_all = []
    for path in paths:
        with h5py.File(path) as file:
            with_all.append((file["general_weights"][:], file["general_offsets"][:]))
    return [np.mean(values, 0) for values in zip(*with_all, strict=True)]


def agreement(folder, components):
    """Correlation of predicted and true components over the test images."""
    store = ResponseStore(folder / "responses.h5")
    predicted = ComponentStore(components, store).predict(store.mean_response(TEST))
    true = ComponentSpace.load(folder / "space.safetensors").components(LatentStore(folder / "latents.h5"), TEST)
    return np.corrcoef(predicted.ravel(), true.ravel())[0, 1]


def test_without_pairs_it_is_the_mean_of_others(people):
    write_person(people / "responses.h5", "09", private=0.7, splits=(2,))
    with h5py.File(adapted(people, 0, latents=None)) as file:
        weights, offsets = mean_weights(alignments(people))
        np.testing.assert_allclose(file["weights"], weights, atol=1e-6)
        np.testing.assert_allclose(file["offsets"], offsets, atol=1e-6)


def test_without_pairs_components_spread_as_those_of_others_do(people):
    store = ResponseStore(people / "responses.h5")
    rows = ComponentStore(adapted(people, 0), store).rows
    ids = np.concatenate([store.images("train"), store.images("validation")])
    spread = np.stack([rows[store.trials(one)].mean(0) for one in ids]).std(0)
    expected = []
    for label, path in zip(OTHERS, alignments(people), strict=True):
        other = ResponseStore(people / f"{label}.h5")
        kept = ComponentStore(path, other).rows
        expected.append(np.stack([kept[other.trials(one)].mean(0) for one in ids]).std(0))
    np.testing.assert_allclose(spread, np.mean(expected, 0), rtol=1e-4)


def test_few_pairs_help_and_others_help_more_than_ridge_alone(people):
    none, few = (agreement(people, adapted(people, pairs)) for pairs in (0, 12))
    store, space = ResponseStore(people / "responses.h5"), ComponentSpace.load(people / "space.safetensors")
    chosen = np.sort(np.random.default_rng([CONFIG.seed, 9]).permutation(store.images("train"))[:12])
    latents, validation = LatentStore(people / "latents.h5"), store.images("validation")
    held = (store.mean_response(validation), space.components(latents, validation))
    decomposition = Decomposition.of(store.mean_response(chosen))
    plain = Ridge.fit(decomposition, space.components(latents, chosen), *held, np.zeros(7, int), CONFIG.ridge_alphas)
    predicted = plain.predict(store.mean_response(TEST))
    alone = np.corrcoef(predicted.ravel(), space.components(latents, TEST).ravel())[0, 1]
    assert few > none + 0.01
    assert few > alone + 0.05


def test_somebody_like_another_is_known_from_few_pairs(people):
    write_person(people / "responses.h5", "09", private=0.7, twin="02")
    of_twin = agreement(people, adapted(people, 12, others=[people / "02-components.h5"]))
    of_others = agreement(people, adapted(people, 12, others=[people / "01-components.h5"]))
    assert of_twin > 0.85
    assert of_twin > of_others + 0.03


def test_with_many_pairs_it_is_as_good_as_alignment(people):
    own = agreement(people, align(people, people / "responses.h5"))
    assert agreement(people, adapted(people, 80)) > own - 0.02
    assert own > 0.8


def test_strangers_do_no_harm(people):
    """Nothing is followed of others who respond to nothing alike."""
    random = np.random.default_rng(5)
    for path in alignments(people):
        with h5py.File(path, "r+") as file:
            for name in ("weights", "general_weights"):
                file[name][...] = random.standard_normal(file[name].shape)
        path.with_suffix(".run.json").unlink()
    adapted(people, 80)
    followed = json.loads((people / "new.run.json").read_text())["results"]["followed"]
    assert max(followed.values()) < 0.05
    assert agreement(people, people / "new.h5") > 0.75


def test_test_images_are_never_used(people):
    with h5py.File(adapted(people, 20)) as file:
        before = file["weights"][:], file["offsets"][:]
    with h5py.File(people / "responses.h5", "r+") as file:
        tested = file["split"][:] == 2
        file["responses"][...] = np.where(tested[:, None], 0, file["responses"][:])
    with h5py.File(people / "latents.h5", "r+") as file:
        file["mean"][TEST[0] :] = 0
    for path in alignments(people):
        with h5py.File(path, "r+") as file:
            tested = np.isin(file["nsd_id"][:], TEST)[:, None]
            file["components"][...] = np.where(tested, 0, file["components"][:])
        path.with_suffix(".run.json").unlink()
    with h5py.File(adapted(people, 20)) as file:
        np.testing.assert_array_equal(file["weights"], before[0])
        np.testing.assert_array_equal(file["offsets"], before[1])


def test_a_pairs_own_trials_are_predicted_without_it():
    random = np.random.default_rng(0)
    responses, targets = random.standard_normal((12, 30)), random.standard_normal((12, 3))
    mean, variances = random.standard_normal((30, 3)), random.random(30)
    fit = adapt._Fit.of(np.arange(12), responses, targets, mean, variances, np.ones(3))
    trial = random.standard_normal((1, 30))
    changed = trial @ fit.weights + fit.without_own_pair(np.array([4]), trial)
    kept = np.arange(12) != 4
    scaled = responses * variances / np.mean(np.square(responses) @ variances)
    kernel = scaled[kept] @ responses[kept].T + fit.penalty * np.eye(11)
    residual = targets[kept] - fit.followed * responses[kept] @ mean
    expected = fit.followed * trial @ mean + trial @ scaled[kept].T @ np.linalg.solve(kernel, residual)
    np.testing.assert_allclose(changed, expected, atol=1e-8)
    assert not fit.without_own_pair(np.array([70]), trial).any()


def test_noisy_vertices_count_less(people):
    with h5py.File(people / "responses.h5", "r+") as file:
        values = file["responses"][:]
        values[:, ::2] = np.random.default_rng(0).standard_normal(values[:, ::2].shape)
        file["responses"][...] = values
    store = ResponseStore(people / "responses.h5")
    signal = adapt._signal(store, store.images("train"))
    assert signal[::2].max() < signal[1::2].min()
    once = np.unique(store.nsd_id, return_index=True)[1]
    with h5py.File(people / "responses.h5") as file, h5py.File(people / "single.h5", "w") as out:
        for name in file:
            out[name] = file[name][:] if name in ("ncsnr", "missing") else file[name][:][np.sort(once)]
        out.attrs.update(file.attrs)
    single = ResponseStore(people / "single.h5")
    np.testing.assert_array_equal(adapt._signal(single, single.images("train")), 1)


def test_a_vertex_departs_from_others_as_far_as_they_and_its_signal_allow(people, monkeypatch):
    silent, unlike, unsure = np.arange(5), np.arange(5, 10), np.arange(10, 15)
    for path in alignments(people):
        with h5py.File(path, "r+") as file:
            for name in ("weights", "general_weights"):
                weights = file[name][:]
                weights[silent] = 0
                file[name][...] = weights
        path.with_suffix(".run.json").unlink()
    signal = np.ones(VERTICES)
    signal[unsure] = 0
    monkeypatch.setattr(adapt, "_signal", lambda store, nsd_ids: signal)
    with h5py.File(adapted(people, 20)) as file:
        weights = file["weights"][:]
    followed = json.loads((people / "new.run.json").read_text())["results"]["followed"]
    expected = mean_weights(alignments(people))[0] * np.repeat([followed["text"], followed["latent"]], [3, 4])
    np.testing.assert_array_equal(weights[silent], 0)
    np.testing.assert_allclose(weights[unsure], expected[unsure], atol=2e-3)
    assert np.abs(weights[unlike] - expected[unlike]).max() > 0.01


def test_images_without_captions_leave_meaning_to_others(people):
    with h5py.File(people / "latents.h5", "r+") as file:
        file["described"] = np.zeros(IMAGES, bool)
    adapted(people, 20)
    assert list(json.loads((people / "new.run.json").read_text())["results"]["followed"]) == ["latent"]


def test_mistakes_are_named(people):
    with pytest.raises(ValueError, match=r"pairs: 81 of 80 training images .* allowed: 0, or 10 to 80"):
        adapted(people, 81)
    with pytest.raises(ValueError, match=r"pairs: 3 of 80"):
        adapted(people, 3)
    with pytest.raises(ValueError, match=r"latents: none given, but 20 pairs; allowed: the file of cache-latents"):
        adapted(people, 20, latents=None)
    with pytest.raises(ValueError, match="is of subject 09, who is new; allowed: other people's"):
        adapted(people, 20, others=[align(people, people / "responses.h5")])
    with h5py.File(people / "01-components.h5", "r+") as file:
        file.attrs["space"] = "sha256:0"
    (people / "01-components.run.json").unlink()
    with pytest.raises(ValueError, match=r"01-components\.h5: aligned to another space"):
        adapted(people, 0)
    with h5py.File(people / "01-components.h5", "r+") as file:
        del file["weights"]
    with pytest.raises(ValueError, match=r"01-components\.h5: weights missing; allowed: a file as stage align writes"):
        adapted(people, 0)
