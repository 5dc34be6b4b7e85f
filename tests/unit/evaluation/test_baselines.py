import json

import h5py
import numpy as np
import pytest
import torch
from small_stores import (
    SIZE,
    TEST,
    TRAIN,
    PretendBackbone,
    first_test_trials,
    smooth_images,
    write_latents,
    write_responses,
    write_stimuli,
)

from neuropictor import sampling
from neuropictor.config import EvaluateConfig, RuntimeConfig, SampleConfig
from neuropictor.data import ridge
from neuropictor.data.reconstructions import read_reconstructions
from neuropictor.data.responses import ResponseStore, ResponseWriter
from neuropictor.data.ridge import Decomposition, Ridge
from neuropictor.data.stimuli import StimulusStore
from neuropictor.evaluation import baselines
from neuropictor.evaluation.metrics import pixcorr
from neuropictor.evaluation.tables import FITTED
from neuropictor.models.pipeline import NeuroPictorPipeline
from neuropictor.models.schedules import make_scheduler


@pytest.mark.parametrize(("trials", "vertices"), [(30, 12), (12, 30)])
def test_ridge_is_the_closed_form_with_the_best_penalty_of_each_group(trials, vertices):
    generator = np.random.default_rng(0)
    x, held = generator.standard_normal((trials, vertices)) + 2, generator.standard_normal((9, vertices)) + 2
    weights = generator.standard_normal((vertices, 5)) * [1, 1, 0, 0, 0]
    y = x @ weights + generator.standard_normal((trials, 5)) + 3
    held_y = held @ weights + generator.standard_normal((9, 5)) + 3
    alphas, groups = [0.1, 10.0, 1e4], np.array([0, 0, 1, 1, 1])
    fit = Ridge.fit(Decomposition.of(x), y, held, held_y, groups, alphas)

    def solve(alpha, at):
        centred = x - x.mean(0)
        solved = np.linalg.solve(centred.T @ centred + alpha * np.eye(vertices), centred.T @ (y - y.mean(0)))
        return (at - x.mean(0)) @ solved + y.mean(0)

    errors = np.array([np.square(solve(alpha, held) - held_y).sum(0) for alpha in alphas])
    best = np.array([errors[:, groups == group].sum(1).argmin() for group in (0, 1)])[groups]
    assert fit.penalty.tolist() == [alphas[place] for place in best]
    new = generator.standard_normal((4, vertices))
    expected = np.stack([solve(alphas[place], new)[:, target] for target, place in enumerate(best)], axis=1)
    assert np.allclose(fit.predict(new), expected)
    found, offsets = fit.weights()
    assert found.shape == (vertices, 5)
    assert np.allclose(new @ found + offsets, expected)


def test_ridge_works_on_parts_of_its_targets(monkeypatch):
    generator = np.random.default_rng(3)
    x, held = generator.standard_normal((40, 12)), generator.standard_normal((9, 12))
    y, held_y = generator.standard_normal((40, 10)), generator.standard_normal((9, 10))
    groups = np.repeat([0, 1], 5)
    whole = Ridge.fit(Decomposition.of(x), y, held, held_y, groups, [1.0, 100.0])
    monkeypatch.setattr(ridge, "_TARGETS_AT_ONCE", 3)  # parts that end within a group
    widths, project = [], Decomposition.project
    monkeypatch.setattr(
        Decomposition, "project", lambda self, block: widths.append(block.shape) or project(self, block)
    )
    parts = Ridge.fit(Decomposition.of(x), y, held, held_y, groups, [1.0, 100.0])
    assert widths == [(40, 3), (40, 3), (40, 3), (40, 1)]
    assert np.array_equal(whole.penalty, parts.penalty)
    for rescale in (0.0, 1.0):
        assert np.allclose(whole.predict(held, rescale), parts.predict(held, rescale))


def test_rescaling_restores_the_training_spread_on_validation():
    generator = np.random.default_rng(1)
    x, held = generator.standard_normal((200, 20)), generator.standard_normal((50, 20))
    y = x[:, :4] + generator.standard_normal((200, 4))
    fit = Ridge.fit(Decomposition.of(x), y, held, held[:, :4], np.zeros(4, int), [300.0])
    assert (fit.predict(held).std(0) < 0.8 * y.std(0)).all()
    assert np.allclose(fit.predict(held, 1.0).std(0), y.std(0))
    halfway = np.sqrt(fit.predict(held).std(0) * y.std(0))
    assert np.allclose(fit.predict(held, 0.5).std(0), halfway)
    constant = Ridge.fit(Decomposition.of(x), np.ones((200, 2)), held, np.ones((50, 2)), np.zeros(2, int), [1.0])
    assert np.allclose(constant.predict(held, 1.0), 1)


def test_the_start_leaves_its_mark_and_only_its_share_of_steps_is_run():
    backbone = PretendBackbone()
    pipeline = NeuroPictorPipeline.from_backbone(backbone)
    context, start = backbone.encode_text([str(i) for i in range(5)]), torch.rand(5, *backbone.latent_shape) - 0.5

    def draw(rows, **options):
        seeds = [torch.Generator().manual_seed(i) for i in range(5)][rows]
        options = {"num_inference_steps": 8, "guidance_scale": 3.0, "initial_latents": start[rows]} | options
        return pipeline(context=context[rows], generator=seeds, output_type="np", **options).images

    whole = draw(slice(None), strength=0.75)
    assert backbone.unet.calls == 6
    parts = [draw(rows, strength=0.75) for rows in (slice(0, 2), slice(2, 5))]
    np.testing.assert_allclose(whole, np.concatenate(parts), atol=1e-6)
    backbone.unet.calls = 0
    draw(slice(None), strength=1.0)
    assert backbone.unet.calls == 8


@pytest.mark.parametrize("solver", ["ddim", "dpm++", "unipc"])
def test_a_little_noise_leaves_the_start_in_place(solver):
    """With the true noise predicted, denoising gives the latents back."""
    backbone = PretendBackbone()
    start = torch.rand(3, *backbone.latent_shape) - 0.5
    pipeline = NeuroPictorPipeline.from_backbone(backbone)
    pipeline.scheduler = make_scheduler(solver, pipeline.scheduler.config)

    def oracle(state, timestep, context, **options):
        alpha = backbone.scheduler.alphas_cumprod[int(timestep)]
        return ((state - alpha.sqrt() * start) / (1 - alpha).sqrt(),)

    backbone.unet.forward = oracle
    options = {"num_inference_steps": 10, "strength": 0.5, "guidance_scale": 1.0, "initial_latents": start}
    context = backbone.null_context().expand(3, -1, -1)
    latents = pipeline(context=context, output_type="latent", **options).images
    torch.testing.assert_close(latents, start, atol=0.02, rtol=0)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(baselines.Backbone, "load", PretendBackbone.load)
    stimuli = write_stimuli(tmp_path / "stimuli.h5")
    responses = write_responses(tmp_path / "responses.h5", subject="02")
    latents = write_latents(tmp_path / "latents.h5", stimuli)

    def go(folder, responses=responses, precision="fp32", tested=None, **changes):
        out = {name: tmp_path / folder / f"{name}.h5" for name in FITTED}
        if tested:
            del out["true_features"]
        baselines.fit_baselines(
            responses=responses,
            stimuli=stimuli,
            latents=latents,
            backbone="miniature",
            config=EvaluateConfig(ridge_alphas=[0.1, 10.0, 1000.0], diffusion_strength=0.5),
            sample=SampleConfig(steps=4, **changes),
            runtime=RuntimeConfig(device="cpu", threads=1, precision=precision),
            out=out,
            tested=tested,
        )
        return out

    return go


def test_fit_baselines_writes_all_models(run, tmp_path):
    out = run("first", samples=2, batch_size=7)
    seen = smooth_images(TEST)
    found = {name: read_reconstructions(path) for name, path in out.items()}
    assert all(item.nsd_id.tolist() == list(TEST) and item.subject == "02" for item in found.values())
    assert [found[name].model for name in out] == list(out)
    assert found["ridge_diffusion"].images.shape == (len(TEST), 2, SIZE, SIZE, 3)
    assert found["true_features"].images.shape == found["ridge_diffusion"].images.shape
    assert found["ridge"].images.shape == (len(TEST), 1, SIZE, SIZE, 3)
    mean = np.rint(smooth_images(TRAIN).mean(0)).astype(np.uint8)
    assert (found["mean_image"].images == mean).all()
    scores = {name: pixcorr(item.images, seen).mean() for name, item in found.items()}
    assert scores["ridge"] > 0.5 > abs(scores["mean_image"])
    assert scores["true_features"] > scores["ridge_diffusion"] + 0.05
    record = json.loads((tmp_path / "first" / "baselines.run.json").read_text())
    assert record["config"]["evaluate"] == {
        "ridge_alphas": [0.1, 10.0, 1000.0],
        "diffusion_strength": 0.5,
        "networks": "miniature",
    }
    assert set(record["results"]["rescale_validation_scores"]) == {"0", "0.5", "1"}


def test_a_perfect_prediction_would_be_drawn_as_the_true_features_are(run, monkeypatch):
    """Only what is predicted differs: not the noise, the steps or the strength."""
    features, predict, make = [], baselines._Linear.predict, baselines.as_drawn

    def noted(backbone, *read):
        features.append(make(backbone, *read))
        return features[-1]

    with monkeypatch.context() as patch:
        patch.setattr(baselines, "as_drawn", noted)
        drawn = run("first", samples=2, batch_size=7)

    def perfect(self, responses, rescale):
        return features[-1] if len(responses) == len(TEST) else predict(self, responses, rescale)

    monkeypatch.setattr(baselines._Linear, "predict", perfect)
    again = run("second", samples=2, batch_size=7)
    images = {name: read_reconstructions(again[name]).images for name in ("ridge_diffusion", "true_features")}
    np.testing.assert_array_equal(images["ridge_diffusion"], images["true_features"])
    np.testing.assert_array_equal(images["true_features"], read_reconstructions(drawn["true_features"]).images)
    assert not np.array_equal(images["true_features"], read_reconstructions(drawn["ridge_diffusion"]).images)


def test_fit_baselines_is_deterministic_and_free_of_batches(run):
    first, second = run("first", batch_size=7), run("second", batch_size=20)
    for name in first:
        assert first[name].read_bytes() == second[name].read_bytes()


def test_the_diffusion_baseline_is_drawn_as_the_networks_images_are(run, monkeypatch):
    """The same noise seeds, rounding, choice, solver and precision: else the comparison favours one side."""
    seeds, dtypes, whole, solvers, make = [], [], [], [], sampling.make_scheduler
    generator, prepare, rounded = sampling.image_generator, sampling.prepare_sampling, sampling.to_bytes

    def noted(*seed):
        seeds.append(seed)
        return generator(*seed)

    def prepared(pipeline, runtime):
        prepare(pipeline, runtime)
        dtypes.append(runtime.precision)

    def down(images, rounding):
        whole.append(rounding)
        return rounded(images, rounding)

    monkeypatch.setattr(sampling, "image_generator", noted)
    monkeypatch.setattr(
        sampling, "make_scheduler", lambda solver, config: solvers.append(solver) or make(solver, config)
    )
    monkeypatch.setattr(sampling, "prepare_sampling", prepared)
    monkeypatch.setattr(sampling, "to_bytes", down)
    settings = {"samples": 3, "choose": "consensus", "rounding": "down", "scheduler": "dpm++", "seed": 9}
    out = run("first", precision="bf16", batch_size=7, **settings)
    assert set(seeds) >= {(9, "02", nsd_id, sample) for nsd_id in TEST for sample in range(3)}
    assert dtypes == ["bf16"]
    assert set(solvers) == {"dpm++"}
    assert set(whole) == {"down"}
    assert read_reconstructions(out["ridge_diffusion"]).images.shape == (len(TEST), 1, SIZE, SIZE, 3)


def test_ridge_is_decoded_batch_by_batch_within_the_memory(run, monkeypatch):
    """All at once, 256 images of 512 pixels took 256 GiB."""
    asked, decode = [], PretendBackbone.decode

    def noted(self, latents, memory=None):
        asked.append((len(latents), memory))
        return decode(self, latents, memory)

    monkeypatch.setattr(PretendBackbone, "decode", noted)
    run("first", batch_size=7)
    memory = RuntimeConfig().decode_memory
    assert asked == [(7, memory), (7, memory), (6, memory)]


def test_baselines_see_the_same_single_trials(run, tmp_path):
    reduced = first_test_trials(tmp_path / "responses.h5", tmp_path / "reduced.h5")
    expected, single, mean = run("expected", reduced), run("single", trial_averaging="single"), run("mean")
    images = [read_reconstructions(found["ridge"]).images for found in (expected, single, mean)]
    np.testing.assert_array_equal(images[0], images[1])
    assert not np.array_equal(images[1], images[2])


def test_other_test_images_are_drawn_by_what_was_fitted_to_the_same_training(run, tmp_path):
    """A further test set: its responses alone, whose images no store need hold."""
    with h5py.File(tmp_path / "responses.h5") as source, h5py.File(tmp_path / "further.h5", "w") as file:
        rows = np.flatnonzero(source["split"][:] == 2)
        writer = ResponseWriter(file, len(rows), source["responses"].shape[1], **source.attrs)
        writer.append(source["responses"][:][rows])
        fields = {name: source[name][:][rows] for name in ("session", "repeat", "split")}
        writer.finish(ncsnr=source["ncsnr"][:], nsd_id=source["nsd_id"][:][rows] + 1000, **fields)
    first, further = run("first"), run("further", tested=tmp_path / "further.h5")
    for name in ("ridge", "nearest", "mean_image"):
        np.testing.assert_array_equal(
            read_reconstructions(first[name]).images, read_reconstructions(further[name]).images
        )
    assert read_reconstructions(further["ridge_diffusion"]).nsd_id.tolist() == [number + 1000 for number in TEST]


def test_the_nearest_image_is_that_of_the_most_similar_response(tmp_path):
    store = ResponseStore(write_responses(tmp_path / "responses.h5"))
    shown = np.array([5, 40, 12])
    noise = np.random.default_rng(0).standard_normal((3, store.n_vertices))
    responses = 3 * store.mean_response(shown) + 0.05 * noise
    assert baselines.nearest_images(responses, store, store.images("train")).tolist() == shown.tolist()


def test_test_images_choose_nothing(run, monkeypatch):
    asked = []
    kept = StimulusStore.images
    monkeypatch.setattr(StimulusStore, "images", lambda self, ids: asked.extend(ids) or kept(self, ids))
    run("first")
    assert asked
    assert not set(asked) & set(TEST)


def test_wrong_outputs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="exactly mean_image, nearest, ridge, ridge_diffusion, true_features"):
        baselines.fit_baselines(None, None, None, "miniature", None, None, None, {"ridge": tmp_path / "r.h5"})
