"""The five of NSD's images that are in set B of NSD-Imagery, which must never train.

NSD's own people are tested on them, as on all shared images; people of other data sets may have seen them in training.
Apart from `neuropictor.nsd.imagery`, so that its changes make nobody's responses again.
"""

from __future__ import annotations

import logging
from types import MappingProxyType

import numpy as np

from neuropictor.nsd.constants import SHARED_IMAGES
from neuropictor.nsd.design import LEFT_OUT, TEST, TRAIN, VALIDATION

log = logging.getLogger(__name__)

#: By cue: number among NSD's shared images, and NSD's number, both from 1.
SET_B = MappingProxyType(
    {"W": (385, 28752), "K": (413, 30857), "B": (741, 53882), "C": (842, 61178), "D": (907, 65873)}
)


def set_b_images(shared: np.ndarray) -> np.ndarray:
    """Return their nsd_ids.

    Parameters
    ----------
    shared
        int [n]: nsd_ids of the shared images, ascending; of a simulated root with fewer than 1000, five evenly spaced
        ones are in set B.

    Raises
    ------
    ValueError
        If there are fewer than five.
    """
    if len(shared) < len(SET_B):
        raise ValueError(
            f"{len(shared)} shared images, but set B of NSD-Imagery has {len(SET_B)} of them; allowed: at least as"
            " many, e.g. simulate: {shared_images: 12}"
        )
    places = np.array([place - 1 for place, _ in SET_B.values()])
    if len(shared) != SHARED_IMAGES:
        places = np.linspace(0, len(shared) - 1, len(SET_B)).round().astype(int)
    return np.asarray(shared)[places]


def leave_out_of_training(split: np.ndarray, nsd_ids: np.ndarray, shared: np.ndarray, who: str) -> np.ndarray:
    """Take them out of training and validation.

    Parameters
    ----------
    split
        int [trials], as of `Design.splits`.
    nsd_ids
        int [trials], in NSD's numbers.
    shared
        As for `set_b_images`.
    who
        Named in the log.

    Returns
    -------
    numpy.ndarray
        The split, with -1, left out, in their place.
    """
    out = _in_set_b(nsd_ids, shared) & (split != TEST)
    if out.any():
        images = np.unique(np.asarray(nsd_ids)[out])
        log.info("%s: images %s are left out, as they test NSD-Imagery", who, ", ".join(map(str, images)))
    return np.where(out, LEFT_OUT, split).astype(split.dtype)


def check_untrained(split: np.ndarray, nsd_ids: np.ndarray, shared: np.ndarray, where: str) -> None:
    """Make sure that none of them trains or validates; parameters as `leave_out_of_training`.

    Raises
    ------
    ValueError
        Naming `where`, and the first of them.
    """
    trained = np.isin(split, (TRAIN, VALIDATION)) & _in_set_b(nsd_ids, shared)
    if trained.any():
        raise ValueError(
            f"{where}: image {np.asarray(nsd_ids)[trained][0]} trains or validates, but it is in set B of NSD-Imagery, "
            "so scores there would say nothing; allowed: networks that never saw it. Prepare these responses again, "
            "with NSD's table of images, which leaves it out"
        )


def _in_set_b(nsd_ids: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Tell which images are of set B; none in a simulated root that is too small for one."""
    return np.isin(nsd_ids, set_b_images(shared) if len(shared) >= len(SET_B) else [])
