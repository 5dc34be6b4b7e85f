"""Layout of the simulated brain: receptive fields laid out over areas, and functions smooth over cortex."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import rankdata

if TYPE_CHECKING:
    from neuropictor.surface import Geometry

# Areas in which the upper and the lower field lie in two strips that meet at the fovea, from the innermost outwards.
# HCP's flat surface is cut along the calcarine sulcus, so V1 is a strip too, with the horizontal meridian at the cut.
_STRIPS = ("V1", "V2", "V3", "V4")
# Areas whose centres locate the fovea, and the dorsal (lower field) and ventral (upper field) directions.
_FOVEAL = ("V4", "LO1", "LO2")
_DORSAL = ("V3A", "V6", "V7", "IPS1")
_VENTRAL = ("V8", "VMV1", "VMV2", "VVC")

# Cortical magnification falls as 1 / (eccentricity + this), degrees (Horton & Hoyt 1991).
_MAGNIFICATION = 0.75
# Eccentricity (degrees) at the far end of an area. Of V1 to V3, 55-60 % of the surface lies within the image's 4.2
# degrees.
_FAR_STRIP, _FAR_OTHER = 20.0, 10.0
# Receptive fields reach a little past the vertical meridian.
_ANGLE_SPAN = 100.0


@dataclass(frozen=True)
class Layout:
    """Visual vertices of a mesh and the standard position of their receptive fields.

    Attributes
    ----------
    vertices
        int [v], ascending numbers of the mesh's visual vertices (left, then right).
    area
        str [v], HCP-MMP1 name.
    right
        bool [v], right hemisphere.
    xy
        float32 [v, 2], flat coordinates in mm.
    field
        float32 [v, 2], distance along the area from the fovea (0 to 1) and polar angle in degrees (0 horizontal, 90
        up), mirrored in the left hemisphere.
    """

    vertices: np.ndarray
    area: np.ndarray
    right: np.ndarray
    xy: np.ndarray
    field: np.ndarray


def make_layout(geometry: Geometry, mesh: str) -> Layout:
    """Lay out receptive fields over the visual areas of a mesh.

    In V1 to V4 the eccentricity follows the strip outwards from its middle and the polar angle its width, reversing at
    every border; in the other areas eccentricity follows the longer principal axis, away from the fovea, and the angle
    the shorter one, lower field dorsally.
    """
    vertices = np.flatnonzero(geometry.source_visual(mesh))
    area_ids = geometry.source_area(mesh)
    names = np.array([geometry.area_names[int(i)] for i in area_ids[vertices]])
    right = vertices >= len(area_ids) // 2
    xy = geometry.source_xy(mesh)[vertices]
    field = np.zeros((len(vertices), 2), np.float32)
    for side in (False, True):
        mask = right == side
        centres = {name: xy[mask & (names == name)].mean(axis=0) for name in np.unique(names[mask])}
        fovea = np.mean([centres[name] for name in _FOVEAL if name in centres], axis=0)
        up = np.mean([centres[name] for name in _VENTRAL if name in centres], axis=0)
        down = np.mean([centres[name] for name in _DORSAL if name in centres], axis=0)
        for name in centres:
            inside = mask & (names == name)
            if name in _STRIPS:
                field[inside] = _strip_field(name, xy, names, mask, up - down)
            else:
                field[inside] = _area_field(xy[inside], fovea, up - down)
    return Layout(vertices, names, right, xy, field)


def receptive_fields(layout: Layout, field: np.ndarray) -> np.ndarray:
    """Turn places on the areas into centres in the visual field.

    Returns
    -------
    numpy.ndarray
        float32 [v, 2]: x to the right and y upwards, in degrees from the fixation point.
    """
    far = np.where(np.isin(layout.area, _STRIPS), _FAR_STRIP, _FAR_OTHER)
    along = np.clip(field[:, 0], 0, 1)
    eccentricity = _MAGNIFICATION * (np.exp(along * np.log1p(far / _MAGNIFICATION)) - 1)
    angle = np.radians(field[:, 1])
    x = eccentricity * np.cos(angle) * np.where(layout.right, -1, 1)
    return np.stack([x, eccentricity * np.sin(angle)], axis=1).astype(np.float32)


def displaced_field(layout: Layout, shift: np.ndarray) -> np.ndarray:
    """Look up `Layout.field` at places shifted over the cortex by mm [v, 2], staying within area and hemisphere."""
    moved = np.empty_like(layout.field)
    for side in (False, True):
        for name in np.unique(layout.area):
            inside = np.flatnonzero((layout.right == side) & (layout.area == name))
            if not len(inside):
                continue
            neighbours = min(4, len(inside))
            distance, index = cKDTree(layout.xy[inside]).query(layout.xy[inside] + shift[inside], neighbours)
            distance, index = distance.reshape(len(inside), neighbours), index.reshape(len(inside), neighbours)
            weight = 1 / (distance + 0.5) ** 2
            moved[inside] = np.einsum(
                "vk,vkc->vc", weight / weight.sum(axis=1, keepdims=True), layout.field[inside][index]
            )
    return moved


def smooth_fields(xy: np.ndarray, count: int, length: float, rng: np.random.Generator, waves: int = 96) -> np.ndarray:
    """Draw random functions of place on the flat cortex: mean 0, variance 1, gaussian correlation of length mm.

    They are functions of the coordinates, so coarse and fine meshes get the same ones.

    Returns
    -------
    numpy.ndarray
        float32 [vertices, count].
    """
    basis = wave_basis(xy, length, rng, waves)
    return basis @ rng.standard_normal((basis.shape[1], count), dtype=np.float32)


def wave_basis(xy: np.ndarray, length: float, rng: np.random.Generator, waves: int) -> np.ndarray:
    """Return random Fourier features of a gaussian covariance, float32 [vertices, 2 * waves]; each row has norm 1."""
    frequency = rng.standard_normal((2, waves)).astype(np.float32) / np.float32(length)
    phase = np.nan_to_num(xy).astype(np.float32) @ frequency
    return np.concatenate([np.cos(phase), np.sin(phase)], axis=1) / np.sqrt(np.float32(waves))


def _strip_field(name: str, xy: np.ndarray, names: np.ndarray, mask: np.ndarray, upwards: np.ndarray) -> np.ndarray:
    inside = mask & (names == name)
    points = xy[inside]
    axis = _principal_axes(points)[0]
    place = (points - points.mean(axis=0)) @ (axis * np.sign(axis @ upwards))
    along = 2 * _rank(place) - 1
    rank = _STRIPS.index(name)
    later = mask & ~np.isin(names, _STRIPS[: rank + 1])
    outer = cKDTree(xy[later if rank else mask & (names == "V2")]).query(points)[0]
    # V1 has no inner neighbour: its inner edge is the cut, farthest from V2.
    across = 1 - _rank(outer)
    if rank:
        inner = cKDTree(xy[mask & (names == _STRIPS[rank - 1])]).query(points)[0]
        across = _rank(inner / (inner + outer + 1e-6))
    from_horizontal = across if rank % 2 == 0 else 1 - across
    # Past the vertical meridian a little, and past the horizontal one too.
    angle = np.sign(along) * (from_horizontal * (_ANGLE_SPAN + 8) - 8)
    return np.stack([np.abs(along), angle], axis=1)


def _area_field(points: np.ndarray, fovea: np.ndarray, upwards: np.ndarray) -> np.ndarray:
    centred = points - points.mean(axis=0)
    long, short = _principal_axes(points)
    long = long * (-1 if long @ (fovea - points.mean(axis=0)) > 0 else 1)
    short = short * (1 if short @ upwards >= 0 else -1)
    return np.stack([_rank(centred @ long), (2 * _rank(centred @ short) - 1) * _ANGLE_SPAN], axis=1)


def _principal_axes(points: np.ndarray) -> np.ndarray:
    """Return the longer and the shorter principal axis, unit vectors [2, 2]."""
    return np.linalg.svd((points - points.mean(axis=0)).astype(np.float64), full_matrices=False)[2]


def _rank(values: np.ndarray) -> np.ndarray:
    """Map values to even steps between 0 and 1."""
    return (rankdata(values) - 0.5) / len(values)
