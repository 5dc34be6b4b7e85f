"""What makes sampling faster or smaller changes no image beyond the stated precision."""

import numpy as np
import pytest
import torch
from small_pipeline import make_pipeline, sample

from neuropictor.config import RuntimeConfig
from neuropictor.models.backbone import Backbone
from neuropictor.models.decoding import decode, latent_bytes
from neuropictor.models.speed import prepare_sampling
from neuropictor.training.loop import make_accelerator


@pytest.fixture
def maps():
    return torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def backbone(tiny_backbone):
    return Backbone.load(tiny_backbone)


def prepared(backbone, **settings):
    pipeline = make_pipeline(backbone)
    prepare_sampling(pipeline, RuntimeConfig(device="cpu", **settings))
    return pipeline


def relative(found, expected):
    return ((found.float() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("bf16", 0.05), ("fp16", 0.01)])
def test_steps_run_in_the_precision_and_stay_near_float32(tiny_backbone, maps, precision, bound):
    expected = sample(make_pipeline(Backbone.load(tiny_backbone)), maps)
    pipeline = prepared(Backbone.load(tiny_backbone), precision=precision)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert {pipeline.unet.dtype, pipeline.manipulation.control.dtype, pipeline.vae.dtype} == {dtype}
    once = (pipeline.encoder, pipeline.guiding, pipeline.manipulation.hint_mapper)
    assert {parameter.dtype for part in once for parameter in part.parameters()} == {torch.float32}
    assert pipeline.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert relative(sample(pipeline, maps), expected) < bound
    images = sample(pipeline, maps, output_type="np")
    assert images.shape == (3, 8, 8, 3)
    assert 0 <= images.min() <= images.max() <= 1


def test_what_is_constant_is_computed_once_and_both_branches_in_one_batch(backbone, maps):
    pipeline, calls = prepared(backbone), {}
    for name, part in (
        ("encoder", pipeline.encoder),
        ("guiding", pipeline.guiding),
        ("hint", pipeline.manipulation.hint_mapper),
        ("control", pipeline.manipulation.control),
        ("unet", pipeline.unet),
    ):
        part.register_forward_pre_hook(lambda _, inputs, name=name: calls.setdefault(name, []).append(len(inputs[0])))
    sample(pipeline, maps, num_inference_steps=4)
    assert calls == {"encoder": [3], "guiding": [3], "hint": [3], "control": [6] * 4, "unet": [6] * 4}


def test_outside_the_guidance_interval_a_step_costs_half(backbone, maps):
    pipeline, rows, times = prepared(backbone), [], []
    whole = sample(pipeline, maps, guidance_interval=(0.0, 1.0))
    assert torch.equal(whole, sample(pipeline, maps))

    def note(_, inputs):
        rows.append(len(inputs[0]))
        times.append(int(inputs[1]))

    pipeline.unet.register_forward_pre_hook(note)
    part = sample(pipeline, maps, guidance_interval=(0.3, 0.8))
    assert not torch.equal(part, whole)
    assert {6, 3} == set(rows)
    assert rows == [6 if 300 <= time <= 800 else 3 for time in times]


def test_compiling_is_asked_of_what_runs_in_every_step(backbone, maps, monkeypatch):
    asked = []

    def compiled(module, **options):
        asked.append((type(module).__name__, options))

    expected = sample(prepared(backbone), maps)
    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    assert torch.equal(sample(prepared(backbone, compile=True), maps), expected)
    options = {"mode": None, "dynamic": False}  # graphs on CUDA alone
    assert asked == [("UNet2DConditionModel", options), ("ControlNetModel", options)]


def test_decoding_in_less_memory_changes_nothing_as_long_as_a_image_fits(backbone, caplog):
    vae, latents, parts = backbone.vae, torch.randn(5, 4, 4, 4), []
    expected = decode(vae, latents)
    assert expected.shape == (5, 3, 8, 8)
    vae.decoder.register_forward_pre_hook(lambda _, inputs: parts.append(tuple(inputs[0].shape)))
    two = 2.5 * 16 * latent_bytes(vae) / 2**30
    torch.testing.assert_close(decode(vae, latents, two), expected, rtol=1e-5, atol=1e-5)
    assert parts == [(2, 4, 4, 4), (2, 4, 4, 4), (1, 4, 4, 4)]
    assert not caplog.records


def test_what_is_not_finite_is_refused_instead_of_black(backbone):
    latents = torch.randn(3, 4, 4, 4)
    latents[1, 2, 3, 0] = torch.nan
    with pytest.raises(ValueError, match=r"1 of 3 latents are not finite; .* runtime\.precision: fp32"):
        backbone.decode(latents)
    overflow = backbone.vae.decoder.register_forward_hook(lambda *given: given[-1] * torch.inf)
    with pytest.raises(ValueError, match=r"2 of 2 images of a VAE in torch\.float32 are not finite"):
        backbone.decode(torch.randn(2, 4, 4, 4))
    overflow.remove()


def test_the_backbone_decodes_and_encodes_within_its_memory(backbone):
    """As baselines, ceilings and cached latents do: all images at once took 256 GiB at 512 pixels."""
    latents, parts = torch.randn(5, 4, 4, 4), []
    two = 2.5 * 16 * latent_bytes(backbone.vae) / 2**30
    expected = backbone.decode(latents)
    moments = backbone.encode_images(expected)
    for module in (backbone.vae.decoder, backbone.vae.encoder):
        module.register_forward_pre_hook(lambda _, inputs: parts.append(len(inputs[0])))
    assert np.abs(backbone.decode(latents, two).astype(int) - expected).max() <= 1
    for less, whole in zip(backbone.encode_images(expected, two), moments, strict=True):
        torch.testing.assert_close(less, whole, rtol=1e-4, atol=1e-4)
    assert parts == [2, 2, 1] * 2


def test_a_image_that_does_not_fit_is_decoded_in_tiles(backbone, caplog):
    vae, latents, parts = backbone.vae, torch.randn(1, 4, 40, 40), []
    expected = decode(vae, latents)
    vae.decoder.register_forward_pre_hook(lambda _, inputs: parts.append(tuple(inputs[0].shape[2:])))
    found = decode(vae, latents, 1e-9)
    assert found.shape == expected.shape
    assert max(max(part) for part in parts) == 16
    assert "decode_memory: 0.00 GiB do not hold one image: decoding in tiles of 16 latents" in caplog.text
    parts.clear()
    torch.testing.assert_close(decode(vae, latents), expected)  # the setting does not stay
    assert parts == [(40, 40)]


def test_memory_of_decoding_is_that_of_the_widest_place():
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(block_out_channels=(32, 64, 128, 128), **blocks)
    # Stable Diffusion's is four times as wide: 256 channels at 512 x 512, four times, 4 bytes: 1 GiB an image.
    assert 4 * 64 * 64 * latent_bytes(vae) == 2**30
    assert latent_bytes(vae.to(torch.bfloat16)) * 2 * 4 * 64 * 64 == 2**30


def test_training_refuses_half_precision_that_loses_gradients(tiny_runtime):
    with pytest.raises(ValueError, match=r"runtime\.precision: 'fp16' is for sampling, .* for example runtime: {prec"):
        make_accelerator(tiny_runtime.model_copy(update={"precision": "fp16"}))
