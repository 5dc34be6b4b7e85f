"""Noise schedule, sampler and losses as the official code has them, against formulas written from its description.

Section numbers are those of the description: betas and control, losses, sampling.
"""

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from neuropictor.models.backbone import Backbone
from neuropictor.models.encoder import FMRIAutoencoder
from neuropictor.official.parts import scheduler


def official_alphas():
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
    return betas, np.cumprod(1 - betas)


def official_timesteps(steps):
    return np.arange(0, 1000, 1000 // steps) + 1


def test_schedule_is_linear_in_the_roots_of_the_betas():
    betas, alphas = official_alphas()
    ours = scheduler()
    np.testing.assert_allclose(ours.betas, betas.astype(np.float32), rtol=2e-6)
    np.testing.assert_allclose(ours.alphas_cumprod, alphas.astype(np.float32), rtol=2e-5)


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500])
def test_timesteps_are_the_official_ones_where_the_number_of_steps_divides_a_thousand(steps):
    ours = scheduler()
    ours.set_timesteps(steps)
    np.testing.assert_array_equal(ours.timesteps.numpy()[::-1], official_timesteps(steps))


@pytest.mark.parametrize("steps", [5, 50])
def test_a_step_is_the_official_one_and_the_last_ends_at_the_first_alpha(steps):
    """eta 0; behind the last step stands the first alpha, not 1."""
    _, alphas = official_alphas()
    ours, times = scheduler(), official_timesteps(steps)
    ours.set_timesteps(steps)
    random = torch.Generator().manual_seed(0)
    sample = torch.randn(2, 4, 4, 4, generator=random, dtype=torch.float64)
    for index in reversed(range(steps)):
        noise = torch.randn(2, 4, 4, 4, generator=random, dtype=torch.float64)
        now, before = alphas[times[index]], alphas[times[index - 1]] if index else alphas[0]
        start = (sample - np.sqrt(1 - now) * noise) / np.sqrt(now)
        expected = np.sqrt(before) * start + np.sqrt(1 - before) * noise
        found = ours.step(noise, int(times[index]), sample, return_dict=False)[0]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        sample = torch.randn(2, 4, 4, 4, generator=random, dtype=torch.float64)


def test_noisy_latents():
    _, alphas = official_alphas()
    latents, noise = torch.randn(2, 3, 4, 4, 4)
    times = torch.tensor([0, 500, 999])
    root = torch.from_numpy(alphas).float()[times][:, None, None, None]
    expected = root.sqrt() * latents + (1 - root).sqrt() * noise
    torch.testing.assert_close(scheduler().add_noise(latents, noise, times), expected, atol=1e-5, rtol=1e-5)


def test_latents_are_the_scaled_posterior():
    backbone = Backbone.load()
    mean, logvar, noise = torch.randn(3, 2, *backbone.latent_shape)
    expected = backbone.vae.config.scaling_factor * (mean + torch.exp(logvar / 2) * noise)
    torch.testing.assert_close(backbone.latents(mean, logvar, noise), expected)


def test_norms_have_the_official_epsilons():
    """LayerNorm of the encoder 1e-5; GroupNorm 1e-5 in resnets and behind the UNet, 1e-6 in its transformers."""
    autoencoder = FMRIAutoencoder(16, 8, width=16, depth=2, heads=2, decoder_width=8, decoder_depth=1)
    norms = [module for module in autoencoder.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 2 * 2 + 1 + 2 * 1 + 1
    assert {norm.eps for norm in norms} == {1e-5}
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20))
        control = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    for model in (unet, control):
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.GroupNorm):
                assert module.num_groups == 32, name
                assert module.eps == (1e-6 if "attentions" in name else 1e-5), name
