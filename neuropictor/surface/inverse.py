"""Ways back: from a map to the vertices of visual cortex, and from there to the vertices of a FreeSurfer mesh."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from neuropictor.surface.atlas import mesh_vertices
from neuropictor.surface.geometry import Geometry


def inverse_operator(geometry: Geometry, size: int) -> sparse.csr_array:
    """Operator from a map to the vertices that it shows, for values of pixels from networks (e.g. gradients).

    A vertex gets the mean over the pixels that show it, weighted by how much of it they show; a vertex without pixels
    (a map has fewer than the raster) gets that of the nearest vertex with some.

    Parameters
    ----------
    geometry
        The flat cortex.
    size
        Side of the map in pixels.

    Returns
    -------
    float32 [V, size * size]
        Rows sum to 1: ``inverse_operator(geometry, 256) @ map.ravel()``.
    """
    shown = geometry.map_operator(size).T.tocsr()
    total = shown.sum(1)
    seen = np.flatnonzero(total > 0)
    shown = sparse.diags_array(1 / np.where(total > 0, total, 1)) @ shown
    nearest = np.arange(geometry.n_vertices)
    for side in (0, 1):
        vertices, known = np.flatnonzero(geometry.hemisphere == side), seen[geometry.hemisphere[seen] == side]
        nearest[vertices] = known[cKDTree(geometry.xy[known]).query(geometry.xy[vertices])[1]]
    nearest[seen] = seen
    return shown.tocsr()[nearest].astype(np.float32)


def on_mesh(geometry: Geometry, values: np.ndarray, mesh: str) -> np.ndarray:
    """Put values of visual-cortex vertices on a FreeSurfer mesh, for FreeView and other viewers of such meshes.

    Parameters
    ----------
    geometry
        The flat cortex.
    values
        float [V].
    mesh
        {"fsaverage5", "fsaverage6", "fsaverage"}.

    Returns
    -------
    float32 [2 * n]
        Left hemisphere's vertices, then the right's: the value of the nearest vertex (on the flat cortex) within the 31
        visual areas, NaN elsewhere.

    Raises
    ------
    ValueError
        If there is not one value per vertex, or no such mesh.
    """
    values = np.asarray(values)
    if values.shape != (geometry.n_vertices,):
        raise ValueError(f"values have shape {values.shape}; allowed is one value a vertex, ({geometry.n_vertices},)")
    xy, visual = geometry.source_xy(mesh), geometry.source_visual(mesh)
    mapped = np.full(2 * mesh_vertices(mesh), np.nan, np.float32)
    for side, part in enumerate(np.split(np.arange(len(mapped)), 2)):
        targets, sources = part[visual[part]], np.flatnonzero(geometry.hemisphere == side)
        mapped[targets] = values[sources[cKDTree(geometry.xy[sources]).query(xy[targets])[1]]]
    return mapped
