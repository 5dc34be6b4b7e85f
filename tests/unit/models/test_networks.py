import pytest
import torch
from safetensors.torch import save_file
from small_backbone import TINY_ENCODER
from small_pipeline import stirred

from neuropictor.models.backbone import Backbone
from neuropictor.models.encoder import FMRIAutoencoder, FMRIEncoder
from neuropictor.models.guiding import GuidingNetwork
from neuropictor.models.networks import Networks, autoencoder_start, load_autoencoder, save_autoencoder
from neuropictor.models.pipeline import NeuroPictorPipeline
from neuropictor.models.pipeline_folder import read_networks
from neuropictor.models.population import population_pipeline


@pytest.fixture(scope="module")
def backbone(tiny_backbone):
    return Backbone.load(tiny_backbone)


@pytest.fixture
def networks(backbone):
    torch.manual_seed(1)
    return Networks.build(FMRIEncoder(16, 8, width=16, depth=1, heads=2), backbone).eval()


def inputs():
    return torch.randn(2, 1, 16, 16), torch.randn(2, 4, 4, 4), torch.tensor([3, 700])


def predict(unet, latents, timesteps, modulation):
    return unet(
        latents,
        timesteps,
        modulation.context,
        down_block_additional_residuals=modulation.skips,
        mid_block_additional_residual=modulation.middle,
    ).sample


@torch.no_grad()
def test_sizes_follow_from_backbone_and_encoder(networks, backbone):
    maps, latents, timesteps = inputs()
    modulation = networks(maps, latents, timesteps)
    assert modulation.context.shape == modulation.semantic.shape == (2, *backbone.context_shape)
    assert networks.manipulation.hint(networks.encoder(maps)).shape == (2, 8, 4, 4)
    assert predict(backbone.unet, latents, timesteps, modulation).shape == latents.shape


@torch.no_grad()
def test_new_networks_leave_the_unet_unchanged(networks, backbone):
    maps, latents, timesteps = inputs()
    modulation = networks(maps, latents, timesteps)
    assert not any(skip.any() for skip in modulation.skips)
    assert not modulation.middle.any()
    plain = backbone.unet(latents, timesteps, modulation.context).sample
    torch.testing.assert_close(predict(backbone.unet, latents, timesteps, modulation), plain)


@torch.no_grad()
def test_control_is_a_copy_of_the_unet_with_the_hint_behind_its_first_convolution(networks, backbone):
    _, latents, timesteps = inputs()
    control, seen = networks.manipulation.control, {}
    control.down_blocks[0].register_forward_hook(
        lambda module, args, kwargs, out: seen.update(kwargs), with_kwargs=True
    )
    hint, context = torch.randn(2, 8, 4, 4), torch.randn(2, *backbone.context_shape)
    networks.manipulation(latents, timesteps, context, hint)
    torch.testing.assert_close(seen["hidden_states"], backbone.unet.conv_in(latents) + hint)
    copied = dict(backbone.unet.named_parameters())
    for name, parameter in control.named_parameters():
        if not name.startswith("controlnet_"):
            assert torch.equal(parameter, copied[name]), name


@torch.no_grad()
def test_scale_is_a_factor_on_all_residuals(networks, backbone):
    stirred(networks)
    maps, latents, timesteps = inputs()
    tokens = networks.encoder(maps)
    context, hint = networks.guiding(tokens)[0], networks.manipulation.hint(tokens)
    skips, middle = networks.manipulation(latents, timesteps, context, hint)
    halves, half = networks.manipulation(latents, timesteps, context, hint, scale=0.5)
    torch.testing.assert_close(half, middle / 2)
    for small, large in zip(halves, skips, strict=True):
        torch.testing.assert_close(small, large / 2)


@torch.no_grad()
def test_refine_takes_pretrained_weights_over_exactly(networks, backbone, tiny_backbone, tmp_path):
    NeuroPictorPipeline.from_parts(networks, backbone).save_trained(tmp_path, tiny_backbone)
    refined = read_networks(tmp_path, variant="refine")
    maps, latents, timesteps = inputs()
    before, after = networks(maps, latents, timesteps), refined(maps, latents, timesteps)
    assert torch.equal(before.context, after.context)
    stirred(refined)
    context, semantic = refined.guiding(refined.encoder(maps))
    assert not torch.equal(context, semantic)


@torch.no_grad()
def test_dropped_contexts_are_the_null_context_and_leave_the_semantic_feature(networks, backbone):
    maps, latents, timesteps = inputs()
    null = backbone.null_context()
    whole = networks(maps, latents, timesteps)
    half = networks(maps, latents, timesteps, null, torch.tensor([True, False]))
    assert torch.equal(half.context[0], null[0])
    assert torch.equal(half.context[1], whole.context[1])
    assert torch.equal(half.semantic, whole.semantic)


def test_an_autoencoder_is_the_same_file_each_time_and_tells_its_start(tmp_path):
    autoencoder = FMRIAutoencoder(**TINY_ENCODER)
    paths = [tmp_path / f"{number}.safetensors" for number in range(12)]
    for path in paths:
        save_autoencoder(autoencoder, path, "0123abcd")
    assert len({path.read_bytes() for path in paths}) == 1
    assert autoencoder_start(paths[0]) == "0123abcd"
    assert torch.equal(load_autoencoder(paths[0]).mask_token, autoencoder.mask_token)


def test_weights_without_configuration_are_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="without configuration"):
        load_autoencoder(tmp_path / "bare.safetensors")


def test_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="'tune' is unknown; allowed: 'pretrain' or 'refine'"):
        GuidingNetwork(5, 8, 6, 8, variant="tune")


def test_missing_population_start_is_named(tiny_backbone):
    with pytest.raises(FileNotFoundError, match="init: scratch"):
        population_pipeline(tiny_backbone)
