"""Controls: which responses, strengths and partners each condition uses, and that nothing else gets through."""

import json

import numpy as np
import pytest
import torch
from small_pipeline import refined_pipeline

from neuropictor.config import ControlsConfig, RuntimeConfig, SampleConfig
from neuropictor.controls import draw as steering
from neuropictor.controls.conditions import CONTROLS, Condition, conditions, sampled_controls
from neuropictor.controls.draw import partners, steer_subject
from neuropictor.data.alignment import ComponentStore
from neuropictor.data.reconstructions import read_reconstructions
from neuropictor.data.responses import ResponseStore
from neuropictor.models.alignment import AlignmentNetwork
from neuropictor.models.pipeline import NeuroPictorPipeline
from neuropictor.sampling import sample_subject
from neuropictor.surface import load_geometry
from neuropictor.surface.atlas import AREA_GROUPS

SETTINGS = {
    "images": 3,
    "sampling_steps": 2,
    "repeats": [1, 3],
    "structure_scales": [0.0, 1.0],
    "semantics_scales": [0.0, 1.0],
    "swap_structure_scales": [1.0],
    "swap_partners": 2,
    "guidance_scales": [1.0, 3.0],
    "schedulers": ["ddim", "unipc"],
    "steps": [1, 2],
}
SAMPLE = SampleConfig(scheduler="ddim", steps=2, batch_size=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_backbone, tiny_prepared, tiny_components):
    path = tmp_path_factory.mktemp("pipeline")
    space = ComponentStore(tiny_components[0], ResponseStore(tiny_prepared / "sub-01" / "responses.h5")).space
    refined_pipeline(tiny_backbone, AlignmentNetwork(7, 2, 16, space), std=0.3).save_trained(path, tiny_backbone)
    return path


@pytest.fixture(scope="module")
def draw(folder, tiny_prepared, tiny_components):
    runtime = RuntimeConfig(device="cpu", threads=1, track_code=False)

    def run(kind, out, sample=SAMPLE):
        responses, config = tiny_prepared / "sub-01" / "responses.h5", ControlsConfig(**SETTINGS)
        steer_subject(folder, responses, kind, config, sample, runtime, out, components=tiny_components[0])
        return read_reconstructions(out)

    return run


@pytest.fixture
def steer(draw, tmp_path):
    return lambda kind, **sample: draw(kind, tmp_path / f"{kind}.h5", **sample)


@pytest.fixture(scope="module")
def drawn(draw, tmp_path_factory):
    """Every kind once, in folders of their own."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in sampled_controls()}
    return {kind: (draw(kind, folder / f"{kind}.h5"), folder) for kind, folder in folders.items()}


def names(found):
    return [json.loads(label)["name"] for label in found.labels]


def test_the_settings_name_the_same_kinds():
    assert set(CONTROLS) == set(ControlsConfig.model_json_schema()["properties"]["made"]["items"]["enum"])
    settings = [name for control in CONTROLS.values() for name in control.settings]
    assert len(settings) == len(set(settings))
    assert set(settings) <= set(ControlsConfig.model_fields)
    with pytest.raises(ValueError, match=r"control is 'strength'; allowed are responses, areas, .* for example streng"):
        conditions("strength", ControlsConfig())


@pytest.mark.parametrize("kind", sampled_controls())
def test_every_kind_draws_the_test_images_under_all_conditions(drawn, kind):
    found, folder = drawn[kind]
    chosen = conditions(kind, ControlsConfig(**SETTINGS))
    assert found.images.shape == (3, len(chosen), 8, 8, 3)
    assert names(found) == [condition.name for condition in chosen]
    assert (found.others >= 0).all(0).tolist() == [condition.partner > 0 for condition in chosen]
    assert len({found.images[:, place].tobytes() for place in range(len(chosen))}) >= len(set(names(found))) - 1
    assert sorted(path.name for path in folder.iterdir()) == [f"{kind}.h5", f"{kind}.run.json"]
    assert json.loads((folder / f"{kind}.run.json").read_text())["results"]["control"] == kind


def test_untouched_conditions_are_the_images_of_stage_sample(
    drawn, folder, tiny_prepared, tiny_components, tiny_runtime, tmp_path
):
    responses = tiny_prepared / "sub-01" / "responses.h5"
    components = {"components": tiny_components[0]}
    sample_subject(folder, responses, SAMPLE, tiny_runtime, "refined", tmp_path / "refined.h5", **components)
    expected = read_reconstructions(tmp_path / "refined.h5").images[:, 0].astype(int)
    for kind, place in (("strengths", 3), ("areas", 0), ("area_swap", 0), ("steps", 1), ("guidance", 1)):
        found, _ = drawn[kind]
        assert np.abs(found.images[:, place] - expected).max() <= 1, (kind, names(found)[place])
    single = SampleConfig(scheduler="ddim", steps=2, batch_size=2, trial_averaging="single")
    sample_subject(folder, responses, single, tiny_runtime, "refined", tmp_path / "single.h5", **components)
    one_repeat = read_reconstructions(tmp_path / "single.h5").images[:, 0].astype(int)
    assert np.abs(drawn["responses"][0].images[:, 0] - one_repeat).max() <= 1


@pytest.fixture
def scans(tiny_prepared, tiny_components):
    store = ResponseStore(tiny_prepared / "sub-01" / "responses.h5")
    aligned = ComponentStore(tiny_components[0], store)
    return steering._Altered(store, aligned, store.images("test"), ControlsConfig(**SETTINGS))


def test_areas_are_kept_left_out_or_swapped(scans):
    own, inside = scans.responses(Condition("x"), None), load_geometry().region("primary_visual")
    only = scans.responses(Condition("x", areas="primary_visual", keep="only"), None)
    np.testing.assert_array_equal(only, np.where(inside, own, 0))
    without = scans.responses(Condition("x", areas="primary_visual", keep="out"), None)
    np.testing.assert_array_equal(without, np.where(inside, 0, own))
    swapped = Condition("x", areas="primary_visual", keep="other", partner=1)
    others = own[scans.others(swapped)]
    np.testing.assert_array_equal(scans.responses(swapped, None), np.where(inside, others, own))
    groups = [load_geometry().region(group) for group in AREA_GROUPS]
    assert (np.sum(groups, axis=0) == 1).all()  # together they are all of visual cortex, each vertex once


def test_components_come_from_the_responses_that_are_used(scans):
    """Else what was taken from the response would still reach the networks."""
    without = scans.responses(Condition("x", areas="primary_visual", keep="out"), None)
    found = scans.inputs(without)["components"].numpy()
    np.testing.assert_allclose(found, scans.components.predict(without), rtol=1e-5)
    whole = scans.inputs(scans.responses(Condition("x"), None))["components"].numpy()
    assert np.abs(found - whole).max() > 1e-3
    rows = [scans.store.trials(int(i)) for i in scans.nsd_ids]
    stored = np.stack([scans.components.rows[trials].mean(0) for trials in rows])
    np.testing.assert_allclose(whole, stored, atol=1e-4)


def test_wrong_responses_are_never_the_own_ones(scans):
    own = scans.responses(Condition("x"), None)
    other = scans.responses(Condition("x", responses="other", partner=1), None)
    assert not (own == other).all(1).any()
    mean = scans.responses(Condition("x", responses="mean"), None)
    train = scans.store.images("train")
    np.testing.assert_allclose(mean, scans.store.mean_response(train).mean(0)[None].repeat(3, 0), atol=1e-6)


def test_partners_make_every_ordered_pair_once():
    pairs = {(row, int(other)) for k in range(1, 7) for row, other in enumerate(partners(7, k, seed=3))}
    assert pairs == {(i, j) for i in range(7) for j in range(7) if i != j}
    with pytest.raises(ValueError, match="partner 7 of 7 images; allowed: 1 to 6, for example 1"):
        partners(7, 7, seed=3)


def test_semantic_swap_takes_the_context_alone_from_the_other(steer, monkeypatch):
    seen = []
    original = NeuroPictorPipeline.__call__

    def spy(self, **given):
        seen.append(given)
        return original(self, **given)

    monkeypatch.setattr(NeuroPictorPipeline, "__call__", spy)
    found = steer("semantic_swap", sample=SampleConfig(steps=2, batch_size=3))
    assert len(seen) == 2  # a call for each partner
    for place, given in enumerate(seen):
        rows = np.searchsorted(found.nsd_id, found.others[:, place])
        torch.testing.assert_close(given["semantics_from"]["responses"], given["responses"][rows])
        torch.testing.assert_close(given["semantics_from"]["components"], given["components"][rows])
        assert (given["structure_scale"], given["guidance_scale"], given["num_inference_steps"]) == (1.0, 2.0, 2)


def test_a_control_goes_on_where_it_was_stopped(steer, drawn, monkeypatch, tmp_path):
    whole, made, original = drawn["strengths"][0], [], steering._draw

    def stop(sampler, scans, condition, *rest):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(condition.name)
        return original(sampler, scans, condition, *rest)

    monkeypatch.setattr(steering, "_draw", stop)
    with pytest.raises(KeyboardInterrupt):
        steer("strengths")
    assert not (tmp_path / "strengths.h5").exists()

    def go_on(sampler, scans, condition, *rest):
        made.append(condition.name)
        return original(sampler, scans, condition, *rest)

    monkeypatch.setattr(steering, "_draw", go_on)
    again = steer("strengths")
    assert made == [name for name in names(again) for _ in range(2)]  # each of two batches once
    np.testing.assert_array_equal(again.images, whole.images)
