"""Controls: which responses, strengths and partners each condition uses, and that nothing else gets through."""

import json

import numpy as np
import pytest
import torch
from small_pipeline import refined_pipeline
from small_stores import first_test_trials

from neuropictor.config import ControlsConfig, RuntimeConfig, SampleConfig
from neuropictor.controls import draw as steering
from neuropictor.controls.conditions import CONTROLS, Condition, conditions, sampled_controls
from neuropictor.controls.draw import partners, steer_subject
from neuropictor.data.alignment import ComponentSpace, ComponentStore
from neuropictor.data.latents import LatentStore
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
    "bottleneck_components": [1, 4],
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
def draw(folder, tiny_prepared, tiny_components, tiny_latents):
    runtime = RuntimeConfig(device="cpu", threads=1, track_code=False)
    of_space = {"space": tiny_prepared / "space.safetensors", "latents": tiny_latents}

    def run(kind, out, sample=SAMPLE):
        responses, config = tiny_prepared / "sub-01" / "responses.h5", ControlsConfig(**SETTINGS)
        steer_subject(folder, responses, kind, config, sample, runtime, out, tiny_components[0], **of_space)
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
    with pytest.raises(ValueError, match=r"control is 'strength'; allowed are responses, .*, areas, .* for example s"):
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
    same = (("strengths", 3), ("areas", 0), ("area_swap", 0), ("steps", 1), ("guidance", 1), ("bottleneck", 3))
    for kind, place in same:
        found, _ = drawn[kind]
        assert np.abs(found.images[:, place] - expected).max() <= 1, (kind, names(found)[place])
    single = SampleConfig(scheduler="ddim", steps=2, batch_size=2, trial_averaging="single")
    sample_subject(folder, responses, single, tiny_runtime, "refined", tmp_path / "single.h5", **components)
    one_repeat = read_reconstructions(tmp_path / "single.h5").images[:, 0].astype(int)
    assert np.abs(drawn["responses"][0].images[:, 0] - one_repeat).max() <= 1


@pytest.fixture
def scans(tiny_prepared, tiny_components, tiny_latents):
    store = ResponseStore(tiny_prepared / "sub-01" / "responses.h5")
    aligned = ComponentStore(tiny_components[0], store)
    altered = steering._Altered(store, aligned, store.images("test"), ControlsConfig(**SETTINGS))
    altered.space = ComponentSpace.load(tiny_prepared / "space.safetensors")
    altered.latents = LatentStore(tiny_latents)
    return altered


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


def test_numbers_are_those_of_the_components_weighed_by_their_axes(scans):
    """All seven leave what the networks read of components untouched; text and latents count alike."""
    own = scans.responses(Condition("x"), None)
    whole, mean = (scans.components.predict(part) for part in (own, scans._mean))
    all_numbers = scans.responses(Condition("x", numbers=4), None)
    scale = np.concatenate([np.sqrt(part / part.sum()) for part in scans.space.variances.values()])
    train = scans.components.predict(scans.store.mean_response(scans.store.images("train")))
    axes = np.linalg.svd((train - train.mean(0)) * scale, full_matrices=False)[2][:4]
    expected = mean + (whole - mean) * scale @ axes.T @ axes / scale
    np.testing.assert_allclose(scans.components.predict(all_numbers), expected, atol=1e-3)
    scans.config = ControlsConfig(bottleneck_components=[7])
    del scans._bottleneck
    np.testing.assert_allclose(
        scans.components.predict(scans.responses(Condition("x", numbers=7), None)), whole, atol=1e-3
    )


def test_without_a_number_images_do_not_depend_on_the_response(scans):
    nothing = Condition("x", numbers=0)
    inputs = scans.inputs(scans.responses(nothing, None))
    for values in inputs.values():
        np.testing.assert_array_equal(values, values[:1].expand_as(values))
    np.testing.assert_allclose(inputs["responses"], scans.responses(Condition("x", responses="mean"), None), atol=1e-6)


def test_true_components_are_those_of_the_seen_images(scans, tiny_latents):
    true = scans.inputs(scans.responses(Condition("x"), None), "true")
    np.testing.assert_allclose(true["components"], scans.space.components(LatentStore(tiny_latents), scans.nsd_ids))
    torch.testing.assert_close(true["responses"], scans.inputs(scans.responses(Condition("x"), None))["responses"])


def test_networks_without_alignment_have_a_bottleneck_of_responses(folder, tiny_prepared, tiny_backbone, tmp_path):
    refined_pipeline(tiny_backbone, std=0.3).save_trained(tmp_path / "bare", tiny_backbone)
    responses, runtime = tiny_prepared / "sub-01" / "responses.h5", RuntimeConfig(device="cpu", threads=1)
    out, config = tmp_path / "bottleneck.h5", ControlsConfig(**SETTINGS)
    steer_subject(tmp_path / "bare", responses, "bottleneck", config, SAMPLE, runtime, out)
    expected = ["0 numbers", "1 number", "4 numbers", "whole response", "another image's response"]
    assert names(read_reconstructions(out)) == expected


def test_files_of_the_components_are_asked_for(folder, tiny_prepared, tiny_components, tiny_latents, tmp_path):
    responses, runtime = tiny_prepared / "sub-01" / "responses.h5", RuntimeConfig(device="cpu", threads=1)
    given = (folder, responses, "bottleneck", ControlsConfig(**SETTINGS), SAMPLE, runtime, tmp_path / "x.h5")
    with pytest.raises(ValueError, match=r"control bottleneck: space is missing, .* --space results/align/space.safe"):
        steer_subject(*given, tiny_components[0], latents=tiny_latents)
    with pytest.raises(ValueError, match=r"control bottleneck: latents is missing, .* --latents results/latents"):
        steer_subject(*given, tiny_components[0], space=tiny_prepared / "space.safetensors")
    other = ComponentSpace.load(tiny_prepared / "space.safetensors")
    other.mean["text"][0] += 1
    other.save(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other.safetensors: not the space of .*components.h5; allowed: the file"):
        steer_subject(*given, tiny_components[0], space=tmp_path / "other.safetensors", latents=tiny_latents)


def test_readings_are_of_different_repeats_and_noise(scans, drawn):
    trials = [scans.store.responses(scans.store.trials(int(nsd_id))) for nsd_id in scans.nsd_ids]
    for half, start in (("odd", 0), ("even", 1)):
        means = [repeats[start::2].mean(0) for repeats in trials]
        np.testing.assert_allclose(scans.responses(Condition("x", half=half), None), means, atol=1e-6)
        first = scans.responses(Condition("x", half=half), 1)
        np.testing.assert_array_equal(first, [repeats[start] for repeats in trials])
    odd, even, again = drawn["agreement"][0].images.swapaxes(0, 1)
    assert not any(np.array_equal(odd, other) for other in (even, again))


def test_a_reading_again_has_the_noise_of_a_second_sample(folder, drawn, tiny_prepared, tiny_components, tmp_path):
    """The odd ones of one or two repeats are the first trial."""
    responses, runtime = tiny_prepared / "sub-01" / "responses.h5", RuntimeConfig(device="cpu", threads=1)
    twice = SAMPLE.model_copy(update={"samples": 2, "trial_averaging": "single"})
    sample_subject(folder, responses, twice, runtime, "refined", tmp_path / "refined.h5", tiny_components[0])
    expected, found = read_reconstructions(tmp_path / "refined.h5").images.astype(int), drawn["agreement"][0]
    store = ResponseStore(responses)
    of_one = [len(store.trials(int(nsd_id))) < 3 for nsd_id in found.nsd_id]
    assert any(of_one)
    for sample, place in enumerate((0, 2)):
        assert np.abs(found.images[of_one, place] - expected[of_one, sample]).max() <= 1


def test_images_without_a_second_repeat_have_no_agreement(folder, tiny_components, tiny_prepared, tmp_path):
    reduced = first_test_trials(tiny_prepared / "sub-01" / "responses.h5", tmp_path / "responses.h5")
    runtime = RuntimeConfig(device="cpu", threads=1)
    with pytest.raises(ValueError, match="0 test images have two repeats or more; allowed: at least 2, or"):
        steer_subject(folder, reduced, "agreement", ControlsConfig(), SAMPLE, runtime, tmp_path / "x.h5")


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
