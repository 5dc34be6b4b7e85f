"""NeuroPictor: reconstruct seen images from fMRI.

The names below are the public interface; each is imported when it is first used, so that ``import neuropictor`` loads
neither torch nor diffusers.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuropictor.data.responses import ResponseStore
    from neuropictor.evaluation.folders import evaluate_folders
    from neuropictor.models.pipeline import NeuroPictorPipeline
    from neuropictor.surface import load_geometry

# Files are written under names of their own and read when whole: HDF5's locks, which it reads of on import, would only
# fail where a file system has none, or wait for anybody who may read.
os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")

__version__ = "0.1.0"
__all__ = ["NeuroPictorPipeline", "ResponseStore", "evaluate_folders", "load_geometry"]

_HOMES = {
    "NeuroPictorPipeline": "neuropictor.models.pipeline",
    "ResponseStore": "neuropictor.data.responses",
    "evaluate_folders": "neuropictor.evaluation.folders",
    "load_geometry": "neuropictor.surface",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)
