"""Betas in files on surface meshes, in the formats that labs have.

The formats are described in docs/own_data.md.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
from nibabel.freesurfer import MGHImage
from nibabel.gifti.parse_gifti_fast import GiftiImageParser
from scipy import sparse

from neuropictor.data.sessions import Resampler
from neuropictor.nsd.constants import HEMISPHERES
from neuropictor.records.files import need
from neuropictor.surface import load_geometry
from neuropictor.surface.atlas import MESH_VERTICES

BETA_ENDINGS = (".mgh", ".mgz", ".func.gii", ".npy")
_OTHER_SIDE = {"lh": "CortexRight", "rh": "CortexLeft"}  # AnatomicalStructurePrimary of GIFTI
_LARGEST = 1e6  # times the usual size of a beta: no measured one, and it would hide all others of its vertex


class OwnSessions:
    """Betas of a lab's own sessions on visual cortex.

    Parameters
    ----------
    folder
        Where the files lie.
    trials
        dict of int arrays: by session: rows to read from its files.
    """

    def __init__(self, folder: Path, trials: dict[int, pd.Series]):
        self.folder, self.trials = Path(folder), trials
        vertices = self._read(self.files([min(trials)])[0]).shape[1]
        meshes = {count: mesh for mesh, count in MESH_VERTICES.items()}
        if vertices not in meshes:
            known = ", ".join(f"{count} ({mesh})" for count, mesh in meshes.items())
            raise ValueError(f"{self.files([min(trials)])[0]} has {vertices} vertices; allowed: {known}")
        self.mesh = meshes[vertices]
        geometry = load_geometry()
        self._columns = geometry.columns(self.mesh)
        self._resample = Resampler(sparse.csr_array(geometry.resampler(self.mesh)[:, self._columns]))

    def check(self, sessions: list[int]) -> None:
        """Raise FileNotFoundError where a session lacks a file."""
        self.files(sessions)

    def files(self, sessions: list[int]) -> list[Path]:
        """Return the files of the sessions, left then right."""
        files = []
        for session in sessions:
            for side in HEMISPHERES:
                paths = [self.folder / f"{side}.session{session}{ending}" for ending in BETA_ENDINGS]
                existing = [path for path in paths if path.is_file() or path.is_symlink()]
                if len(existing) != 1:
                    raise FileNotFoundError(
                        f"{self.folder} has {len(existing)} files {side}.session{session} with one of the endings "
                        f"{', '.join(BETA_ENDINGS)}; allowed: exactly one, e.g. {paths[0].name}"
                    )
                other = HEMISPHERES[side == HEMISPHERES[0]]
                if existing[0].resolve().name.startswith(f"{other}."):
                    raise ValueError(
                        f"{existing[0]} is a link to {existing[0].resolve()}, a file of the other hemisphere"
                    )
                files += existing
        return files

    def betas(self, session: int) -> np.ndarray:
        """Return the betas of the trials in the table, float32 [T, V], NaN where missing."""
        trials = self.trials[session].to_numpy()
        paths = self.files([session])
        parts = [self._read(path) for path in paths]
        for path, part in zip(paths, parts, strict=True):
            if part.shape[1] != MESH_VERTICES[self.mesh]:
                raise ValueError(
                    f"{path} has {part.shape[1]} vertices; allowed: those of {self.mesh}, {MESH_VERTICES[self.mesh]}"
                )
            if trials.max() >= len(part):
                raise ValueError(
                    f"{path} has {len(part)} trials, but the table asks for trial {trials.max()} of session {session}; "
                    f"allowed: 0 to {len(part) - 1}"
                )
        split = int(np.searchsorted(self._columns, MESH_VERTICES[self.mesh]))
        left, right = self._columns[:split], self._columns[split:] - MESH_VERTICES[self.mesh]
        chosen = [part[np.ix_(trials, columns)] for part, columns in zip(parts, (left, right), strict=True)]
        betas = np.concatenate(chosen, axis=1)
        sizes = [np.where(np.isfinite(part), np.abs(part.astype(np.float64)), 0) for part in chosen]
        largest = np.stack([part.max(1) for part in sizes])
        usual = np.median(np.concatenate([part[part > 0] for part in sizes])) if largest.any() else 0
        # A hemisphere may be missing in all trials, and is counted as missing.
        wrong = np.argwhere(
            (largest == 0) & (largest.any(1, keepdims=True) | ~largest.any(0)) | (largest > _LARGEST * usual)
        )
        for side, trial in wrong[:1]:
            raise ValueError(
                f"{paths[side]}, trial {trials[trial]}: the largest beta is {largest[side, trial]:.3g}, the usual size "
                f"in session {session} {usual:.3g}; allowed: betas of one unit, NaN where a value is missing, and no "
                "row in the table for a trial that is missing"
            )
        if np.array_equal(parts[0], parts[1]):
            raise ValueError(f"{paths[0]} and {paths[1].name} hold the same numbers; allowed: a hemisphere each")
        return self._resample(betas.astype(np.float32))

    @staticmethod
    def _read(path: Path) -> np.ndarray:
        """Read one file as [trials, vertices]."""
        need(path, "expected a hemisphere's betas")
        read = {".npy": lambda path: np.lib.format.open_memmap(path, "r"), ".gii": _read_gifti}.get(
            path.suffix, _read_mgh
        )
        try:
            values = read(path)
        except Exception as error:  # nibabel, expat and zlib raise errors of all kinds
            raise ValueError(
                f"{path} cannot be read ({error}); allowed: whole files of numbers without pickles, see "
                "docs/own_data.md"
            ) from error
        if values.ndim != 2 or values.dtype.kind not in "fiu":
            raise ValueError(
                f"{path} holds {values.dtype} {values.shape}; allowed: numbers [trials, vertices], e.g. float32 "
                "(750, 163842)"
            )
        return values


class _Parser(GiftiImageParser):
    """Reads a GIFTI file, and no other file that it names."""

    def StartElementHandler(self, name: str, attrs: dict[str, str]) -> None:
        if attrs.get("ExternalFileName"):
            raise ValueError(f"its numbers lie in another file, {attrs['ExternalFileName']!r}")
        if name == "DataArray" and int(attrs["Dim0"]) not in MESH_VERTICES.values():
            raise ValueError(f"an array has {attrs['Dim0']} numbers, not one for each vertex of a mesh")
        super().StartElementHandler(name, attrs)


def _read_gifti(path: Path) -> np.ndarray:
    with open(path, "rb") as file:
        parser = _Parser()
        parser.parse(fptr=file)
    image = parser.img
    if image is None:
        raise ValueError("it holds no GIFTI element")
    structures = {part.meta.get("AnatomicalStructurePrimary") for part in (image, *image.darrays)}
    if _OTHER_SIDE[path.name[:2]] in structures:
        raise ValueError(f"it is of {_OTHER_SIDE[path.name[:2]]}, by its AnatomicalStructurePrimary")
    return np.stack([array.data for array in image.darrays])


def _read_mgh(path: Path) -> np.ndarray:
    with gzip.open(path) if path.suffix == ".mgz" else open(path, "rb") as file:
        image = MGHImage.from_stream(file)
        vertices, *others = shape = tuple(map(int, image.shape))
        if vertices not in MESH_VERTICES.values() or np.prod(others) != max(others):
            raise ValueError(f"it holds {shape}, not vertices x 1 x 1 x trials")
        values = np.asarray(image.dataobj)
        while file.read(2**20):
            pass  # at the end, gzip compares its checksum
    return values.reshape(vertices, -1).T
