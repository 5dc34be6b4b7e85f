"""The simulated experiment: which picture is shown when, as NSD's design is made, at any size."""

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
    SLOTS_PER_RUN,
    SUBJECTS,
)
from neuropictor.simulation.writer.published_order import SIZE, publish_order

if TYPE_CHECKING:
    from neuropictor.config import SimulateConfig

# NSD's generator (nsddatapaper, mainfigures/NSDSUMMARYnotes): the repeats of a picture lie on a circle of sessions, 60
# % of them von Mises around its own angle with this concentration, 40 % anywhere.
_CONCENTRATION = 729.0
_SHARE_NEAR = 0.6
_STIMULUS_SLOTS = SLOTS_PER_RUN - BLANK_SLOTS_START - BLANK_SLOTS_END
# Distinguishes the random streams of one seed.
_STREAM = 11


@dataclass(frozen=True)
class TrialOrder:
    """The design of a simulated root; all numbers from 0.

    Attributes
    ----------
    master_order
        int [trials], slot of each trial.
    pictures_of_subject
        int [8, slots], nsd_id of each slot.
    shared
        int [shared], nsd_ids of the shared pictures, ascending: the first slots of every subject.
    pattern
        bool [sessions, 12, 75], whether a slot of a run holds a stimulus.
    n_pictures
        Pictures in the bank.
    n_first
        The first so many are the shared ones and those of `keys.NUMBERED_FIRST`, mixed; those of each other subject
        follow.
    """

    master_order: np.ndarray
    pictures_of_subject: np.ndarray
    shared: np.ndarray
    pattern: np.ndarray
    n_pictures: int
    n_first: int

    def block(self, subject: int) -> slice:
        """Return the nsd_ids of a subject's own pictures, one behind the other; of none of `keys.NUMBERED_FIRST`."""
        own = self.pictures_of_subject[SUBJECTS.index(subject), len(self.shared) :]
        return slice(int(own.min()), int(own.max()) + 1)


def sessions_of(subject: int, sessions: int) -> int:
    """Scale NSD's number of sessions of a subject: all of them for 1, 2, 5, 7, fewer for 3, 4, 6, 8, never none."""
    return max(1, int(sessions * SESSIONS[subject] / PLANNED_SESSIONS + 0.5))


def make_order(config: SimulateConfig) -> TrialOrder:
    """Draw the experiment; at NSD's own size it has NSD's counts (see `neuropictor.simulation.writer.published_order`).

    It is one for all eight subjects, whoever of them is simulated: what a subject sees does not change when another one
    is added.

    Parameters
    ----------
    config
        Its seed, sessions, trials_per_session and shared_pictures are used.

    Raises
    ------
    ValueError
        If the numbers do not go together.
    """
    trials = config.sessions * config.trials_per_session
    slots = trials // REPEATS
    _check(config, trials, slots)
    rng = np.random.default_rng([config.seed, _STREAM])
    private = slots - config.shared_pictures
    first = rng.permutation(config.shared_pictures + private * len(keys.NUMBERED_FIRST))
    n_pictures = len(first)
    shared, own = np.sort(first[: config.shared_pictures]), first[config.shared_pictures :].reshape(-1, private)
    pictures = np.empty((len(SUBJECTS), slots), np.int64)
    pictures[:, : config.shared_pictures] = shared
    for row, subject in enumerate(SUBJECTS):
        if subject in keys.NUMBERED_FIRST:
            pictures[row, config.shared_pictures :] = own[keys.NUMBERED_FIRST.index(subject)]
        else:
            mixed = np.random.default_rng([config.seed, _STREAM, subject]).permutation(private)
            pictures[row, config.shared_pictures :] = n_pictures + mixed
            n_pictures += private
    size = (config.sessions, config.trials_per_session, config.shared_pictures)
    order = _draw_order(rng, slots, config.sessions, config.trials_per_session, published=size == SIZE)
    pattern = np.stack([_draw_pattern(rng, config.trials_per_session) for _ in range(config.sessions)])
    return TrialOrder(order, pictures, shared, pattern, n_pictures, len(first))


def trials_per_run(trials_per_session: int) -> np.ndarray:
    """Share a session's trials among its runs as NSD does: of 750, odd runs have 63 and even runs 62; int [12]."""
    runs = np.full(RUNS_PER_SESSION, trials_per_session // RUNS_PER_SESSION)
    odd_first = np.r_[0:RUNS_PER_SESSION:2, 1:RUNS_PER_SESSION:2]
    runs[odd_first[: trials_per_session % RUNS_PER_SESSION]] += 1
    return runs


def _check(config: SimulateConfig, trials: int, slots: int) -> None:
    limit = RUNS_PER_SESSION * _STIMULUS_SLOTS
    if not 1 <= config.trials_per_session <= limit:
        raise ValueError(
            f"simulate.trials_per_session is {config.trials_per_session}; allowed: 1 to {limit} (e.g. 750)"
        )
    if config.sessions < 1 or trials % REPEATS:
        raise ValueError(
            f"simulate.sessions x trials_per_session is {config.sessions} x {config.trials_per_session} = "
            f"{trials}; allowed: multiples of "
            f"{REPEATS}, since every picture is shown {REPEATS} times (e.g. 6 x 750)"
        )
    if not 0 < config.shared_pictures < slots:
        raise ValueError(
            f"simulate.shared_pictures is {config.shared_pictures}; {trials} trials show {slots} pictures, so 1 "
            f"to {slots - 1} are allowed "
            f"(e.g. {max(1, slots // 10)})"
        )


def _draw_order(
    rng: np.random.Generator, slots: int, sessions: int, trials_per_session: int, published: bool
) -> np.ndarray:
    """Draw the slot of every trial: each slot thrice, each session full, no picture twice in a row."""
    centre = rng.uniform(-np.pi, np.pi, slots)
    near = rng.random((slots, REPEATS)) < _SHARE_NEAR
    angle = np.where(
        near,
        centre[:, None] + rng.vonmises(0, _CONCENTRATION, (slots, REPEATS)),
        rng.uniform(-np.pi, np.pi, (slots, REPEATS)),
    )
    angle = np.mod(angle, 2 * np.pi)
    if published:
        order = publish_order(rng, angle)
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


def _move(order: np.ndarray, trial: int, trials_per_session: int) -> None:
    """Swap a trial with another of its session so that neither follows its own repeat, where there is such a one."""
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
