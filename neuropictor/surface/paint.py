"""Draw values of visual-cortex vertices on the flat cortex, for figures. Only this module needs matplotlib."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from neuropictor.surface.atlas import N_AREAS, OUTSIDE_CORTEX

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from neuropictor.surface.geometry import Geometry

NAMED_AREAS = ("V1", "V2", "V3", "V4", "V3A", "LO2", "MT", "FFC", "PHA3", "PH", "IPS1")
"""Areas named in an image by default: enough for orientation, few enough to read."""

CORTEX_COLOUR = (0.88, 0.88, 0.88)
OUTLINE_COLOUR = (0.15, 0.15, 0.15)


def colour_limits(values: np.ndarray) -> tuple[float, float]:
    """Limits of the colours: symmetric around 0 if any value is negative, else from 0; 0.5 % of values may saturate."""
    finite = values[np.isfinite(values)]
    top = float(np.quantile(np.abs(finite), 0.995)) if finite.size else 0.0
    top = top or 1.0
    return (-top if (finite < 0).any() else 0.0), top


def area_edges(geometry: Geometry) -> np.ndarray:
    """Pixels on the border of a visual area (or of visual cortex itself); bool [714, 719]."""
    of_vertex = geometry.area + (N_AREAS + 1) * geometry.hemisphere
    area = np.where(geometry.raster >= 0, of_vertex[geometry.raster], 0)
    edges = np.zeros(area.shape, dtype=bool)
    edges[:-1] |= area[:-1] != area[1:]
    edges[:, :-1] |= area[:, :-1] != area[:, 1:]
    return edges


def colour_image(
    geometry: Geometry,
    values: np.ndarray,
    limits: tuple[float, float] | None = None,
    colours: str | None = None,
    outlines: bool = True,
) -> np.ndarray:
    """RGBA image of the flat cortex: visual cortex coloured, other cortex and NaN grey, transparent beside it.

    Parameters
    ----------
    geometry
        The flat cortex.
    values
        float [V].
    limits
        Values at the ends of the colours; see `colour_limits`.
    colours
        A matplotlib colormap; "RdBu_r" if the limits lie on both sides of zero, else "magma".
    outlines
        Whether to draw the borders of the areas.

    Returns
    -------
    uint8 [714, 719, 4]

    Raises
    ------
    ValueError
        If there is not one value a vertex.
    """
    import matplotlib

    values = np.asarray(values, dtype=np.float64)
    if values.shape != (geometry.n_vertices,):
        raise ValueError(f"values have shape {values.shape}; allowed is one value a vertex, ({geometry.n_vertices},)")
    low, high = limits or colour_limits(values)
    colormap = matplotlib.colormaps[colours or ("RdBu_r" if low < 0 < high else "magma")]
    of_vertex = colormap((values - low) / (high - low))
    of_vertex[~np.isfinite(values)] = (*CORTEX_COLOUR, 1)
    image = np.empty((*geometry.raster.shape, 4))
    image[:] = (*CORTEX_COLOUR, 1)
    inside = geometry.raster >= 0
    image[inside] = of_vertex[geometry.raster[inside]]
    image[geometry.raster == OUTSIDE_CORTEX] = (1, 1, 1, 0)
    if outlines:
        edges = area_edges(geometry)
        image[edges] = (*OUTLINE_COLOUR, 1)
    return np.rint(image * 255).astype(np.uint8)


def area_centre(geometry: Geometry, area: int, hemisphere: int) -> tuple[float, float]:
    """Column and row of the pixel of an area that lies deepest inside it, where its name fits best."""
    from scipy import ndimage

    inside = (geometry.raster >= 0) & (geometry.area[geometry.raster] == area)
    inside &= geometry.hemisphere[geometry.raster] == hemisphere
    row, column = np.unravel_index(ndimage.distance_transform_edt(inside).argmax(), inside.shape)
    return float(column), float(row)


def paint(
    geometry: Geometry,
    values: np.ndarray,
    axes: Axes | None = None,
    *,
    limits: tuple[float, float] | None = None,
    colours: str | None = None,
    outlines: bool = True,
    names: Iterable[str] = NAMED_AREAS,
    title: str = "",
    label: str = "",
    colorbar: bool = True,
) -> Axes:
    """Draw values on the flat cortex with area borders, area names, L and R, and a colour bar.

    Parameters
    ----------
    geometry
        The flat cortex.
    values
        float [V]: NaN is drawn as grey cortex.
    axes
        Where to draw; by default the axes of a new figure (``.figure``) without a window.
    limits, colours, outlines
        See `colour_image`.
    names
        Areas whose names are written, of the 31 visual areas; () for none.
    title, label
        Above the image; beside the colour bar.
    colorbar
        Whether to draw one.

    Returns
    -------
    matplotlib.axes.Axes
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    ids = {name: area for area, name in geometry.visual_areas.items()}
    unknown = [name for name in names if name not in ids]
    if unknown:
        raise ValueError(
            f"names holds {unknown[0]!r}; allowed are the visual areas {', '.join(ids)}. Example: names=('V1', 'MT')"
        )
    values = np.asarray(values, dtype=np.float64)
    low, high = limits or colour_limits(values)
    colours = colours or ("RdBu_r" if low < 0 < high else "magma")
    if axes is None:
        axes = Figure(figsize=(6.4, 5.6), dpi=150, layout="constrained").subplots()
    axes.imshow(colour_image(geometry, values, (low, high), colours, outlines), interpolation="antialiased")
    axes.set_axis_off()
    axes.set_title(title)
    halo = [withStroke(linewidth=2, foreground="white", alpha=0.85)]
    for name in names:
        for hemisphere in (0, 1):
            column, row = area_centre(geometry, ids[name], hemisphere)
            axes.text(column, row, name, ha="center", va="center", fontsize=7, color="black", path_effects=halo)
    for x, side, align in ((0.0, "L", "left"), (1.0, "R", "right")):
        axes.text(
            x, 1.0, side, transform=axes.transAxes, ha=align, va="top", fontsize=14, fontweight="bold", color="black"
        )
    if colorbar:
        mappable = ScalarMappable(Normalize(low, high), colormaps[colours])
        axes.figure.colorbar(mappable, ax=axes, shrink=0.6, pad=0.02, label=label)
    return axes
