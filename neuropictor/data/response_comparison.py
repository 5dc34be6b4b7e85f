"""Two response stores of one person, made in two ways, compared: responses to images, and noise ceilings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from neuropictor.data.responses import ResponseStore
from neuropictor.records.files import atomic_path
from neuropictor.surface import load_geometry

ALL = "all of visual cortex"
LEAST_IMAGES = 3
"""Images that a correlation takes at least: with two it is 1 or -1."""

_IMAGES_AT_ONCE = 256
_LEAST_VARIANCE = 1e-9  # of responses that vary


def compare_responses(first: Path, second: Path, out: Path) -> pd.DataFrame:
    """Compare two response stores of one person, over the images that both have.

    Parameters
    ----------
    first, second
        Stores on visual cortex, in which images have the same numbers.
    out
        CSV to write.

    Returns
    -------
    DataFrame
        A row for each area, and the last for all of visual cortex: ``area``; ``vertices`` whose responses vary in both
        stores; ``images`` that both have; ``response_r``, median over vertices of the correlation over images of the
        responses, each the mean over an image's repeats; ``ncsnr_r``, correlation over vertices of the noise ceiling
        signal-to-noise ratios; ``ncsnr_first`` and ``ncsnr_second``, their medians. NaN where there is nothing to
        compare.

    Raises
    ------
    FileNotFoundError, ValueError
        If a store is missing or damaged, not on visual cortex, or both have fewer than `LEAST_IMAGES` images in common.
    """
    stores, geometry = (ResponseStore(first), ResponseStore(second)), load_geometry()
    for store in stores:
        if store.n_vertices != geometry.n_vertices:
            raise ValueError(
                f"{store.path} has {store.n_vertices} vertices; allowed: those of visual cortex, {geometry.n_vertices}"
            )
    images = np.intersect1d(stores[0].nsd_id, stores[1].nsd_id)
    if len(images) < LEAST_IMAGES:
        raise ValueError(
            f"{first} and {second} have {len(images)} images in common, of {len(np.unique(stores[0].nsd_id))} and "
            f"{len(np.unique(stores[1].nsd_id))}; allowed: at least {LEAST_IMAGES}, with the same numbers in both. "
            "Names of COCO get NSD's numbers by import-betas --nsd-images nsd_stim_info_merged.csv"
        )
    correlation = _over_images(*stores, images)
    ceilings = pd.DataFrame({"first": stores[0].ncsnr, "second": stores[1].ncsnr})
    rows = []
    for area in [*geometry.visual_areas.values(), ALL]:
        inside = np.ones(geometry.n_vertices, bool) if area == ALL else geometry.region(area)
        chosen = inside & np.isfinite(correlation)
        known = ceilings[chosen].dropna()
        varying = len(known) >= LEAST_IMAGES and (known.std() > 0).all()
        rows.append(
            {
                "area": area,
                "vertices": int(chosen.sum()),
                "images": len(images),
                "response_r": np.median(correlation[chosen]) if chosen.any() else np.nan,
                "ncsnr_r": known["first"].corr(known["second"]) if varying else np.nan,
                "ncsnr_first": known["first"].median(),
                "ncsnr_second": known["second"].median(),
            }
        )
    table = pd.DataFrame(rows)
    with atomic_path(out) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    return table


def _over_images(first: ResponseStore, second: ResponseStore, images: np.ndarray) -> np.ndarray:
    """Correlation over images of two stores' mean responses at each vertex, [V]; NaN where one does not vary."""
    # Of z-scores, plain sums lose nothing.
    sums, squares, product = (np.zeros((rows, first.n_vertices)) for rows in (2, 2, 1))
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        block = images[start : start + _IMAGES_AT_ONCE]
        values = np.stack([store.mean_response(block) for store in (first, second)]).astype(np.float64)
        sums += values.sum(1)
        squares += np.square(values).sum(1)
        product += (values[0] * values[1]).sum(0, keepdims=True)
    means = sums / len(images)
    variances = squares / len(images) - np.square(means)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = (product[0] / len(images) - means[0] * means[1]) / np.sqrt(variances[0] * variances[1])
    return np.where((variances > _LEAST_VARIANCE).all(0), correlation, np.nan)
