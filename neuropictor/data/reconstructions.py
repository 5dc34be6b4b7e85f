"""Reconstructed pictures of one subject by one model, as sampling and baselines write and evaluation reads them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from neuropictor.runlog import atomic_path


@dataclass(frozen=True)
class Reconstructions:
    """All reconstructions of one subject by one model.

    Attributes
    ----------
    pictures : uint8 array [N, K, S, S, 3]
        K samples of each of N pictures.
    nsd_id : int32 array [N]
        0-based picture numbers, ascending.
    model : str
        For example "refined".
    subject : int
    data : str
        "simulated", "nsd" or "own".
    """

    pictures: np.ndarray
    nsd_id: np.ndarray
    model: str
    subject: int
    data: str


def write_reconstructions(path: Path, reconstructions: Reconstructions) -> None:
    """Write the file whole or not at all."""
    pictures = reconstructions.pictures
    if pictures.ndim != 5 or pictures.dtype != np.uint8 or len(pictures) != len(reconstructions.nsd_id):
        raise ValueError(
            f"reconstructions of shape {pictures.shape} and type {pictures.dtype} for {len(reconstructions.nsd_id)} "
            "pictures; allowed is uint8 [N, K, S, S, 3], for example (150, 1, 64, 64, 3)"
        )
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        chunks = (1, *pictures.shape[1:])
        file.create_dataset("pictures", data=pictures, chunks=chunks, compression="gzip")
        file.create_dataset("nsd_id", data=np.asarray(reconstructions.nsd_id, np.int32))
        file.attrs.update(model=reconstructions.model, subject=reconstructions.subject, data=reconstructions.data)


def read_reconstructions(path: Path) -> Reconstructions:
    """Read a file of reconstructions; FileNotFoundError or ValueError name what is missing."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"reconstructions: no file {path}; the stages 'sample' and 'evaluate' write it")
    with h5py.File(path, "r") as file:
        missing = [name for name in ("pictures", "nsd_id") if name not in file]
        missing += [name for name in ("model", "subject", "data") if name not in file.attrs]
        if missing:
            raise ValueError(f"{path}: {', '.join(missing)} missing, found {sorted(file)} and {sorted(file.attrs)}")
        return Reconstructions(
            file["pictures"][:],
            file["nsd_id"][:],
            str(file.attrs["model"]),
            int(file.attrs["subject"]),
            str(file.attrs["data"]),
        )


def by_subject(files: Iterable[Path]) -> dict[int, dict[str, Path]]:
    """Sort files of reconstructions by the subject that their folder names (sub-01) and by model, their own name.

    Raises
    ------
    ValueError
        For a file in another folder.
    """
    found: dict[int, dict[str, Path]] = {}
    for path in files:
        number = path.parent.name.removeprefix("sub-")
        if not number.isdigit():
            raise ValueError(f"{path} is not in a folder named after its subject; allowed: e.g. sub-01/refined.h5")
        found.setdefault(int(number), {})[path.stem] = path
    return found
