"""Measures of images against those they were made from."""

import numpy as np

#: Of the sampling frequency: what is faster counts as high.
HIGH = 0.25
_AT_ONCE = 100  # images whose spectra are held in memory


def psnr(images: np.ndarray, originals: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of all images together, in dB; uint8 ``[N, S, S, 3]`` both."""
    return float(-10 * np.log10(np.square(images.astype(np.float32) - originals).mean() / 255**2))


def high_frequencies(images: np.ndarray, originals: np.ndarray) -> float:
    """Return the share of the originals' power at high frequencies that images have, as the mean over images.

    High are radial frequencies above a quarter of the sampling frequency, up to a half. A Hann window keeps the image's
    borders, which are no edges, out of the spectrum.

    Parameters
    ----------
    images, originals
        uint8 ``[N, S, S, 3]``.
    """
    return float((_power(images) / _power(originals)).mean())


def _power(images: np.ndarray) -> np.ndarray:
    """Return the power at high frequencies, ``[N]``."""
    side = images.shape[1]
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    high = (radius > HIGH) & (radius <= 0.5)
    window = np.outer(np.hanning(side), np.hanning(side))[..., None]
    powers = []
    for chunk in np.array_split(images, -(-len(images) // _AT_ONCE)):
        centred = chunk - chunk.mean((1, 2), keepdims=True)
        powers.append(np.square(np.abs(np.fft.fft2(centred * window, axes=(1, 2)))).sum(3)[:, high].sum(1))
    return np.concatenate(powers)


def frechet_distance(features: np.ndarray, originals: np.ndarray) -> float:
    """Return the Fréchet distance of two sets of features ``[N, F]``, taken as normal (arXiv 1706.08500, eq. 6)."""
    means = features.mean(0) - originals.mean(0)
    one, other = np.cov(features, rowvar=False), np.cov(originals, rowvar=False)
    # The product's eigenvalues are real and not negative, but for rounding.
    root = np.sqrt(np.linalg.eigvals(one @ other).real.clip(min=0)).sum()
    return float(means @ means + np.trace(one) + np.trace(other) - 2 * root)
