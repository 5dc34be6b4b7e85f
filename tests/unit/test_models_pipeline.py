import numpy as np
import pytest
import torch

from neuropictor.models.backbone import Backbone
from neuropictor.models.encoder import FMRIEncoder
from neuropictor.models.networks import Networks
from neuropictor.models.pipeline import NeuroPictorPipeline


@pytest.fixture(scope="module")
def backbone(tiny_backbone):
    return Backbone.load(tiny_backbone)


@pytest.fixture(scope="module")
def pipeline(backbone):
    torch.manual_seed(1)
    networks = Networks.build(FMRIEncoder(16, 8, width=16, depth=1, heads=2), backbone).eval()
    for parameter in networks.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    pipe = NeuroPictorPipeline.from_parts(networks, backbone)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def maps():
    return torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(4))


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def sample(pipeline, backbone, maps, seeds=(1, 2, 3), **options):
    options = {"num_inference_steps": 5, "guidance_scale": 3.0, "output_type": "latent"} | options
    return pipeline(maps, backbone.null_context(), generators=generators(*seeds), **options).latents


@torch.no_grad()
def official_loop(pipeline, backbone, maps, seeds, steps, guidance):
    """DDIM as neuropictor.md section 3 states it, one picture and one branch at a time."""
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
    torch.testing.assert_close(sample(pipeline, backbone, maps), expected, atol=1e-3, rtol=1e-3)


def test_a_picture_does_not_depend_on_its_batch(pipeline, backbone, maps):
    together = sample(pipeline, backbone, maps)
    alone = sample(pipeline, backbone, maps[1:2], seeds=(2,))
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-4)


def test_without_guidance_the_null_context_does_not_matter(pipeline, backbone, maps):
    options = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "latent"}
    first = pipeline(maps, backbone.null_context(), generators=generators(1, 2, 3), **options).latents
    second = pipeline(maps, backbone.null_context() + 1, generators=generators(1, 2, 3), **options).latents
    assert torch.equal(first, second)


def test_structure_and_semantics_come_apart(pipeline, backbone, maps):
    full = sample(pipeline, backbone, maps)
    other = maps.flip(0)
    assert torch.equal(sample(pipeline, backbone, maps, structure_maps=maps), full)
    mixed = sample(pipeline, backbone, maps, structure_maps=other)
    assert not torch.equal(mixed, full)
    # Without semantics only the structure's map counts, without structure only the semantics'.
    same = sample(pipeline, backbone, other, structure_maps=maps, semantics_scale=0.0)
    torch.testing.assert_close(sample(pipeline, backbone, maps, semantics_scale=0.0), same)
    same = sample(pipeline, backbone, maps, structure_maps=other, structure_scale=0.0)
    torch.testing.assert_close(sample(pipeline, backbone, maps, structure_scale=0.0), same)


def test_decodes_as_the_backbone_does(pipeline, backbone, maps):
    result = pipeline(maps, backbone.null_context(), num_inference_steps=2, generators=generators(1, 2, 3))
    assert result.pictures.dtype == np.uint8
    assert result.pictures.shape == (3, 8, 8, 3)
    np.testing.assert_array_equal(result.pictures, backbone.decode(result.latents))


def test_save_pretrained_round_trip(pipeline, backbone, maps, tmp_path):
    pipeline.save_pretrained(tmp_path)
    again = NeuroPictorPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    torch.testing.assert_close(sample(again, backbone, maps), sample(pipeline, backbone, maps), atol=1e-4, rtol=1e-4)


def test_errors(pipeline, backbone, maps):
    with pytest.raises(ValueError, match="generators: 1 given for 3 maps"):
        sample(pipeline, backbone, maps, seeds=(1,))
    with pytest.raises(ValueError, match="output_type: 'pil'"):
        sample(pipeline, backbone, maps, output_type="pil")
