"""Start weights that come with a backbone: networks trained on people other than the subjects.

The paper's encoder was trained on thousands of other people before it met NSD. A backbone folder may hold the same
kind of start: ``population/autoencoder.safetensors`` for calibration, a pipeline's folder in ``population/`` for
pretraining, and ``population/space.safetensors``, the shared space of aligned components that these networks read.
"""

from pathlib import Path

from neuropictor.models.backbone import backbone_folder
from neuropictor.models.pipeline_folder import INDEX

AUTOENCODER = "autoencoder.safetensors"
SPACE = "space.safetensors"


def population_file(source: str | Path, name: str) -> Path:
    """Return a start file of a backbone; raise ``FileNotFoundError`` where it has none.

    Parameters
    ----------
    source
        Backbone source, see `Backbone.load`.
    name
        `AUTOENCODER`, `SPACE`, or a file of the pipeline.
    """
    path = backbone_folder(source) / "population" / name
    if not path.is_file():
        raise FileNotFoundError(
            f"init: 'population' asks for start weights that come with the backbone, but {source} has no "
            f"population/{name}; allowed: population with the shipped miniature, or scratch, for example init: scratch"
        )
    return path


def population_pipeline(source: str | Path) -> Path:
    """Return the folder of the networks that pretraining starts from; raises as `population_file`."""
    return population_file(source, INDEX).parent
