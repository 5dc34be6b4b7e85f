"""The geometry that every stage shares, read from the shipped asset: visual-cortex vertices, resampling, maps."""

from __future__ import annotations

import functools
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage, sparse

from neuropictor.surface.atlas import (
    AREA_GROUPS,
    ASSET_FORMAT,
    FS_LR_VERTICES,
    MESH_VERTICES,
    VISUAL_AREAS,
    XY_MISSING,
    XY_UNIT_MM,
    mesh_vertices,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ASSET = Path(__file__).with_name("geometry.npz")


@dataclass(frozen=True, eq=False)
class Geometry:
    """Visual cortex on the fs_LR 32k surface, and the ways into it (fsaverage) and out of it (maps).

    Its arrays are read-only. V = 8,921 vertices: 4,540 of the left hemisphere, then 4,381 of the right, each ascending
    by vertex number.

    Attributes
    ----------
    vertex
        int64 [V]: number on its hemisphere's fs_LR 32k mesh.
    hemisphere
        int64 [V]: 0 left, 1 right.
    area
        int64 [V]: HCP-MMP1 id, 1..180, the same ids in both hemispheres; 31 of them occur.
    area_names
        dict of int to str: names of all 180 ids, and 0: "Unknown".
    xy
        float32 [V, 2]: flat coordinates in mm; x <= 0 left, x >= 0 right hemisphere, y upwards.
    raster
        int64 [714, 719]: row-major image of the flat cortex, 0.356 mm a pixel: the nearest vertex as index into V, -1
        for cortex beside visual cortex, -2 beside the cortex.
    cortex
        bool [2, 32492]: vertices of the left and right fs_LR 32k mesh that are not of the medial wall; in this order
        they are the first 59,412 of the HCP's 91,282 grayordinates.
    """

    vertex: np.ndarray
    hemisphere: np.ndarray
    area: np.ndarray
    area_names: dict[int, str]
    xy: np.ndarray
    raster: np.ndarray
    cortex: np.ndarray
    _columns: dict[str, np.ndarray]
    _weights: dict[str, np.ndarray]
    _source_area: np.ndarray
    _source_xy: np.ndarray

    @classmethod
    def from_file(cls, path: str | Path = ASSET) -> Geometry:
        """Read an asset written by `neuropictor.surface.build`.

        Raises
        ------
        FileNotFoundError, ValueError
            If the file is missing, damaged, or of another format; the message says how to rebuild it.
        """
        rebuild = (
            f"Reinstall neuropictor, or rebuild it: python -m neuropictor.surface.build --help (format {ASSET_FORMAT})"
        )
        try:
            with np.load(path, allow_pickle=False) as file:
                version = int(file["format"]) if "format" in file else None
                if version != ASSET_FORMAT:
                    raise ValueError(f"format is {version}, allowed is {ASSET_FORMAT}")
                arrays = {name: file[name] for name in file.files}
            geometry = cls(
                **{name: arrays[name].astype(np.int64) for name in ("vertex", "hemisphere", "area", "raster")},
                area_names={0: "Unknown"} | {i: name.decode() for i, name in enumerate(arrays["area_names"], start=1)},
                xy=arrays["xy"],
                cortex=np.unpackbits(arrays["cortex"], axis=1, count=FS_LR_VERTICES).astype(bool),
                _columns={mesh: arrays[f"{mesh}_columns"].astype(np.int64) for mesh in MESH_VERTICES},
                _weights={mesh: arrays[f"{mesh}_weights"] for mesh in MESH_VERTICES},
                _source_area=arrays["fsaverage_area"].astype(np.int16),
                _source_xy=arrays["fsaverage_xy"],
            )
        except FileNotFoundError:
            raise FileNotFoundError(f"geometry asset {path} is missing. {rebuild}") from None
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"geometry asset {path} cannot be read: {error}. {rebuild}") from error
        for field in fields(geometry):
            value = getattr(geometry, field.name)
            for array in value.values() if isinstance(value, dict) else [value]:
                if isinstance(array, np.ndarray):
                    array.setflags(write=False)
        return geometry

    @property
    def n_vertices(self) -> int:
        """V, the number of visual-cortex vertices."""
        return len(self.vertex)

    @property
    def visual_areas(self) -> dict[int, str]:
        """The 31 areas of visual cortex, id to name, in the order of `VISUAL_AREAS`."""
        ids = {name: i for i, name in self.area_names.items()}
        return {ids[name]: name for name in VISUAL_AREAS}

    def region(self, *names: str) -> np.ndarray:
        """Vertices of areas or of groups of areas; bool [V].

        Parameters
        ----------
        *names
            Of the 31 visual areas, or of `AREA_GROUPS`.

        Examples
        --------
        >>> responses[:, ~geometry.region("V1", "ventral_stream")] = 0
        """
        ids = {name: area for area, name in self.visual_areas.items()}
        chosen = [area for name in names for area in AREA_GROUPS.get(name, (name,))]
        unknown = [name for name in chosen if name not in ids]
        if unknown or not names:
            raise ValueError(
                f"region {unknown[0] if unknown else 'without a name'!r} does not exist; allowed are the areas "
                f"{', '.join(ids)} and the groups {', '.join(AREA_GROUPS)}. Example: region('V1', 'mt_complex')"
            )
        return np.isin(self.area, [ids[name] for name in chosen])

    def resampler(self, mesh: str) -> sparse.csr_array:
        """Operator from a FreeSurfer mesh to visual cortex; a row holds the three barycentric weights of a vertex.

        The weights are those of the spherical triangle around the fs_LR vertex, on the fsaverage sphere deformed to
        fs_LR. NaN in a source vertex spreads to the responses that use it: readers replace it before.

        Parameters
        ----------
        mesh
            {"fsaverage5", "fsaverage6", "fsaverage"}.

        Returns
        -------
        float32 [V, 2 * n]
            n = 10,242, 40,962 or 163,842; columns are the left hemisphere's vertices, then the right's. Rows sum to 1.
        """
        n_sources = 2 * mesh_vertices(mesh)
        rows = np.repeat(np.arange(self.n_vertices), 3)
        units = self._weights[mesh].astype(np.float64)
        weights = (units / units.sum(axis=1, keepdims=True)).astype(np.float32)
        entries = (weights.ravel(), (rows, self._columns[mesh].ravel()))
        matrix = sparse.coo_array(entries, (self.n_vertices, n_sources)).tocsr()
        matrix.eliminate_zeros()
        return matrix

    def columns(self, mesh: str) -> np.ndarray:
        """Source columns that `resampler(mesh)` uses, int64, ascending: all that must be read of a mesh.

        ``resampler(mesh)[:, columns(mesh)] @ betas[columns(mesh)]`` equals ``resampler(mesh) @ betas``.
        """
        mesh_vertices(mesh)
        return np.unique(self._columns[mesh][self._weights[mesh] > 0])

    def source_area(self, mesh: str) -> np.ndarray:
        """HCP-MMP1 id of every vertex of a mesh, left then right; int16 [2 * n], 0 = unknown (medial wall).

        Taken from the nearest fs_LR vertex on the deformed sphere.
        """
        return self._source_area[:, : mesh_vertices(mesh)].reshape(-1)

    def source_visual(self, mesh: str) -> np.ndarray:
        """Whether a vertex of a mesh lies in one of the 31 visual areas; bool [2 * n]."""
        return np.isin(self.source_area(mesh), list(self.visual_areas))

    def source_xy(self, mesh: str) -> np.ndarray:
        """Flat coordinates in mm of every vertex of a mesh; float32 [2 * n, 2], NaN off the map. Frame as in `xy`."""
        steps = self._source_xy[:, : mesh_vertices(mesh)].reshape(-1, 2)
        return np.where(steps == XY_MISSING, np.nan, steps * XY_UNIT_MM).astype(np.float32)

    def map_mask(self, size: int) -> np.ndarray:
        """Pixels of a map that lie in visual cortex; bool [size, size]. At 256 pixels they are 47.5 %.

        The raster resized by OpenCV's INTER_NEAREST, as NeuroPictor's data_process/convert_brain.py does.
        """
        check_size(size)
        rows, columns = (nearest_source(size, n) for n in self.raster.shape)
        return self.raster[np.ix_(rows, columns)] >= 0

    def map_operator(self, size: int) -> sparse.csr_array:
        """Operator from responses to a map.

        It equals drawing the nearest vertex's response into the 714 x 719 raster, resizing it by OpenCV's INTER_LINEAR
        (no antialiasing) and zeroing what `map_mask` excludes. Around visual cortex, where NeuroPictor's image holds
        other cortex or nothing, the raster is continued by the nearest vertex of visual cortex, so that its edge
        neither fades nor takes foreign signal.

        Returns
        -------
        float32 [size * size, V]
            Row-major pixels: ``(operator @ response).reshape(size, size)``. Rows sum to 1 in the mask, else 0.
        """
        mask = self.map_mask(size)
        nearest = ndimage.distance_transform_edt(self.raster < 0, return_distances=False, return_indices=True)
        continued = self.raster[tuple(nearest)]
        rows, row_weights = linear_source(size, self.raster.shape[0])
        columns, column_weights = linear_source(size, self.raster.shape[1])
        vertices = continued[rows[:, None, :, None], columns[None, :, None, :]].reshape(size * size, 4)
        weights = (row_weights[:, None, :, None] * column_weights[None, :, None, :]).reshape(size * size, 4)
        inside = np.flatnonzero(mask)
        pixels = np.repeat(inside, 4)
        entries = (weights[inside].ravel(), (pixels, vertices[inside].ravel()))
        matrix = sparse.coo_array(entries, (size * size, self.n_vertices)).tocsr().astype(np.float32)
        matrix.eliminate_zeros()
        return matrix

    def paint(self, values: np.ndarray, axes: Axes | None = None, **options) -> Axes:
        """Draw values [V] on the flat cortex; see `neuropictor.surface.paint.paint`."""
        from neuropictor.surface.paint import paint

        return paint(self, values, axes, **options)


@functools.cache
def load_geometry() -> Geometry:
    """Return the shipped geometry, read once a process."""
    return Geometry.from_file()


def check_size(size: int) -> None:
    """Raise ValueError unless `size` is a whole number of at least one pixel."""
    if not isinstance(size, int | np.integer) or isinstance(size, bool) or size < 1:
        raise ValueError(f"map size is {size!r}; allowed is a whole number of pixels >= 1. Example: size=256")


def nearest_source(size: int, n: int) -> np.ndarray:
    """Source pixel (of `n`) of each target pixel (of `size`) under OpenCV's INTER_NEAREST: floor(i * scale).

    OpenCV inverts the scale twice in double precision; its rounding decides pixels on exact ratios, so it is
    repeated here.
    """
    return np.minimum(np.floor(np.arange(size) * (1.0 / (size / n))).astype(np.int64), n - 1)


def linear_source(size: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Source pixels and weights ([size, 2] each) under OpenCV's INTER_LINEAR: half-pixel centres, clamped."""
    centre = np.clip((np.arange(size) + 0.5) * (n / size) - 0.5, 0, n - 1)
    low = np.floor(centre).astype(np.int64)
    fraction = centre - low
    return np.stack([low, np.minimum(low + 1, n - 1)], axis=1), np.stack([1 - fraction, fraction], axis=1)
