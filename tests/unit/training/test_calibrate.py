"""The autoencoder's loss, and what it is trained on."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch
from small_backbone import TINY_ENCODER
from small_task import SHORT

from neuropictor.config import CalibrateConfig, EncoderConfig
from neuropictor.data.datasets import ImageResponses, TrainingBatches
from neuropictor.data.frames import write_frames
from neuropictor.data.latents import LatentStore
from neuropictor.data.responses import ResponseStore
from neuropictor.models.encoder import FMRIAutoencoder
from neuropictor.models.networks import load_autoencoder
from neuropictor.surface import load_geometry
from neuropictor.training.calibrate import CalibrationTask, calibrate
from neuropictor.training.checkpoints import differences, make_guard


@pytest.fixture
def paths(tiny_prepared):
    return [tiny_prepared / f"sub-0{subject}" / "responses.h5" for subject in (1, 2)]


@pytest.fixture
def lacking(paths, tmp_path):
    """The same stores; the second person lacks V1 and V2 in all trials."""
    copy = shutil.copy(paths[1], tmp_path / "responses.h5")
    with h5py.File(copy, "r+") as file:
        file["missing"][:] = load_geometry().region("V1", "V2")
        file["responses"][:] = np.where(file["missing"][:], 0, file["responses"][:])
    return [paths[0], copy]


def make_task():
    torch.manual_seed(0)
    return CalibrationTask(FMRIAutoencoder(**TINY_ENCODER), load_geometry(), torch.device("cpu"))


def batches(paths, **options):
    return TrainingBatches(ImageResponses(paths, "train"), 6, "random", seed=3, **options)


def test_pixels_that_a_person_lacks_do_not_count(lacking):
    """With the loss of before, a network that draws anything there paid for not drawing the 0 that is stored."""
    task, batch = make_task(), batches(lacking)[0]
    absent = task.maps(batch["missing"].float())[:, 0] > 0
    whom = batch["missing"].any(1)
    assert whom.any() and not whom.all()
    assert (absent[whom].float().mean() / task.mask.float().mean() > 0.05) and not absent[~whom].any()
    drawn = torch.randn(6, 1, 32, 32)
    loss = task.losses(lambda maps: drawn, batch, 0)["loss"]
    elsewhere = torch.where(absent[:, None], drawn + 5.0, drawn)
    assert torch.equal(task.losses(lambda maps: elsewhere, batch, 0)["loss"], loss)
    maps = task.maps(batch["responses"])
    means = [((drawn[row] - maps[row])[0] ** 2)[task.mask & ~absent[row]].mean() for row in range(6)]
    torch.testing.assert_close(loss, torch.stack(means).mean())
    everywhere = {"responses": batch["responses"]}
    assert not torch.isclose(task.losses(lambda maps: drawn, everywhere, 0)["loss"], loss)


def test_who_lacks_all_vertices_teaches_nothing_and_breaks_nothing():
    batch = {"responses": torch.zeros(2, 8921), "missing": torch.ones(2, 8921, dtype=torch.bool)}
    task = make_task()
    loss = task.losses(task.module, batch, 0)["loss"]
    loss.backward()
    assert loss == 0 and not any(p.grad is not None and p.grad.any() for p in task.module.parameters())


def test_batches_tell_what_is_missing_where_anybody_lacks_something(paths, lacking, tiny_latents):
    assert batches(paths)[1].keys() == {"responses"}
    assert "missing" not in batches(lacking, latents=LatentStore(tiny_latents))[1]
    made, stores = batches(lacking), [ResponseStore(path) for path in lacking]
    for step in range(3):
        people = made.responses.subject[made._items(step)]
        expected = np.stack([stores[int(label) - 1].missing for label in people])
        np.testing.assert_array_equal(made[step]["missing"].numpy(), expected)
        parts = [batches(lacking, share=(rank, 2))[step]["missing"] for rank in (0, 1)]
        assert torch.equal(parts[1], made[step]["missing"][1::2])


def test_people_take_turns_where_the_configuration_says_so(paths, tiny_backbone, tiny_runtime, tmp_path):
    """And the guard tells data sets apart, so that no checkpoint of others is continued."""
    options, losses = {"init": "scratch", **SHORT}, []
    for balance, data_sets in (("images", None), ("data_sets", {"01": "a", "02": "b"})):
        out, config = tmp_path / balance / "autoencoder.safetensors", CalibrateConfig(balance=balance, **options)
        sections = (config, EncoderConfig(**TINY_ENCODER), tiny_runtime)
        calibrate(paths, tiny_backbone, *sections, out, data_sets=data_sets)
        losses.append((out.parent / "history.csv").read_text())
    assert losses[0] != losses[1]
    old, new = (make_guard({}, {}, None, data_sets=names) for names in ({"01": "a"}, {"01": "b"}))
    assert differences(old, new) == ["data_sets.01 was 'a', is now 'b'"]


@pytest.fixture
def frames(tmp_path):
    """Four runs of six frames, the last of which lacks V1."""
    random = np.random.default_rng(7)
    runs = random.standard_normal((4, 6, 8921)).astype(np.float16)
    runs[3][:, load_geometry().region("V1")] = np.nan
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        write_frames(file, [f"{number}.dtseries.nii" for number in range(4)], [6] * 4, runs)
    return tmp_path / "frames.h5"


def test_frames_and_further_people_are_items_beside_images(paths, frames):
    """Each row alike; their test images test nobody, and images that test others are left out."""
    responses = ImageResponses(paths[:1], "train", extra=[paths[1], frames])
    alone = [ImageResponses([path], "train") for path in paths]
    count = len(alone[0]) + len(alone[1])
    assert len(responses) == count + 24 and (responses.nsd_id[count:] == -1).all()
    assert responses.subject.tolist() == ["01"] * len(alone[0]) + ["02"] * len(alone[1]) + [""] * 24
    assert np.bincount(responses.person)[2:].tolist() == [6] * 4
    made = TrainingBatches(responses, len(responses), "random", 3)[0]
    items = TrainingBatches(responses, len(responses), "random", 3)._items(0)
    assert sorted(items) == list(range(len(responses)))
    with h5py.File(frames) as file:
        stored, missing = file["responses"][:], file["missing"][:]
    for row, item in enumerate(items):
        if item >= count:
            assert np.array_equal(made["responses"][row].numpy(), stored[item - count].astype(np.float32))
            assert np.array_equal(made["missing"][row].numpy(), missing[(item - count) // 6])
        else:
            assert not made["missing"][row].any()
    copy = shutil.copy(paths[1], frames.parent / "trained.h5")
    with h5py.File(copy, "r+") as file:
        file["split"][np.isin(file["nsd_id"][:], [112, 113])] = 0  # which test the first
    both = ImageResponses(paths[:1], "train", extra=[copy])
    assert both.left_out == 2 and not np.isin([112, 113], both.nsd_id).any()


def test_all_extra_together_is_a_data_set_of_its_own(paths, frames):
    names = {"01": "a", "02": "b"}
    responses = ImageResponses(paths, "train", data_sets=names, extra=[frames])
    batches = TrainingBatches(responses, 12, "random", 3, balance="data_sets")
    extra = np.concatenate([responses.nsd_id[batches._items(step)] for step in range(10)]) < 0
    assert extra.mean() == pytest.approx(1 / 3)
    batches = TrainingBatches(responses, 12, "random", 3, balance="people")
    extra = np.concatenate([responses.nsd_id[batches._items(step)] for step in range(10)]) < 0
    assert extra.mean() == pytest.approx(4 / 6)  # two people, four runs


def test_the_encoder_trains_on_frames_and_validates_on_images(paths, frames, tiny_backbone, tiny_runtime, tmp_path):
    out = tmp_path / "calibrate" / "autoencoder.safetensors"
    config = CalibrateConfig(init="scratch", extra=["ukb"], **SHORT)
    files = (paths[:1], tiny_backbone, config, EncoderConfig(**TINY_ENCODER), tiny_runtime, out)
    with pytest.raises(
        ValueError, match=r"calibrate\.extra is ukb .*but no store of it is given; allowed: the workflow"
    ):
        calibrate(*files)
    with pytest.raises(ValueError, match=r"sub-01/responses\.h5 would train twice; allowed: each store once"):
        calibrate(*files, extra=[frames, paths[0]])
    calibrate(*files, extra=[frames, paths[1]])
    results = json.loads((out.parent / "run.json").read_text())["results"]
    images = sum(len(ImageResponses([path], "train")) for path in paths)
    assert (results["images"], results["frames"]) == (images, 24)
    assert results["validation_loss"] > 0
    assert str(frames) in json.loads((out.parent / "run.json").read_text())["inputs"]


def test_stores_that_say_nothing_of_missing_vertices_train_as_before(paths, tiny_backbone, tiny_runtime, tmp_path):
    older = [shutil.copy(path, tmp_path / f"{number}.h5") for number, path in enumerate(paths)]
    for path in older:
        with h5py.File(path, "r+") as file:
            del file["missing"]
        assert not ResponseStore(path).missing.any()
    weights = []
    for number, files in enumerate((paths, older)):
        out = tmp_path / str(number) / "autoencoder.safetensors"
        config = CalibrateConfig(init="scratch", **SHORT)
        calibrate(files, tiny_backbone, config, EncoderConfig(**TINY_ENCODER), tiny_runtime, out)
        weights.append(load_autoencoder(out).state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
