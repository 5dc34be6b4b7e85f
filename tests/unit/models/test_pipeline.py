import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    UniPCMultistepScheduler,
)
from small_pipeline import generators, make_pipeline, sample

from neuropictor.models.alignment import AlignmentNetwork
from neuropictor.models.backbone import Backbone
from neuropictor.models.maps import MapOperator
from neuropictor.models.pipeline import NeuroPictorPipeline
from neuropictor.models.population import population_pipeline
from neuropictor.models.schedules import SOLVERS, make_scheduler


@pytest.fixture(scope="module")
def backbone(tiny_backbone):
    return Backbone.load(tiny_backbone)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_walks_the_backbones_own_schedule_however_that_was_made(solver):
    own = DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear", timestep_spacing="trailing")
    made = make_scheduler(solver, own.config)
    torch.testing.assert_close(made.alphas_cumprod, own.alphas_cumprod, rtol=0, atol=0)
    assert made.config.timestep_spacing == "trailing"
    # Spacing by the class's default is this schedule's too.
    assert make_scheduler(solver, DDIMScheduler().config).config.timestep_spacing == "leading"


@pytest.fixture(scope="module")
def pipeline(backbone):
    return make_pipeline(backbone)


@pytest.fixture
def maps():
    return torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(4))


@torch.no_grad()
def official_loop(pipeline, backbone, maps, seeds, steps, guidance):
    """DDIM as neuropictor.md section 3 states it, one image and one branch at a time."""
    abar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    out = []
    for map_, generator in zip(maps, generators(*seeds), strict=True):
        tokens = pipeline.encoder(map_[None])
        context, _ = pipeline.guiding(tokens)
        hint = pipeline.manipulation.hint(tokens)
        x = torch.randn(1, 4, 4, 4, generator=generator)
        times = [1 + i * (1000 // steps) for i in range(steps)]
        for i in reversed(range(steps)):
            branches = []
            for condition in (backbone.null_context(), context):
                skips, middle = pipeline.manipulation(x, times[i], condition, hint)
                branches.append(
                    backbone.unet(
                        x,
                        times[i],
                        condition,
                        down_block_additional_residuals=skips,
                        mid_block_additional_residual=middle,
                    ).sample
                )
            eps = branches[0] + guidance * (branches[1] - branches[0])
            now, before = abar[times[i]], abar[times[i - 1]] if i else abar[0]
            x = before.sqrt() * (x - (1 - now).sqrt() * eps) / now.sqrt() + (1 - before).sqrt() * eps
            x = x.float()
        out.append(x)
    return torch.cat(out)


def test_equals_the_official_sampler(pipeline, backbone, maps):
    expected = official_loop(pipeline, backbone, maps, (1, 2, 3), steps=5, guidance=3.0)
    torch.testing.assert_close(sample(pipeline, maps), expected, atol=1e-3, rtol=1e-3)


def test_a_image_does_not_depend_on_its_batch(pipeline, maps):
    together = sample(pipeline, maps)
    alone = sample(pipeline, maps[1:2], seeds=(2,))
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-4)


def test_samples_of_a_scan_differ_in_their_noise_alone(pipeline, maps):
    several = sample(pipeline, maps[:2], seeds=(1, 2, 3, 4), num_images_per_scan=2)
    single = sample(pipeline, maps[[0, 0, 1, 1]], seeds=(1, 2, 3, 4))
    torch.testing.assert_close(several, single, atol=1e-4, rtol=1e-4)


def test_responses_are_drawn_through_the_shipped_geometry(backbone):
    pipe = make_pipeline(backbone, 32)
    responses = torch.randn(2, 8921, generator=torch.Generator().manual_seed(4))
    options = {"num_inference_steps": 2, "output_type": "latent"}
    drawn = pipe(responses=responses, generator=generators(1, 2), **options).images
    assert torch.equal(drawn, pipe(MapOperator.shipped(32)(responses), generator=generators(1, 2), **options).images)


def test_components_count_where_there_is_an_alignment(backbone, maps):
    pipe = make_pipeline(backbone, alignment=AlignmentNetwork(5, 2, 16))
    one, other = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(4))
    first = sample(pipe, maps, components=one)
    assert not torch.equal(first, sample(pipe, maps, components=other))
    swapped = sample(pipe, maps, components=one, semantics_from={"maps": maps, "components": other})
    assert not torch.equal(first, swapped)
    assert torch.equal(first, sample(pipe, maps, components=one, semantics_from={"maps": maps, "components": one}))
    with pytest.raises(ValueError, match="components: none given"):
        sample(pipe, maps)
    with pytest.raises(ValueError, match=r"components: shape \(3, 4\) does not fit; allowed: \(scans, 5\)"):
        sample(pipe, maps, components=one[:, :4])
    with pytest.raises(ValueError, match="components: of 2 scans for 3 responses"):
        sample(pipe, maps, components=one[:2])


def test_without_guidance_the_null_context_does_not_matter(backbone, maps):
    pipe = make_pipeline(backbone)
    options = {"num_inference_steps": 2, "guidance_scale": 1.0}
    first = sample(pipe, maps, **options)
    pipe.null_context.context += 1
    assert torch.equal(first, sample(pipe, maps, **options))
    assert not torch.equal(sample(pipe, maps), first)


def test_structure_and_semantics_come_apart(pipeline, maps):
    full = sample(pipeline, maps)
    other = maps.flip(0)
    assert torch.equal(sample(pipeline, maps, semantics_from={"maps": maps}), full)
    mixed = sample(pipeline, maps, semantics_from={"maps": other})
    assert not torch.equal(mixed, full)
    # Without semantics only the structure's map counts, without structure only the semantics'.
    same = sample(pipeline, maps, semantics_from={"maps": other}, semantics_scale=0.0)
    torch.testing.assert_close(sample(pipeline, maps, semantics_scale=0.0), same)
    same = sample(pipeline, other, semantics_from={"maps": maps}, structure_scale=0.0)
    torch.testing.assert_close(sample(pipeline, maps, structure_scale=0.0), same)


def test_structure_scales_by_level(pipeline, maps):
    assert pipeline.manipulation.levels == 5  # four skips and the middle block
    full, half = sample(pipeline, maps), sample(pipeline, maps, structure_scale=0.5)
    assert torch.equal(sample(pipeline, maps, structure_scale=[1.0] * 5), full)
    torch.testing.assert_close(sample(pipeline, maps, structure_scale=[0.5] * 5), half)
    assert torch.equal(sample(pipeline, maps, structure_scale=[0.0] * 5), sample(pipeline, maps, structure_scale=0.0))
    alone = [sample(pipeline, maps, structure_scale=[float(i == j) for j in range(5)]) for i in range(5)]
    assert len({latents.numpy().tobytes() for latents in alone}) == 5
    with pytest.raises(ValueError, match=r"structure_scale: 3 factors given for 5 levels; .* for example \[1.0\] \* 5"):
        sample(pipeline, maps, structure_scale=[1.0] * 3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_steps_read_nothing_from_the_device(tiny_backbone, solver):
    """A read would wait for the device at each step; the meta device has nothing to read, and refuses."""
    pipe = make_pipeline(Backbone.load(tiny_backbone))
    pipe.scheduler = make_scheduler(solver, pipe.scheduler.config)
    pipe.to("meta")
    latents = sample(pipe, torch.zeros(2, 1, 16, 16), seeds=(1, 2), guidance_interval=(0.2, 0.8))
    assert latents.is_meta


def test_one_generator_draws_the_noise_of_all_images(pipeline, maps):
    options = {"num_inference_steps": 2, "output_type": "latent"}
    once, again = (pipeline(maps, generator=torch.Generator().manual_seed(5), **options).images for _ in range(2))
    assert torch.equal(once, again)
    assert not torch.equal(once, pipeline(maps, generator=torch.Generator().manual_seed(6), **options).images)


@pytest.fixture(scope="module")
def trained():
    """The shipped start weights, and 100 steps of DDIM with them."""
    pipe = NeuroPictorPipeline.from_pretrained(population_pipeline("miniature"))
    pipe.set_progress_bar_config(disable=True)
    return pipe, *after_steps(pipe, 100, 10)


def after_steps(pipe, *steps):
    random = torch.Generator().manual_seed(0)
    inputs = 0.3 * torch.randn(2, 1, 128, 128, generator=random), torch.randn(2, 192, generator=random)
    options = {"components": inputs[1], "seeds": (1, 2)}
    return [sample(pipe, inputs[0], num_inference_steps=number, **options) for number in steps]


@pytest.mark.parametrize("kind", [DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_schedulers_of_higher_order_come_near_to_many_steps_of_ddim(trained, kind):
    pipe, exact, ddim = trained
    other = NeuroPictorPipeline(**{**pipe.components, "scheduler": kind.from_config(pipe.scheduler.config)})
    other.set_progress_bar_config(disable=True)
    distances = [(latents - exact).square().mean().sqrt() / exact.std() for latents in (*after_steps(other, 10), ddim)]
    assert distances[0] < 0.08  # measured: 0.06; DDIM 0.1
    assert distances[0] < 0.8 * distances[1]


def test_schedulers_with_noise_of_their_own_use_the_images_generators(backbone, maps):
    pipe = make_pipeline(backbone)
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    together = sample(pipe, maps)
    assert torch.equal(together, sample(pipe, maps))
    torch.testing.assert_close(together[1:2], sample(pipe, maps[1:2], seeds=(2,)), atol=1e-3, rtol=1e-3)


def test_output_types(pipeline, backbone, maps):
    options = {"num_inference_steps": 2}
    latents = sample(pipeline, maps, **options)
    expected = backbone.decode(latents)
    assert expected.shape == (3, 8, 8, 3)
    images = pipeline(maps, generator=generators(1, 2, 3), guidance_scale=3.0, **options).images
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in images]), expected)
    floats = sample(pipeline, maps, output_type="np", **options)
    np.testing.assert_array_equal((floats * 255).round(), expected)
    tensor = sample(pipeline, maps, output_type="pt", **options)
    np.testing.assert_array_equal(tensor.permute(0, 2, 3, 1).numpy(), floats)


def test_half_precision_comes_near(pipeline, maps, tmp_path):
    pipeline.save_pretrained(tmp_path)
    half = NeuroPictorPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    assert {half.unet.dtype, half.vae.dtype, half.encoder.dtype, half.null_context.dtype} == {torch.bfloat16}
    full, near = (sample(pipe, maps, output_type="np") for pipe in (pipeline, half))
    assert near.dtype == np.float32
    assert np.abs(full - near).mean() < 0.03


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": (1,)}, "generator: 1 given for 3 images"),
        ({"output_type": "image"}, "output_type: 'image'; allowed: 'pil', 'np', 'pt', 'latent', for example 'pil'"),
        ({"responses": torch.zeros(3, 8921)}, "maps, responses: both given; allowed: one"),
        ({"semantics_from": {"map": torch.zeros(3)}}, "semantics_from: map given; allowed: maps or responses"),
        ({"semantics_from": {"maps": torch.zeros(2, 1, 16, 16)}}, "2 scans for the context of 3; allowed: as many"),
        ({"components": torch.zeros(3, 5)}, "components: components given; allowed: none"),
        (
            {"num_inference_steps": -1},
            "num_inference_steps: -1; allowed: a whole number from 1 to 1000, for example 50",
        ),
        ({"num_inference_steps": 1001}, "num_inference_steps: 1001; allowed: a whole number from 1 to 1000"),
        ({"num_images_per_scan": 0}, "num_images_per_scan: 0; allowed: a whole number"),
    ],
)
def test_errors(pipeline, maps, options, message):
    with pytest.raises(ValueError, match=message):
        sample(pipeline, maps, **options)


@pytest.mark.parametrize(
    ("scans", "message"),
    [
        ({"responses": torch.full((2, 8921), torch.nan)}, "responses: 17842 of 17842 values are NaN or infinite"),
        ({"responses": np.zeros((2, 100))}, r"responses: shape \(2, 100\) .* allowed: \(scans, 8921\)"),
        ({"responses": torch.zeros(8921)}, r"responses: shape \(8921,\) .* allowed: \(scans, 8921\)"),
        ({"maps": np.full((1, 1, 16, 16), np.inf)}, "maps: 256 of 256 values are NaN"),
        ({"maps": np.zeros((1, 16, 16))}, r"maps: shape \(1, 16, 16\) .* allowed: \(scans, 1, 16, 16\)"),
        ({"maps": np.zeros((0, 1, 16, 16))}, r"maps: shape \(0, 1, 16, 16\)"),
    ],
)
def test_scans_that_say_nothing_or_do_not_fit(pipeline, scans, message):
    with pytest.raises(ValueError, match=message):
        pipeline(**scans)


def test_arrays_are_taken_as_tensors(pipeline, maps):
    assert torch.equal(sample(pipeline, maps), sample(pipeline, maps.numpy().astype(np.float64)))


def test_neither_maps_nor_responses(pipeline):
    with pytest.raises(ValueError, match=r"neither given; .* for example pipeline\(responses=responses\)"):
        pipeline()
