"""Experiments with NSD's people beside its core, by their names in nsd.test_sets: their files and number of betas."""

from neuropictor.nsd import imagery, keys, synthetic
from neuropictor.nsd.constants import HEMISPHERES

_TABLES = {"imagery": imagery, "synthetic": synthetic}
#: Betas of a person at each vertex.
ROWS = {name: table.ROWS for name, table in _TABLES.items()}


def shared_keys(experiment: str) -> list[str]:
    """Return the keys of what everybody shares, besides files of NSD's core."""
    return _TABLES[experiment].shared_keys()


def subject_keys(experiment: str, subject: int) -> list[str]:
    """Return the keys of what is a person's own, besides betas."""
    return _TABLES[experiment].subject_keys(subject)


def beta_keys(experiment: str, subject: int, beta_version: str) -> list[str]:
    """Return the keys of a person's betas, of the left and the right hemisphere."""
    return [keys.experiment_betas(experiment, subject, side, beta_version) for side in HEMISPHERES]
