"""From maps back to vertices, and from there to FreeSurfer's meshes."""

import numpy as np
import pytest

from neuropictor.surface import load_geometry
from neuropictor.surface.inverse import inverse_operator, on_mesh

MESHES = ("fsaverage5", "fsaverage6", "fsaverage")


@pytest.fixture(scope="module")
def geometry():
    return load_geometry()


def smooth(xy):
    return np.sin(xy[..., 0] / 15) + np.cos(xy[..., 1] / 20)


@pytest.mark.parametrize(("size", "error"), [(256, 0.02), (64, 0.1)])
def test_vertices_come_back_from_a_map(geometry, size, error):
    back = inverse_operator(geometry, size)
    assert back.shape == (8921, size * size) and back.dtype == np.float32 and back.format == "csr"
    np.testing.assert_allclose(back.sum(1), 1, atol=1e-5)
    outside = ~geometry.map_mask(size).ravel()
    assert not back[:, np.flatnonzero(outside)].nnz
    values = smooth(geometry.xy)
    found = back @ (geometry.map_operator(size) @ values)
    # Except along the cut between the hemispheres' edges, where a map mixes neighbours in the image, not on cortex.
    assert np.quantile(np.abs(found - values), 0.95) < error * np.ptp(values)
    assert np.corrcoef(found, values)[0, 1] > 0.99


@pytest.mark.parametrize("mesh", MESHES)
def test_values_lie_where_the_mesh_has_visual_cortex(geometry, mesh):
    found, visual = on_mesh(geometry, smooth(geometry.xy), mesh), geometry.source_visual(mesh)
    np.testing.assert_array_equal(np.isfinite(found), visual)
    expected = smooth(geometry.source_xy(mesh))[visual]
    assert np.corrcoef(found[visual], expected)[0, 1] > 0.99
    area = on_mesh(geometry, geometry.area, mesh)[visual]
    assert (area == geometry.source_area(mesh)[visual]).mean() > 0.97
    np.testing.assert_allclose(
        np.corrcoef(geometry.resampler(mesh) @ np.nan_to_num(found), smooth(geometry.xy))[0, 1], 1, atol=0.02
    )


def test_wrong_values_and_meshes_are_named(geometry):
    with pytest.raises(ValueError, match=r"values have shape \(3,\); allowed is one value a vertex, \(8921,\)"):
        on_mesh(geometry, np.zeros(3), "fsaverage")
    with pytest.raises(ValueError, match="mesh is 'fsaverage4'; allowed are fsaverage5"):
        on_mesh(geometry, np.zeros(8921), "fsaverage4")
    with pytest.raises(ValueError, match="map size is 0"):
        inverse_operator(geometry, 0)
