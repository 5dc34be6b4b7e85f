"""Measures of images against those they were made from."""

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from neuropictor.miniature.measures import frechet_distance, high_frequencies, psnr

IMAGES = np.random.default_rng(0).integers(0, 256, (120, 32, 32, 3)).astype(np.uint8)


def test_power_at_high_frequencies_is_kept_lost_or_halved():
    assert high_frequencies(IMAGES, IMAGES) == pytest.approx(1)
    assert high_frequencies(uniform_filter(IMAGES, (0, 5, 5, 0)), IMAGES) < 0.05
    grey = (128 + (IMAGES - 128.0) * np.sqrt(0.5)).round().astype(np.uint8)
    assert high_frequencies(grey, IMAGES) == pytest.approx(0.5, abs=0.01)


def test_a_slow_wave_counts_for_nothing_and_a_fast_one_for_all():
    along = np.arange(32)
    slow, fast = (100 * np.sin(2 * np.pi * along * frequency) for frequency in (0.125, 0.375))

    def image(wave):
        return np.broadcast_to(128 + wave[None, None, :, None], (1, 32, 32, 3)).round().astype(np.uint8)

    assert high_frequencies(image(slow), image(fast)) < 0.001
    assert high_frequencies(image(fast), image(fast / 2)) == pytest.approx(4, abs=0.1)


def test_psnr_of_a_uniform_error():
    assert psnr(np.full((2, 4, 4, 3), 130, np.uint8), np.full((2, 4, 4, 3), 120, np.uint8)) == pytest.approx(
        28.13, abs=0.01
    )


def test_frechet_distance_is_that_of_normal_distributions():
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 1, (50000, 3)), rng.normal(2, 3, (50000, 3))
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(one, other) == pytest.approx(3 * 2**2 + 3 * (3 - 1) ** 2, rel=0.02)
