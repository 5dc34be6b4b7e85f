"""Surface geometry: fsaverage -> vertices of visual cortex -> 2-D map. Floor 1; imports no other room."""

from neuropictor.surface.geometry import Geometry, load_geometry

__all__ = ["Geometry", "load_geometry"]
