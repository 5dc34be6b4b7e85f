"""A trial order of NSD's own size that has every published count of NSD's real one.

NSD's order itself is NSD's; known are its numbers of pictures seen once, twice and three times after so many sessions.
"""

import numpy as np

from neuropictor.nsd.constants import PLANNED_SESSIONS, REPEATS, SHARED_PICTURES, TRIALS_PER_SESSION

SIZE = (PLANNED_SESSIONS, TRIALS_PER_SESSION, SHARED_PICTURES)
"""Sessions, trials a session and shared pictures of NSD."""

SEEN = {
    27: ((8779, 6990, 4481), (870, 690, 420)),
    29: ((9082, 7560, 5108), (895, 740, 480)),
    30: ((9209, 7846, 5445), (907, 766, 515)),
    32: ((9411, 8355, 6234), (930, 825, 605)),
    37: ((9841, 9420, 8489), (982, 942, 846)),
    40: ((10000, 10000, 10000), (1000, 1000, 1000)),
}
"""After so many sessions: pictures seen at least once, twice and three times, of all 10,000 and of the shared 1000.

Published are all numbers after 30 and 40 sessions and those of all pictures after 32 (NSD Data Manual, "Technical
notes"), pictures seen once after 27 and 29 (training sets of Algonauts 2023) and after 37 (982 test and 8859 training
pictures of Brain-Diffuser; 2770 test trials of MindEye), and the 930 after 32. The others lie between; their sums
follow from 750 trials a session.
"""


def publish_order(rng: np.random.Generator, angles: np.ndarray) -> np.ndarray:
    """Draw the slot of every trial.

    Pictures are ranked by how early their repeats tend to come. The k-th repeat of a picture falls into the span of
    sessions after which as many pictures as its rank were seen k times, and within the span where its angle says.

    Parameters
    ----------
    rng
        Of the simulation.
    angles
        float [10000, 3], where on the circle of sessions each repeat of a slot would like to be, 0 to 2 pi.

    Returns
    -------
    numpy.ndarray
        int [30000], slot of each trial from 0; slots 0 to 999 are the shared pictures.
    """
    angles = np.sort(angles, axis=1)
    slots = len(angles)
    seen = np.array(list(SEEN.values()))
    counts = np.stack([seen[:, 1], seen[:, 0] - seen[:, 1]])
    # Index of the span of sessions (..27, 28..29, 30, ..) that each repeat falls into, int [10000, 3].
    span = np.empty((slots, REPEATS), np.int64)
    for part, group in zip((slice(0, SHARED_PICTURES), slice(SHARED_PICTURES, slots)), counts, strict=True):
        rank = np.argsort(np.argsort(angles[part].sum(axis=1), kind="stable"))
        for repeat in range(REPEATS):
            span[part, repeat] = np.searchsorted(group[:, repeat], rank, side="right")
    # Filled in the order of angles, every session has its 750 trials; within a session the order is random.
    order = np.lexsort((angles.ravel(), span.ravel())) // REPEATS
    order = order.reshape(PLANNED_SESSIONS, TRIALS_PER_SESSION)
    for session in order:
        rng.shuffle(session)
    return order.ravel()
