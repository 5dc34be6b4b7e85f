"""The simulated experiment: which image is shown when, in the manner of NSD's design, at any size.

Published of NSD's order are the numbers of images seen once, twice and three times after some sessions. At NSD's size
the simulated order has all of these numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neuropictor.nsd import keys
from neuropictor.nsd.constants import (
    BLANK_SLOTS_END,
    BLANK_SLOTS_START,
    PLANNED_SESSIONS,
    REPEATS,
    RUNS_PER_SESSION,
    SESSIONS,
    SHARED_IMAGES,
    SLOTS_PER_RUN,
    SUBJECTS,
    TRIALS_PER_SESSION,
)

if TYPE_CHECKING:
    from neuropictor.config import SimulateConfig

# NSD's generator (nsddatapaper, mainfigures/NSDSUMMARYnotes): the repeats of an image lie on a circle of sessions, 60
# % of them von Mises around its own angle with this concentration, 40 % anywhere.
_CONCENTRATION = 729.0
_SHARE_NEAR = 0.6
_STIMULUS_SLOTS = SLOTS_PER_RUN - BLANK_SLOTS_START - BLANK_SLOTS_END
# Distinguishes the random streams of one seed.
_STREAM = 11
# By number of sessions: images seen at least once, twice and three times, of all 10,000 and of the shared 1000.
# Published are all numbers after 30 and 40 sessions and those of all images after 32 (NSD Data Manual, "Technical
# notes"), images seen once after 27 and 29 (training sets of Algonauts 2023) and after 37 (982 test and 8859 training
# images of Brain-Diffuser; 2770 test trials of MindEye), and the 930 after 32. The others lie between; their sums
# follow from 750 trials a session.
_SEEN = {
    27: ((8779, 6990, 4481), (870, 690, 420)),
    29: ((9082, 7560, 5108), (895, 740, 480)),
    30: ((9209, 7846, 5445), (907, 766, 515)),
    32: ((9411, 8355, 6234), (930, 825, 605)),
    37: ((9841, 9420, 8489), (982, 942, 846)),
    40: ((10000, 10000, 10000), (1000, 1000, 1000)),
}


@dataclass(frozen=True)
class TrialOrder:
    """The design of a simulated root; all numbers from 0.

    Attributes
    ----------
    master_order
        int [trials], slot of each trial.
    images_of_subject
        int [8, slots], nsd_id of each slot.
    shared
        int [shared], nsd_ids of the shared images, ascending: the first slots of every subject.
    pattern
        bool [sessions, 12, 75], whether a slot of a run holds a stimulus.
    n_images
        Images in the bank.
    n_first
        Number of first images, which are the shared ones and those of `keys.NUMBERED_FIRST`, mixed; those of each
        other subject follow.
    """

    master_order: np.ndarray
    images_of_subject: np.ndarray
    shared: np.ndarray
    pattern: np.ndarray
    n_images: int
    n_first: int

    def block(self, subject: int) -> slice:
        """Return the contiguous nsd_ids of a subject's own images; not for `keys.NUMBERED_FIRST`."""
        images = self.images_of_subject[SUBJECTS.index(subject), len(self.shared) :]
        return slice(int(images.min()), int(images.max()) + 1)


def sessions_of(subject: int, sessions: int) -> int:
    """Scale NSD's number of sessions of a subject: all of them for 1, 2, 5, 7, fewer for 3, 4, 6, 8, never none."""
    return max(1, int(sessions * SESSIONS[subject] / PLANNED_SESSIONS + 0.5))


def make_order(config: SimulateConfig) -> TrialOrder:
    """Draw the experiment.

    It covers all eight subjects, whichever are simulated: a subject's images do not change when another one is
    added.

    Parameters
    ----------
    config
        Its seed, sessions, trials_per_session and shared_images are used.
    """
    slots = config.sessions * config.trials_per_session // REPEATS
    rng = np.random.default_rng([config.seed, _STREAM])
    private = slots - config.shared_images
    first = rng.permutation(config.shared_images + private * len(keys.NUMBERED_FIRST))
    n_images = len(first)
    shared, blocks = np.sort(first[: config.shared_images]), first[config.shared_images :].reshape(-1, private)
    images = np.empty((len(SUBJECTS), slots), np.int64)
    images[:, : config.shared_images] = shared
    for row, subject in enumerate(SUBJECTS):
        if subject in keys.NUMBERED_FIRST:
            images[row, config.shared_images :] = blocks[keys.NUMBERED_FIRST.index(subject)]
        else:
            mixed = np.random.default_rng([config.seed, _STREAM, subject]).permutation(private)
            images[row, config.shared_images :] = n_images + mixed
            n_images += private
    size = (config.sessions, config.trials_per_session, config.shared_images)
    published = size == (PLANNED_SESSIONS, TRIALS_PER_SESSION, SHARED_IMAGES)
    order = _draw_order(rng, slots, config.sessions, config.trials_per_session, published)
    pattern = np.stack([_draw_pattern(rng, config.trials_per_session) for _ in range(config.sessions)])
    return TrialOrder(order, images, shared, pattern, n_images, len(first))


def trials_per_run(trials_per_session: int) -> np.ndarray:
    """Share a session's trials among its runs as NSD does: of 750, odd runs have 63 and even runs 62; int [12]."""
    runs = np.full(RUNS_PER_SESSION, trials_per_session // RUNS_PER_SESSION)
    odd_first = np.r_[0:RUNS_PER_SESSION:2, 1:RUNS_PER_SESSION:2]
    runs[odd_first[: trials_per_session % RUNS_PER_SESSION]] += 1
    return runs


def _draw_order(
    rng: np.random.Generator, slots: int, sessions: int, trials_per_session: int, published: bool
) -> np.ndarray:
    """Draw the slot of every trial: each slot thrice, each session full, no image twice in a row."""
    centre = rng.uniform(-np.pi, np.pi, slots)
    near = rng.random((slots, REPEATS)) < _SHARE_NEAR
    angle = np.where(
        near,
        centre[:, None] + rng.vonmises(0, _CONCENTRATION, (slots, REPEATS)),
        rng.uniform(-np.pi, np.pi, (slots, REPEATS)),
    )
    angle = np.mod(angle, 2 * np.pi)
    if published:
        order = _published_order(rng, angle)
    else:
        # Ranks instead of angles fill every session exactly; within a session the order is random.
        rank = np.argsort(angle.ravel(), kind="stable")
        order = (rank // REPEATS).reshape(sessions, trials_per_session)
        for session in order:
            rng.shuffle(session)
        order = order.ravel()
    for trial in np.flatnonzero(np.diff(order) == 0) + 1:
        _move(order, int(trial), trials_per_session)
    return order


def _published_order(rng: np.random.Generator, angles: np.ndarray) -> np.ndarray:
    """Draw the slot of every trial, int [30000], with NSD's published counts; the first 1000 slots are the shared ones.

    Images are ranked by how early their repeats tend to come. The k-th repeat of an image falls into the span of
    sessions after which as many images as its rank were seen k times, and within the span by its angle.
    """
    angles = np.sort(angles, axis=1)
    slots = len(angles)
    seen = np.array(list(_SEEN.values()))
    counts = np.stack([seen[:, 1], seen[:, 0] - seen[:, 1]])
    # Index of the span of sessions (..27, 28..29, 30, ..) that each repeat falls into, int [10000, 3].
    span = np.empty((slots, REPEATS), np.int64)
    for part, group in zip((slice(0, SHARED_IMAGES), slice(SHARED_IMAGES, slots)), counts, strict=True):
        rank = np.argsort(np.argsort(angles[part].sum(axis=1), kind="stable"))
        for repeat in range(REPEATS):
            span[part, repeat] = np.searchsorted(group[:, repeat], rank, side="right")
    # Filled in the order of angles, every session has its 750 trials; within a session the order is random.
    order = np.lexsort((angles.ravel(), span.ravel())) // REPEATS
    order = order.reshape(PLANNED_SESSIONS, TRIALS_PER_SESSION)
    for session in order:
        rng.shuffle(session)
    return order.ravel()


def _move(order: np.ndarray, trial: int, trials_per_session: int) -> None:
    """Swap a trial with another of its session so that neither follows its own repeat, if one exists."""
    start = trial // trials_per_session * trials_per_session
    for step in range(1, trials_per_session):
        other = start + (trial - start + step) % trials_per_session
        order[[trial, other]] = order[[other, trial]]
        if not any(
            order[place - 1] == order[place]
            for at in (trial, other)
            for place in (at, at + 1)
            if 0 < place < len(order)
        ):
            return
        order[[trial, other]] = order[[other, trial]]


def _draw_pattern(rng: np.random.Generator, trials_per_session: int) -> np.ndarray:
    """Draw in which slots of each run a stimulus comes, bool [12, 75]."""
    pattern = np.zeros((RUNS_PER_SESSION, SLOTS_PER_RUN), bool)
    for run, count in enumerate(trials_per_run(trials_per_session)):
        chosen = rng.permutation(_STIMULUS_SLOTS)[:count]
        pattern[run, BLANK_SLOTS_START + chosen] = True
    return pattern
