import multiprocessing
import pickle
import re
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from neuropictor.data.datasets import ImageResponses, TrainingBatches
from neuropictor.data.latents import LatentStore, Rows, cache_latents
from neuropictor.data.responses import ResponseStore, ResponseWriter
from neuropictor.data.rows import evenly_spaced
from neuropictor.data.stimuli import StimulusStore
from neuropictor.models.backbone import Backbone
from neuropictor.models.decoding import latent_bytes
from neuropictor.models.maps import MapOperator
from neuropictor.surface import load_geometry


@pytest.fixture(scope="module")
def paths(tiny_prepared):
    return [tiny_prepared / f"sub-0{subject}" / "responses.h5" for subject in (1, 2)]


def make(paths, latents=None, split="train", averaging="random", **options):
    latents = LatentStore(latents) if latents else None
    return TrainingBatches(ImageResponses(paths, split), 5, averaging, seed=3, latents=latents, **options)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_latents_are_the_backbones(tiny_latents, tiny_prepared, tiny_backbone):
    backbone, stimuli = Backbone.load(tiny_backbone), StimulusStore(tiny_prepared / "stimuli.h5")
    store = LatentStore(tiny_latents)
    ids = stimuli.nsd_id[[3, 8]]
    mean, logvar = backbone.encode_images(stimuli.images(ids))
    rows = store.rows(ids)
    np.testing.assert_allclose(store.mean[rows], mean.numpy(), atol=2e-3)
    np.testing.assert_allclose(store.logvar[rows], logvar.numpy(), atol=2e-2)
    captions = [(texts * 5)[:5] for texts in stimuli.captions(ids)]
    for row, texts in zip(rows, captions, strict=True):
        features = backbone.encode_text(texts)
        np.testing.assert_allclose(store.text[[row]][0], features.mean(0).numpy(), atol=2e-3)
        tokens = torch.from_numpy(store.caption_tokens[[row]][0]).long()
        with torch.no_grad():
            target = backbone.target_tower(input_ids=tokens).last_hidden_state
        torch.testing.assert_close(target, features, rtol=0, atol=0)
    assert (tiny_latents.parent / "latents.run.json").is_file()
    with pytest.raises(ValueError, match="nsd_id 7 is not among its 26"):
        store.rows(np.array([103, 7]))


def test_images_are_encoded_within_the_memory(tiny_prepared, tiny_backbone, tiny_runtime, tmp_path, monkeypatch):
    """64 images of 512 pixels at once took 32 GiB."""
    sizes, encode = [], AutoencoderKL.encode

    def noted(self, images, **options):
        sizes.append(len(images))
        return encode(self, images, **options)

    monkeypatch.setattr(AutoencoderKL, "encode", noted)
    two = 2.5 * 16 * latent_bytes(Backbone.load(tiny_backbone).vae) / 2**30
    runtime = tiny_runtime.model_copy(update={"decode_memory": two})
    cache_latents(tiny_prepared / "stimuli.h5", tiny_backbone, runtime, tmp_path / "latents.h5")
    assert sizes == [2] * 13


def test_several_latents_files_are_read_as_one(tiny_latents, tmp_path):
    whole, split = LatentStore(tiny_latents), [tmp_path / "a.h5", tmp_path / "b.h5"]
    for path, part in zip(split, (np.s_[:15], np.s_[10:]), strict=True):  # five images are in both
        with h5py.File(tiny_latents) as source, h5py.File(path, "w") as file:
            for name in source:
                file[name] = source[name][part]
    both = LatentStore(*split)
    np.testing.assert_array_equal(both.nsd_id, whole.nsd_id)
    ids = np.array([125, 100, 112, 113, 100, 124])
    for name in ("mean", "logvar", "text", "caption_tokens"):
        found, expected = getattr(both, name), getattr(whole, name)
        np.testing.assert_array_equal(found[both.rows(ids)], expected[whole.rows(ids)])
        assert found.shape[1:] == expected.shape[1:]


@pytest.mark.parametrize("changed", ["mean", "caption_tokens"])
def test_one_number_for_latents_of_different_images_is_refused(tiny_latents, tmp_path, changed):
    with h5py.File(tiny_latents) as source, h5py.File(tmp_path / "b.h5", "w") as file:
        for name in source:
            file[name] = source[name][3:]
        file["mean"][:] = file["mean"][:] * np.float16(1.01)  # as on another machine
        LatentStore(tiny_latents, tmp_path / "b.h5")
        file[changed][2] = file[changed][5]
        file.flush()
        with pytest.raises(ValueError, match=r"latents\.h5, .*b\.h5: number 105 is of different images or captions"):
            LatentStore(tiny_latents, tmp_path / "b.h5")
        del file["mean"]
        file["mean"] = np.zeros((len(file["nsd_id"]), 4, 2, 2), np.float16)
        file.flush()
        with pytest.raises(
            ValueError, match=r"b\.h5: logvar is .*; allowed: floating numbers of shape \(23, 4, 2, 2\)"
        ):
            LatentStore(tmp_path / "b.h5")
        del file["logvar"]
        file["logvar"] = file["mean"][:]
        file.flush()
        with pytest.raises(
            ValueError, match=r"b\.h5: mean is \(4, 2, 2\) an image, .*allowed: latents of one backbone"
        ):
            LatentStore(tiny_latents, tmp_path / "b.h5")


def test_an_image_of_coco_has_one_latent_nsd_s_even_if_others_crop_it(tiny_latents, tmp_path):
    """NSD has a square of its own of each."""
    path = shutil.copy(tiny_latents, tmp_path / "lab.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["data"] = "own"
        file["mean"][:] = file["mean"][:][::-1]
        file["of_coco"] = np.ones(len(file["nsd_id"]), bool)
    ids, nsd = LatentStore(tiny_latents).nsd_id[:2], LatentStore(tiny_latents)
    for order in ((path, tiny_latents), (tiny_latents, path)):
        both = LatentStore(*order)
        np.testing.assert_array_equal(both.mean[both.rows(ids)], nsd.mean[nsd.rows(ids)])
    with h5py.File(path, "r+") as file:
        file["of_coco"][1] = False
    with pytest.raises(ValueError, match=r"number 101 is of different images or captions"):
        LatentStore(path, tiny_latents)


def test_latents_that_lack_parts_or_are_of_two_makes_are_refused(tiny_latents, tmp_path):
    path, count = tmp_path / "b.h5", len(LatentStore(tiny_latents).nsd_id)
    for name, values, words in (
        (
            "text",
            None,
            r"text missing, found \[.*; allowed: a file that cache_latents wrote, with nsd_id, mean",
        ),
        ("nsd_id", np.zeros(count), r"nsd_id is .*; allowed: integer or unsigned integer numbers of shape \(any\)"),
        ("mean", np.zeros((count, 4, 2), np.float16), r"mean is .*; allowed: floating numbers of shape \(26, any, any"),
        ("text", np.zeros((count, 2, 2), int), r"text is .*; allowed: floating numbers of shape \(26, any, any\)"),
        ("caption_tokens", np.zeros((count, 4, 8), int), r"caption_tokens is .* numbers of shape \(26, 5, any\)"),
    ):
        shutil.copy(tiny_latents, path)
        with h5py.File(path, "r+") as file:
            del file[name]
            if values is not None:
                file[name] = values
        with pytest.raises(ValueError, match=rf"b\.h5: {words}"):
            LatentStore(path)
    shutil.copy(tiny_latents, path)
    with h5py.File(path, "r+") as file:
        file["target"] = file["text"][:]
    LatentStore(path)
    with pytest.raises(ValueError, match=r"b\.h5: made with different settings of backbone\.target_text_encoder"):
        LatentStore(tiny_latents, path)


def test_an_image_that_tests_one_subject_trains_and_validates_nobody(paths, tmp_path, caplog):
    caplog.set_level("INFO")
    for split, row in (("train", 0), ("validation", 1)):
        shutil.copy(paths[1], tmp_path / "responses.h5")
        tested = ResponseStore(paths[0]).images("test")[0]  # whom only the first saw
        with h5py.File(tmp_path / "responses.h5", "r+") as file:
            number = ResponseStore(paths[1]).images(split)[row]
            file["nsd_id"][:] = np.where(file["nsd_id"][:] == number, tested, file["nsd_id"][:])
        alone = ImageResponses([tmp_path / "responses.h5"], split)
        both = ImageResponses([paths[0], tmp_path / "responses.h5"], split)
        assert tested in alone.nsd_id and not alone.left_out
        assert tested not in both.nsd_id and both.left_out == 1
        assert len(both) == len(alone) - 1 + len(ImageResponses([paths[0]], split))
        assert f"1 images of split {split} are left out" in caplog.text


def in_chunks(path, copy):
    """Copy a store with its data sets in chunks, as older ones are."""
    with h5py.File(path) as source, h5py.File(copy, "w") as file:
        file.attrs.update(source.attrs)
        for name, values in source.items():
            file.create_dataset(name, data=values[:], chunks=(1, *values.shape[1:]))
    return copy


def test_rows_are_mapped_into_memory_and_read_from_chunks_of_older_files(tiny_latents, tmp_path):
    chunked = in_chunks(tiny_latents, tmp_path / "chunked.h5")
    with h5py.File(tiny_latents) as file:
        expected = file["text"][:]
    rows = np.array([9, 2, 2, 25])
    for path, kind in ((tiny_latents, np.memmap), (chunked, h5py.Dataset)):
        held = Rows(path, "text")
        assert held._held is None  # nothing is read before it is asked for
        np.testing.assert_array_equal(held.first(rows), expected[rows][:, :1])
        np.testing.assert_array_equal(held[rows], expected[rows])
        assert isinstance(held._held, kind) and not isinstance(held[rows], np.memmap)
        again = pickle.dumps(held)
        assert len(again) < 1000
        np.testing.assert_array_equal(pickle.loads(again)[rows], expected[rows])
        held.close()
        np.testing.assert_array_equal(held[rows], expected[rows])


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for the process's memory")
def test_rows_that_were_read_are_no_memory_of_the_process(tmp_path):
    with h5py.File(tmp_path / "large.h5", "w") as file:
        file["rows"] = np.zeros((4000, 8921), np.float16)  # 71 MB
    rows = Rows(tmp_path / "large.h5", "rows")

    def held():
        return int(re.search(r"RssFile:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024

    before = held()
    for start in range(0, 4000, 200):
        rows[np.arange(start, start + 200)]
    assert held() - before < 10


def test_what_is_not_finite_is_named_when_it_is_read(paths, tmp_path):
    copy = shutil.copy(paths[0], tmp_path / "responses.h5")
    with h5py.File(copy, "r+") as file:
        file["responses"][4, 7] = np.nan
    rows = Rows(copy, "responses")
    assert np.isfinite(rows[np.array([3, 5])]).all()
    with pytest.raises(ValueError, match=r"responses.h5: 1 of 17842 values read of responses are not finite"):
        rows[np.array([3, 4])]


def test_the_responses_of_a_split_are_read_when_they_are_asked_for(paths):
    for split in ("train", "validation"):
        images = ImageResponses(paths, split)
        assert all(rows._held is None for rows in images._rows["responses"])
        images.read(np.array([0]), images.choose(np.array([0]), "mean", np.random.default_rng(0)))
        assert isinstance(images._rows["responses"][0]._held, np.memmap)


def test_maps_are_the_operators():
    operator = load_geometry().map_operator(32)
    responses = torch.randn(3, operator.shape[1])
    maps = MapOperator(operator)(responses)
    assert maps.shape == (3, 1, 32, 32)
    np.testing.assert_allclose(maps[1].numpy().ravel(), operator @ responses[1].numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="responses: shape"):
        MapOperator(operator)(responses[:, :-1])


def test_mean_of_all_repeats(paths):
    images = ImageResponses(paths, "validation")
    items = np.arange(len(images))[::-1]
    read = images.read(items, images.choose(items, "mean", np.random.default_rng(0)))["responses"]
    for row, item in zip(read, items, strict=True):
        store = ResponseStore(paths[int(images.subject[item]) - 1])
        np.testing.assert_allclose(row, store.mean_response([images.nsd_id[item]])[0], atol=1e-5)


def test_random_averaging_takes_one_to_all_repeats(paths):
    images = ImageResponses(paths, "train")
    random, items = np.random.default_rng(0), np.arange(len(images))
    chosen = [trials for _ in range(30) for trials in images.choose(items, "random", random)]
    assert {len(trials) for trials in chosen} == {1, 2, 3}
    assert all(len(set(trials)) == len(trials) and (trials >= 0).all() for trials in chosen)
    assert {len(trials) for trials in images.choose(items, "single", random)} == {1}
    store = ResponseStore(paths[0])
    for item, trials in zip(items, images.choose(items, "mean", random), strict=True):
        if images.subject[item] == "01":
            assert set(store.nsd_id[trials]) == {images.nsd_id[item]}
            assert set(store.split[trials]) == {0}


def test_a_batch_is_a_function_of_seed_and_step(paths, tiny_latents):
    batches = make(paths, tiny_latents)
    straight = [batches[step] for step in range(7)]
    again = make(paths, tiny_latents)
    for step in (5, 0, 6, 2):
        assert_same(again[step], straight[step])
    assert not torch.equal(straight[0]["noise"], straight[1]["noise"])
    workers = list(make(paths, tiny_latents).loader(2, 5, workers=2))
    for one, other in zip(workers, straight[2:5], strict=True):
        assert_same(one, other)


def test_batches_for_a_gpu_lie_in_pinned_memory(paths):
    assert [make(paths).loader(0, 1, pinned=pinned).pin_memory for pinned in (True, False)] == [True, False]


def test_an_epoch_shows_every_image_once(paths, tiny_latents):
    batches = make(paths, tiny_latents)
    count = len(batches.responses)
    seen = np.concatenate([batches._items(step) for step in range(2 * count // 5 + 1)])
    for epoch in (0, 1):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def people(tmp_path):
    """Five people of three data sets who saw 3 to 60 images each; the data set of each."""
    counts = {"A1": 60, "A2": 6, "A3": 3, "B1": 12, "C1": 30}
    files = [tmp_path / f"{label}.h5" for label in counts]
    for path, count in zip(files, counts.values(), strict=True):
        labels = {"subject": path.stem, "data": "own", "beta_version": "own", "mesh": "fs_LR_32k"}
        with h5py.File(path, "w") as file:
            writer = ResponseWriter(file, count, 4, **labels)
            writer.append(np.full((count, 4), count))
            fields = {"session": np.ones(count), "repeat": np.zeros(count), "split": np.zeros(count)}
            writer.finish(ncsnr=np.ones(4), nsd_id=np.arange(count) + 1000 * len(path.stem), **fields)
    return files, {label: label[0] for label in counts}


def balanced(paths, balance, data_sets=None, batch_size=7, **options):
    responses = ImageResponses(paths, "train", data_sets=data_sets)
    return TrainingBatches(responses, batch_size, "random", seed=3, balance=balance, **options)


def test_by_default_batches_are_those_of_one_walk_through_all_images(paths):
    """As they were before there was a choice."""
    batches = make(paths)
    count = len(batches.responses)
    orders = [np.random.default_rng([3, 0, epoch]).permutation(count) for epoch in range(4)]
    places = np.concatenate([batches._items(step) for step in range(3 * count // 5)])
    np.testing.assert_array_equal(places, np.concatenate(orders)[: len(places)])


@pytest.mark.parametrize("balance", ["people", "data_sets"])
def test_people_and_data_sets_come_equally_often(tmp_path, balance):
    files, data_sets = people(tmp_path)
    batches = balanced(files, balance, data_sets)
    labels = batches.responses.subject
    items = np.concatenate([batches._items(step) for step in range(900)])[:6000]
    share = {label: float((labels[items] == label).mean()) for label in data_sets}
    if balance == "people":
        assert share == dict.fromkeys(data_sets, 0.2)
        assert all(set(labels[items[start : start + 5]]) == set(data_sets) for start in range(0, 6000, 5))
    else:
        expected = {"A1": 1 / 9, "A2": 1 / 9, "A3": 1 / 9, "B1": 1 / 3, "C1": 1 / 3}
        assert share == pytest.approx(expected, abs=1e-3)
    for label in data_sets:  # and all images of a person equally often
        times = np.bincount(items[labels[items] == label])[np.flatnonzero(labels == label)]
        assert times.max() - times.min() <= 1
    orders = [tuple(items[labels[items] == label][:3]) for label in ("A3", "A1")]
    assert orders[0] != tuple(items[labels[items] == "A3"][3:6])  # a new order each time
    assert orders[1] != (0, 1, 2)


@pytest.mark.parametrize("balance", ["people", "data_sets"])
def test_balanced_batches_follow_from_seed_and_step_alone(tmp_path, balance):
    files, data_sets = people(tmp_path)
    straight = [balanced(files, balance, data_sets)[step] for step in range(12)]
    batches = balanced(files, balance, data_sets)
    for step in (11, 0, 7, 3):  # resumed anywhere
        assert_same(batches[step], straight[step])
    for one, other in zip(balanced(files, balance, data_sets).loader(5, 12, workers=2), straight[5:], strict=True):
        assert_same(one, other)
    parts = [balanced(files, balance, data_sets, share=(rank, 2))[4]["responses"] for rank in (0, 1)]
    assert torch.equal(parts[0], straight[4]["responses"][0::2])
    assert torch.equal(parts[1], straight[4]["responses"][1::2])


def test_a_subject_of_no_known_data_set_is_told(tmp_path):
    files, data_sets = people(tmp_path)
    with pytest.raises(
        ValueError, match=r"balance is data_sets, but nothing says .* B1 is; allowed: .*subjects\.table"
    ):
        balanced(files, "data_sets", {label: name for label, name in data_sets.items() if name != "B"})


def test_devices_share_a_batch(paths, tiny_latents):
    whole = make(paths, tiny_latents)[4]
    parts = [make(paths, tiny_latents, share=(rank, 2))[4] for rank in (0, 1)]
    for name, values in whole.items():
        assert torch.equal(parts[0][name], values[0::2])
        assert torch.equal(parts[1][name], values[1::2])


def test_latents_follow_the_posterior(paths, tiny_latents):
    store = LatentStore(tiny_latents)
    batches = make(paths, tiny_latents, scaling_factor=0.5)
    rows = store.rows(batches.responses.nsd_id[batches._items(0)])
    items, timesteps = batches._items(0), np.zeros(5, int)
    drawn = torch.stack(
        [batches._batch(items, "mean", np.random.default_rng(i), timesteps)["latents"] for i in range(300)]
    )
    np.testing.assert_allclose(drawn.mean(0), 0.5 * store.mean[rows], atol=0.15)
    np.testing.assert_allclose(drawn.std(0), 0.5 * np.exp(0.5 * store.logvar[rows].astype(float)), rtol=0.25)


def test_validation_is_fixed_and_covers_the_noise_schedule(paths, tiny_latents):
    batches = make(paths, tiny_latents, split="validation")
    first, second = list(batches.fixed()), list(batches.fixed())
    for one, other in zip(first, second, strict=True):
        assert_same(one, other)
    timesteps = torch.cat([batch["timesteps"] for batch in first])
    assert sorted(timesteps.tolist()) == [int((i + 0.5) / 4 * 1000) for i in range(4)]
    assert sum(len(batch["responses"]) for batch in batches.fixed(limit=3)) == 3


def test_validation_may_be_empty_but_no_other_split(paths, tmp_path):
    copies = [shutil.copy(path, tmp_path / f"{number}.h5") for number, path in enumerate(paths)]
    for path in copies:
        with h5py.File(path, "r+") as file:
            file["split"][...] = 0
    assert list(make(copies, split="validation").fixed()) == []
    with pytest.raises(ValueError, match=r"no image of split 'test' in .*; at least one is needed"):
        make(copies, split="test")


def read_steps(batches, steps):
    return [{name: values.numpy() for name, values in batches[step].items()} for step in steps]


def test_captions_are_read_as_asked_for(paths, tiny_latents):
    mean, one, none = (make(paths, tiny_latents, captions=captions)[4] for captions in ("mean", "random", None))
    assert mean.keys() - none.keys() == {"text"} and one.keys() - none.keys() == {"caption"}
    for batch in (mean, one):
        assert_same(none, {name: batch[name] for name in none})  # all other draws are the same
    batches, store = make(paths, tiny_latents), LatentStore(tiny_latents)
    rows = store.rows(batches.responses.nsd_id[batches._items(4)])
    np.testing.assert_array_equal(mean["text"], store.text[rows])
    for tokens, five in zip(one["caption"].numpy(), store.caption_tokens[rows], strict=True):
        assert any((tokens == caption).all() for caption in five)


@pytest.mark.parametrize("chunked", [False, True], ids=["mapped", "chunked"])
@pytest.mark.parametrize("captions", ["mean", "random"])
def test_many_processes_read_the_same_files_at_once(paths, tiny_latents, captions, chunked, tmp_path):
    """Forked readers share no handle with the process that opened the files."""
    if chunked:
        paths = [in_chunks(path, tmp_path / f"{number}.h5") for number, path in enumerate(paths)]
        tiny_latents = in_chunks(tiny_latents, tmp_path / "latents.h5")
    responses, latents = ImageResponses(paths, "train"), LatentStore(tiny_latents)
    batches = TrainingBatches(responses, 6, "random", seed=3, latents=latents, captions=captions)
    expected = read_steps(batches, range(8))  # and the handles are open when the others start
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("fork")) as pool:
        found = list(pool.map(read_steps, [batches] * 4, [range(8)] * 4))
    loaded = [{name: values.numpy() for name, values in batch.items()} for batch in batches.loader(0, 8, workers=2)]
    for steps in (*found, loaded):
        for one, other in zip(steps, expected, strict=True):
            assert set(one) == set(other)
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])


def test_rows_are_spread_evenly():
    for count, most, rows in ((150, 4, [0, 49, 99, 149]), (3, 12, [0, 1, 2]), (5, 1, [0]), (0, 4, [])):
        assert evenly_spaced(count, most).tolist() == rows
