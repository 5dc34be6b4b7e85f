"""Betas of whole sessions on visual cortex: NSD's files resampled, or the parts of them that were kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
from scipy import sparse

from neuropictor.data.stores import check_contained
from neuropictor.nsd import keys
from neuropictor.nsd.betas import beta_blocks, check_betas, mesh_of, session_paths
from neuropictor.nsd.design import load_design
from neuropictor.records.files import atomic_path
from neuropictor.surface import load_geometry

_LEAST_WEIGHT = 1e-3  # share of a vertex's resampling weights that must fall on valid source vertices
_ROWS_AT_ONCE = 32  # trials resampled at a time: they and their result stay in cache


def preprocess_session(nsd_root: Path, subject: int, session: int, beta_version: str, out: Path) -> None:
    """Keep of one session's two beta files what visual cortex needs: 27 MB of 983 MB.

    The files may then be removed; `preprocess_subject` makes responses from what was kept of all sessions.

    Parameters
    ----------
    nsd_root
        Folder in NSD's layout, real or simulated; needed are the design and this session's betas.
    subject, session
        Numbers from 1.
    beta_version
        For example "betas_fithrf_GLMdenoise_RR".
    out
        HDF5 file to write: ``betas`` float32 [T, V], percent signal change, NaN where no source vertex is valid.

    Raises
    ------
    FileNotFoundError, ValueError
        As `Sessions.betas`.
    """
    trials = load_design(nsd_root).trials_per_session
    sessions = Sessions(nsd_root, subject, beta_version, trials, first=session)
    betas = sessions.betas(session)
    with atomic_path(out) as temporary, h5py.File(temporary, "w") as file:
        file["betas"] = betas
        data = "simulated" if keys.is_simulated(nsd_root) else "nsd"
        file.attrs.update(subject=subject, session=session, beta_version=beta_version, mesh=sessions.mesh, data=data)


class Sessions:
    """Read a subject's betas on visual cortex, a session at a time.

    Parameters
    ----------
    nsd_root
        Folder in NSD's layout.
    subject
        NSD's number of the person, 1 to 8.
    beta_version
        NSD's name of the betas, e.g. betas_fithrf_GLMdenoise_RR.
    trials
        Trials that a session must have.
    kept
        mapping of int to Path: files of `preprocess_session` by session; default: NSD's own files are read.
    first
        A session whose files exist; its number of vertices tells the mesh.

    Attributes
    ----------
    mesh
        Mesh of NSD's files.
    """

    def __init__(
        self,
        nsd_root: Path,
        subject: int,
        beta_version: str,
        trials: int,
        kept: Mapping[int, Path] | None = None,
        first: int = 1,
    ):
        self.root, self.subject, self.beta_version, self.trials = Path(nsd_root), subject, beta_version, trials
        self.kept = kept
        if kept is None:
            self.mesh = mesh_of(session_paths(self.root, subject, first, beta_version)[0])
            self._read = BetaReader(self.mesh)
        else:
            with self._open(first) as file:
                self.mesh = str(file.attrs["mesh"])

    def files(self, sessions: list[int]) -> list[Path]:
        """Return the files that hold the given sessions."""
        if self.kept is not None:
            return [Path(self.kept[session]) for session in sessions]
        return [path for session in sessions for path in self._paths(session)]

    def check(self, sessions: list[int]) -> None:
        """Raise the errors of `betas` for files that are missing, short or of a wrong size, before any is read."""
        for session in sessions:
            if self.kept is not None:
                self._open(session).close()
            else:
                check_betas(self._paths(session), self.mesh, self.trials)

    def betas(self, session: int) -> np.ndarray:
        """Read one session.

        Returns
        -------
        float32 array [T, V]
            Percent signal change, NaN where no source vertex is valid.

        Raises
        ------
        FileNotFoundError
            If a file is missing.
        ValueError
            If a file is truncated, of another mesh or number of trials, empty in a trial, or without any valid vertex;
            if a kept file is of another subject, session or version.
        """
        if self.kept is not None:
            with self._open(session) as file:
                return file["betas"][:]
        return self._read(self._paths(session), self.trials, f"subject {self.subject}, session {session}")

    def _paths(self, session: int) -> list[Path]:
        return session_paths(self.root, self.subject, session, self.beta_version)

    def _open(self, session: int) -> h5py.File:
        path = self.kept.get(session) if self.kept is not None else None
        if path is None or not Path(path).is_file():
            raise FileNotFoundError(
                f"subject {self.subject}: nothing was kept of session {session}"
                f"{f' in {path}' if path else ''}; run preprocess-session for it, or lower nsd.sessions"
            )
        try:
            file = h5py.File(path, "r")
            check_contained(file)
        except OSError as error:
            raise ValueError(
                f"{path} cannot be read ({error}): it is empty, cut off or damaged. Remove it and run "
                "preprocess-session again"
            ) from error
        expected = {
            "subject": self.subject,
            "session": session,
            "beta_version": self.beta_version,
            "shape": (self.trials, load_geometry().n_vertices),
        }
        stored = {name: value.item() if isinstance(value, np.generic) else value for name, value in file.attrs.items()}
        stored = {name: stored.get(name) for name in expected} | {
            "shape": file["betas"].shape if "betas" in file else ()
        }
        if stored != expected:
            file.close()
            raise ValueError(f"{path} holds {stored}; allowed: {expected}. Run preprocess-session again")
        return file


class BetaReader:
    """Read both hemispheres' files of betas, resampled to visual cortex; `mesh`: that of the files."""

    def __init__(self, mesh: str):
        geometry = load_geometry()
        self.mesh, self._columns = mesh, geometry.columns(mesh)
        self._resample = Resampler(sparse.csr_array(geometry.resampler(mesh)[:, self._columns]))

    def __call__(self, paths: Sequence[Path], trials: int, where: str) -> np.ndarray:
        """Read all trials, float32 [T, V]; result and errors as `Sessions.betas`, which name `where`."""
        betas = np.empty((trials, load_geometry().n_vertices), np.float32)
        start = 0
        for block in beta_blocks(paths, self._columns, self.mesh, trials):
            empty = np.flatnonzero(~block.any(1))
            if len(empty):
                raise ValueError(
                    f"{where}: all betas of trial {start + empty[0]} are 0, as in files that were not written to the "
                    f"end; remove {paths[0]} and its right hemisphere, and fetch them again"
                )
            self._resample(block, betas[start : start + len(block)])
            start += len(block)
        if not np.isfinite(betas).any():
            raise ValueError(
                f"{where}: no vertex of visual cortex has a valid beta; allowed are some NaN, not only NaN. Remove "
                f"{paths[0]} and its right hemisphere, and fetch them again"
            )
        return betas


class Resampler:
    """Resample betas to visual cortex; invalid source vertices are left out and the other weights scaled up.

    Parameters
    ----------
    weights
        sparse [V, n]: rows sum to one and have few entries each, which are faster gathered than used in a sparse
        product.
    """

    def __init__(self, weights: sparse.csr_array):
        counts = np.diff(weights.indptr)
        place = np.arange(counts.max())
        inside = place < counts[:, None]
        entry = weights.indptr[:-1, None] + np.where(inside, place, 0)
        self._sources = np.ascontiguousarray(weights.indices[entry].T, np.intp)
        self._weights = np.where(inside, weights.data[entry], 0).T.astype(np.float32)
        self._total = np.asarray(weights.sum(1)).ravel()
        self._buffer = np.empty((_ROWS_AT_ONCE, len(counts)), np.float32)

    def __call__(self, betas: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Resample.

        Parameters
        ----------
        betas
            float32 [T, n]: percent signal change at the n source vertices; NaN or infinite where invalid.
        out
            float32 [T, V]: where to put the result.

        Returns
        -------
        float32 array [T, V]
            NaN where no valid source vertex is left.
        """
        out = np.empty((len(betas), self._buffer.shape[1]), np.float32) if out is None else out
        valid = np.isfinite(betas)
        if valid.all():
            return self._combine(betas, out)
        self._combine(np.where(valid, betas, np.float32(0)), out)
        # NSD's invalid vertices are invalid throughout a session: one trial tells the share for all.
        known = (valid[:1] if (valid == valid[0]).all() else valid).astype(np.float32)
        share = self._combine(known, np.empty((len(known), out.shape[1]), np.float32)) / self._total
        with np.errstate(invalid="ignore", divide="ignore"):
            out /= share
        np.copyto(out, np.nan, where=~(share > _LEAST_WEIGHT))
        return out

    def _combine(self, betas: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Put weighted sums of the source vertices into `out`; allocate nothing, as fresh memory costs more."""
        for start in range(0, len(betas), _ROWS_AT_ONCE):
            rows, result = betas[start : start + _ROWS_AT_ONCE], out[start : start + _ROWS_AT_ONCE]
            part = self._buffer[: len(rows)]
            for number, (source, weight) in enumerate(zip(self._sources, self._weights, strict=True)):
                # With "raise", take() would copy its output.
                np.take(rows, source, axis=1, out=part, mode="clip")
                np.multiply(part, weight, out=part if number else result)
                if number:
                    result += part
        return out
