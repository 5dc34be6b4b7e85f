import hashlib
import json

import numpy as np
import pytest
import torch
from small_pipeline import refined_pipeline
from small_stores import first_test_trials

from neuropictor import sampling
from neuropictor.config import SampleConfig
from neuropictor.data.alignment import ComponentStore
from neuropictor.data.reconstructions import read_reconstructions
from neuropictor.data.responses import ResponseStore, subject_number
from neuropictor.models.alignment import AlignmentNetwork
from neuropictor.models.pipeline import NeuroPictorPipeline
from neuropictor.sampling import image_generator, most_agreed, sample_subject, to_bytes


@pytest.fixture(scope="module")
def networks(tmp_path_factory, tiny_backbone):
    path = tmp_path_factory.mktemp("networks")
    refined_pipeline(tiny_backbone).save_trained(path, tiny_backbone)
    return path


@pytest.fixture
def draw(networks, tiny_backbone, tiny_prepared, tiny_runtime, tmp_path):
    """Sample into a file of the test's folder."""

    def run(name, responses=None, runtime=tiny_runtime, **settings):
        config = SampleConfig(**({"steps": 2, "samples": 2, "batch_size": 4} | settings))
        responses = responses or tiny_prepared / "sub-01" / "responses.h5"
        sample_subject(networks, responses, config, runtime, "refined", tmp_path / name, backbone=tiny_backbone)
        return read_reconstructions(tmp_path / name)

    return run


def test_all_test_images_in_order(draw, tiny_prepared, tmp_path):
    result = draw("refined.h5")
    assert result.images.shape == (3, 2, 8, 8, 3)
    np.testing.assert_array_equal(result.nsd_id, ResponseStore(tiny_prepared / "sub-01/responses.h5").images("test"))
    assert (result.model, result.subject, result.data) == ("refined", "01", "simulated+miniature")
    assert not np.array_equal(result.images[:, 0], result.images[:, 1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["refined.h5", "refined.run.json"]


def test_batch_size_does_not_change_images(draw):
    one, all_ = draw("a.h5", batch_size=1), draw("b.h5", batch_size=50)
    # Last-digit differences may cross a rounding step.
    assert np.abs(one.images.astype(int) - all_.images).max() <= 1


def test_a_last_smaller_batch_is_padded_where_networks_are_compiled(draw, tiny_runtime, monkeypatch):
    """Another size would be compiled once more, for minutes."""
    sizes, call = [], NeuroPictorPipeline.__call__
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **options: None)

    def counted(self, **options):
        sizes.append((len(options["responses"]), len(options["generator"])))
        return call(self, **options)

    expected = draw("a.h5")
    monkeypatch.setattr(NeuroPictorPipeline, "__call__", counted)
    compiled = draw("b.h5", runtime=tiny_runtime.model_copy(update={"compile": True}))
    assert sizes == [(4, 4), (4, 4)]  # of six images
    assert np.abs(expected.images.astype(int) - compiled.images).max() <= 1


def test_single_trials_are_the_first_of_each_image(draw, tiny_prepared, tmp_path):
    reduced = first_test_trials(tiny_prepared / "sub-01" / "responses.h5", tmp_path / "responses.h5")
    expected = draw("expected.h5", responses=reduced)
    single = draw("single.h5", trial_averaging="single")
    np.testing.assert_array_equal(single.images, expected.images)
    assert not np.array_equal(single.images, draw("mean.h5").images)


def test_continues_where_it_was_stopped(draw, tmp_path, monkeypatch):
    whole, made, original = draw("whole.h5"), [], sampling.Sampler.draw

    def stop_after_one(self, jobs, inputs):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(jobs)
        return original(self, jobs, inputs)

    monkeypatch.setattr(sampling.Sampler, "draw", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        draw("cut.h5")
    assert not (tmp_path / "cut.h5").exists()
    assert (tmp_path / "cut.chunks" / "00000.npy").is_file()
    resumed = []

    def count(self, jobs, inputs):
        resumed.append(jobs)
        return original(self, jobs, inputs)

    monkeypatch.setattr(sampling.Sampler, "draw", count)
    again = draw("cut.h5")
    assert len(resumed) == 1
    assert not set(resumed[0]) & set(made[0])
    np.testing.assert_array_equal(again.images, whole.images)
    assert not (tmp_path / "cut.chunks").exists()


def test_components_reach_the_networks(tiny_backbone, tiny_prepared, tiny_components, tiny_runtime, tmp_path):
    space = ComponentStore(tiny_components[0], ResponseStore(tiny_prepared / "sub-01" / "responses.h5")).space
    alignment = AlignmentNetwork(7, 2, 16, space)
    aligned = refined_pipeline(tiny_backbone, alignment)
    aligned.save_trained(tmp_path / "refined", tiny_backbone)
    responses = tiny_prepared / "sub-01" / "responses.h5"
    args = (tmp_path / "refined", responses, SampleConfig(steps=2), tiny_runtime, "refined")
    sample_subject(*args, tmp_path / "one.h5", components=tiny_components[0])
    with torch.no_grad():
        alignment.norm.weight.mul_(-3)
    aligned.save_trained(tmp_path / "refined", tiny_backbone)
    sample_subject(*args, tmp_path / "other.h5", components=tiny_components[0])
    one, other = (read_reconstructions(tmp_path / name).images for name in ("one.h5", "other.h5"))
    assert not np.array_equal(one, other)
    with pytest.raises(ValueError, match="running stage align again"):
        sample_subject(*args, tmp_path / "none.h5")
    with pytest.raises(ValueError, match="other trials than those of"):
        sample_subject(*args, tmp_path / "wrong.h5", components=tiny_components[1])


def test_parts_made_with_other_settings_are_not_used(draw, tmp_path, caplog):
    folder = tmp_path / "refined.chunks"
    folder.mkdir()
    (folder / "guard.json").write_text("{}")
    np.save(folder / "00000.npy", np.zeros((4, 8, 8, 3), np.uint8))
    result = draw("refined.h5")
    assert "starting afresh" in caplog.text
    assert result.images[0].any()


def test_the_sample_that_others_resemble_is_chosen_without_a_look_at_the_seen_image(draw, tmp_path):
    all_, chosen = draw("all.h5", samples=3), draw("chosen.h5", samples=3, choose="consensus")
    assert chosen.images.shape == (3, 1, 8, 8, 3)
    for samples, (kept,) in zip(all_.images, chosen.images, strict=True):
        table = np.corrcoef(samples.reshape(3, -1).astype(float))
        np.testing.assert_array_equal(kept, samples[table.sum(1).argmax()])
    record = json.loads((tmp_path / "chosen.run.json").read_text())
    assert "stimuli" not in " ".join(record["inputs"])
    assert record["results"]["samples"] == 3
    assert record["results"]["kept"] == 1
    odd = np.zeros((1, 3, 2, 2, 3), np.uint8)
    odd[0, :2, 0], odd[0, 2, 1] = 200, 200
    assert most_agreed(odd)[0, 0, 0].all()  # two agree, one does not


def test_every_image_has_its_own_seed():
    def first(*key):
        return torch.rand(1, generator=image_generator(*key)).item()

    keys = [(0, "01", 5, 0), (1, "01", 5, 0), (0, "02", 5, 0), (0, "01", 6, 0), (0, "01", 5, 1), (0, "MM01", 5, 0)]
    assert len({first(*key) for key in keys}) == len(keys)
    assert first(*keys[0]) == first(*keys[0])


def test_seeds_of_nsds_subjects_are_those_of_their_numbers():
    """So that results of before labels were in use are the same."""
    digest = hashlib.sha256(b"3/2/73/0").digest()
    expected = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    assert torch.rand(1, generator=image_generator(3, "02", 73, 0)) == torch.rand(1, generator=expected)
    assert len({subject_number(label) for label in ("01", "02", "1", "10", "001", "MM01", "mm01")}) == 7


def test_rounding_is_to_the_nearest_level_or_down_as_in_the_official_code():
    colours = np.float32([0, 0.49 / 255, 0.51 / 255, 254.9 / 255, 1])
    np.testing.assert_array_equal(to_bytes(colours, "nearest"), [0, 0, 1, 255, 255])
    np.testing.assert_array_equal(to_bytes(colours, "down"), [0, 0, 0, 254, 255])


def test_rounding_reaches_the_images(draw):
    difference = draw("nearest.h5").images.astype(int) - draw("down.h5", rounding="down").images
    assert set(np.unique(difference)) == {0, 1}
