"""Numbers and names of the surface meshes, the visual cortex, the raster and the asset, each with its source."""

ASSET_FORMAT = 1
"""Written into the asset by the builder; `Geometry` refuses any other."""

XY_UNIT_MM = 0.05
"""The asset holds flat coordinates of fsaverage vertices in steps of this; vertices lie about 1 mm apart."""

XY_MISSING = -32768
"""The asset's coordinate of a vertex off the map (the lowest int16)."""

MESH_VERTICES = {"fsaverage5": 10242, "fsaverage6": 40962, "fsaverage": 163842}
"""Vertices of one hemisphere. FreeSurfer's icosahedral order: a coarser mesh is the first part of a finer one."""

FS_LR_VERTICES = 32492
"""Vertices of one hemisphere of the HCP's fs_LR 32k mesh."""

N_AREAS = 180
"""Areas of the HCP-MMP1 parcellation in one hemisphere (Glasser et al. 2016); both hemispheres use the ids 1..180."""

VISUAL_AREAS = (
    *("V1", "V2", "V3", "V3A", "V3B", "V3CD", "V4", "LO1", "LO2", "LO3", "PIT", "V4t", "V6", "V6A", "V7", "V8"),
    *("PH", "FFC", "IP0", "MT", "MST", "FST", "VVC", "VMV1", "VMV2", "VMV3", "PHA1", "PHA2", "PHA3", "TE2p", "IPS1"),
)
"""The 31 areas whose vertices are NeuroPictor's visual cortex (equal to MinD-3D's ``vc_roi.npz``, the same raster)."""

AREA_GROUPS = {
    "primary_visual": ("V1",),
    "early_visual": ("V2", "V3", "V4"),
    "dorsal_stream": ("V3A", "V3B", "V6", "V6A", "V7", "IPS1"),
    "ventral_stream": ("FFC", "PIT", "V8", "VMV1", "VMV2", "VMV3", "VVC"),
    "mt_complex": ("LO1", "LO2", "LO3", "FST", "MT", "MST", "PH", "V3CD", "V4t"),
    "medial_temporal": ("PHA1", "PHA2", "PHA3"),
    "lateral_temporal": ("TE2p",),
    "inferior_parietal": ("IP0",),
}
"""The eight groups of areas of NeuroPictor's region-of-interest work (data_process/exchange_roi.ipynb); each area is in
one of them. They follow the cortical divisions of the HCP-MMP1 parcellation."""

PLANE_SHAPE = (1024, 2515)
"""Rows and columns of pycortex' default raster of both flat hemispheres: 1024 and int(1024 * aspect 2.45632)."""

CROP_ROWS = slice(84, 798)
CROP_COLUMNS = slice(946, 1665)
"""Bounding box of visual cortex with NeuroPictor's margins (data_process/convert_brain.py:22-48): 10 rows, 1 column."""

OUTSIDE_VISUAL = -1
OUTSIDE_CORTEX = -2
"""Raster values that are not vertices: cortex that is not visual cortex, and paper beside the cortex."""


def mesh_vertices(mesh: str) -> int:
    """Vertices of one hemisphere of a FreeSurfer mesh.

    Raises
    ------
    ValueError
        If the mesh is not one of `MESH_VERTICES`.
    """
    if mesh not in MESH_VERTICES:
        allowed = ", ".join(MESH_VERTICES)
        raise ValueError(f"mesh is {mesh!r}; allowed are {allowed}. Example: mesh='fsaverage'")
    return MESH_VERTICES[mesh]
