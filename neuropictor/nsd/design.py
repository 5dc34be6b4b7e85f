"""Which subject saw which image in which trial; which trials train, validate and test.

All numbers in NSD's files except the CSV's index count from 1; all numbers returned here count from 0, except sessions
and subjects.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.io

from neuropictor.nsd import keys
from neuropictor.nsd.constants import PLANNED_SESSIONS, SESSIONS, SUBJECTS, counted_sessions

#: Values of `Design.splits`.
TRAIN, VALIDATION, TEST, LEFT_OUT = 0, 1, 2, -1
# Fixed, so that every tool and configuration agrees on the validation images of a subject.
_VALIDATION_SEED = 982


@dataclass(frozen=True)
class Design:
    """The experiment of one NSD root.

    Attributes
    ----------
    root
        Folder in NSD's layout.
    trials_per_session
        750 in NSD.
    sessions
        Sessions that each subject of this root took part in.
    master_order
        int [trials], 0-based slot of each trial, the same for all subjects.
    images_of_subject
        int [8, slots], nsd_id of each subject's slots.
    shared
        int [shared], nsd_ids that all subjects were to see, ascending.
    """

    root: Path
    trials_per_session: int
    sessions: dict[int, int]
    master_order: np.ndarray
    images_of_subject: np.ndarray
    shared: np.ndarray

    @property
    def subjects(self) -> tuple[int, ...]:
        """Subjects of this root."""
        return tuple(self.sessions)

    def trials(self, subject: int, sessions: int | None = None) -> pd.DataFrame:
        """List a subject's trials in the order in which they were shown.

        Parameters
        ----------
        subject
            1 to 8.
        sessions
            Number of first sessions to use; default: all.

        Returns
        -------
        pandas.DataFrame
            session (1-based), trial (0-based, within the session: the frame of the beta file), nsd_id (0-based), repeat
            (0, 1, 2), shared (bool).

        Raises
        ------
        ValueError
            If the root does not have the subject, or not this many sessions of it.
        """
        n_sessions = self._check_sessions(subject, sessions)
        nsd_ids = self.images_of_subject[SUBJECTS.index(subject), self.master_order]
        return self._describe(nsd_ids[: n_sessions * self.trials_per_session])

    def images(
        self, subjects: tuple[int, ...] | list[int], release: int = PLANNED_SESSIONS, limit: int = PLANNED_SESSIONS
    ) -> np.ndarray:
        """Return the nsd_ids that at least one of the subjects saw in the sessions that count, ascending."""
        counted = [self.counted_sessions(subject, release, limit) for subject in subjects]
        seen = [self.trials(*pair)["nsd_id"].to_numpy() for pair in zip(subjects, counted, strict=True)]
        return np.unique(np.concatenate(seen))

    def counted_sessions(self, subject: int, release: int = PLANNED_SESSIONS, limit: int = PLANNED_SESSIONS) -> int:
        """Return how many sessions of a subject count; see `neuropictor.nsd.constants.counted_sessions`."""
        try:
            return counted_sessions(self._check_sessions(subject, None), release, limit)
        except ValueError as error:
            raise ValueError(f"subject {subject}: {error}") from None

    def splits(
        self,
        subject: int,
        validation_images: int,
        sessions: int | None = None,
        training_sessions: int | None = None,
    ) -> np.ndarray:
        """Give every trial of a subject its split.

        Test are the trials of shared images. Validation are those of a fixed random choice among the subject's own
        images, so no image is in two splits.

        Parameters
        ----------
        subject
            1 to 8.
        validation_images
            Number of images, not of trials; 0 trains on all of the subject's own.
        sessions
            Number of first sessions to use; default: all.
        training_sessions
            Number of first sessions in which the subject's own images train and validate; default: all.

        Returns
        -------
        numpy.ndarray
            int8 [trials]: 0 train, 1 validation, 2 test, -1 left out (own images after the training sessions).

        Raises
        ------
        ValueError
            If fewer than one image would be left for training.
        """
        trials = self.trials(subject, sessions)
        late = trials["session"] > (training_sessions or len(trials))
        private = np.unique(trials.loc[~trials["shared"] & ~late, "nsd_id"])
        chosen = choose_validation(subject, private, validation_images)
        split = np.where(trials["nsd_id"].isin(chosen), VALIDATION, TRAIN)
        return np.select([trials["shared"], late], [TEST, LEFT_OUT], split).astype(np.int8)

    @cached_property
    def stimulus_info(self) -> pd.DataFrame:
        """The table of all images, indexed by nsd_id."""
        return _read_stimulus_info(self.root)

    def _describe(self, nsd_ids: np.ndarray) -> pd.DataFrame:
        count = np.arange(len(nsd_ids))
        table = pd.DataFrame(
            {
                "session": count // self.trials_per_session + 1,
                "trial": count % self.trials_per_session,
                "nsd_id": nsd_ids,
            }
        )
        table["repeat"] = table.groupby("nsd_id").cumcount()
        table["shared"] = np.isin(nsd_ids, self.shared)
        return table

    def _check_sessions(self, subject: int, sessions: int | None) -> int:
        if subject not in self.sessions:
            allowed = ", ".join(map(str, self.subjects))
            raise ValueError(f"subject {subject!r} is not in {self.root}; allowed: {allowed} (e.g. {self.subjects[0]})")
        if sessions is None:
            return self.sessions[subject]
        if not 1 <= sessions <= self.sessions[subject]:
            raise ValueError(
                f"sessions is {sessions}; subject {subject} has {self.sessions[subject]}, allowed: 1 to that (e.g. 1)"
            )
        return sessions


def choose_validation(subject: int, private: np.ndarray, count: int, label: str = "") -> np.ndarray:
    """Choose `count` validation images among a subject's own (ascending), always the same ones.

    `label` is what errors call the subject, whose number seeds the choice.

    Raises
    ------
    ValueError
        If fewer than one image would be left for training.
    """
    if not 0 <= count < len(private):
        raise ValueError(
            f"preprocess.validation_images is {count}, but subject {label or subject} saw only {len(private)} images "
            f"of its own; allowed: 0 to {len(private) - 1} (e.g. {len(private) // 20})"
        )
    return np.random.default_rng([_VALIDATION_SEED, subject]).permutation(private)[:count]


def load_design(root: str | Path) -> Design:
    """Read the design of an NSD root from ``nsd_expdesign.mat``.

    Parameters
    ----------
    root
        Folder in NSD's layout, real or simulated.

    Raises
    ------
    FileNotFoundError
        If the design file is missing.
    ValueError
        If it is damaged or lacks a field.
    """
    root = Path(root)
    path = _need(root, keys.EXPERIMENT_DESIGN)
    try:
        fields = scipy.io.loadmat(path)
        order = fields["masterordering"].astype(np.int64).ravel() - 1
        images = fields["subjectim"].astype(np.int64) - 1
        shared = fields["sharedix"].astype(np.int64).ravel() - 1
        per_session = int(fields["stimpattern"][0].sum())
    except KeyError as error:
        raise ValueError(
            f"{path} lacks the field {error}; expected masterordering, subjectim, sharedix, stimpattern"
        ) from error
    except Exception as error:  # scipy raises errors of many kinds
        raise ValueError(
            f"{path} is not a readable MAT file of version 5 ({error}); remove it and make or fetch it again"
        ) from error
    if keys.is_simulated(root):
        described = json.loads((root / keys.SIMULATED).read_text(encoding="utf-8"))
        sessions = {int(subject): int(count) for subject, count in described["sessions"].items()}
    else:
        sessions = dict(SESSIONS)
    return Design(root, per_session, sessions, order, images, np.sort(shared))


def _read_stimulus_info(root: Path) -> pd.DataFrame:
    path = _need(root, keys.STIMULUS_INFO)
    try:
        table = pd.read_csv(path, index_col=0)
    except ValueError as error:  # pandas' own errors too
        raise ValueError(f"{path} cannot be read ({error}); remove it and make or fetch it again") from error
    rows = np.arange(len(table))
    if len(table.columns) != 40 or not (np.array_equal(table.index, rows) and np.array_equal(table.get("nsdId"), rows)):
        raise ValueError(
            f"{path} has {len(table.columns) + 1} columns or is not indexed by nsdId, counted from 0; expected NSD's "
            "41 columns in order"
        )
    return table


def _need(root: Path, key: str) -> Path:
    path = root / key
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: {root} is not a complete NSD folder; run the rule that fetches or simulates "
            "NSD, or set paths.nsd"
        )
    return path
