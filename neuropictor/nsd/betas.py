"""Betas on fsaverage: MGH files, one a hemisphere, read in one pass, at the needed vertices only.

Format (FreeSurfer's MGH): 284 bytes of header, big-endian, starting with seven int32 (version 1, vertices, 1, 1,
frames, type 3 = float32, degrees of freedom), then the frames in order, then a short footer that is not
needed. A frame is one trial.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuropictor.nsd import keys
from neuropictor.nsd.constants import HEMISPHERES
from neuropictor.surface.atlas import MESH_VERTICES, mesh_vertices

HEADER_BYTES = 284
_FLOAT = np.dtype(">f4")
# Frames gathered at a time: large enough for long sequential reads, small enough (42 MiB of a full hemisphere) to stay
# in cache and memory.
_BLOCK_FRAMES = 64


@dataclass(frozen=True)
class MghHeader:
    """Header of an MGH file: `vertices` of one hemisphere, `frames` (trials)."""

    vertices: int
    frames: int


def read_header(path: str | Path) -> MghHeader:
    """Read and check the header of an MGH file of float32 values on a surface.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not such an MGH file, or shorter than its header says.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; fetch or simulate this session's betas, or lower the number of sessions"
        )
    with open(path, "rb") as file:
        head = file.read(28)
        size = file.seek(0, 2)
    if len(head) < 28:
        raise ValueError(
            f"{path} has only {size} bytes and no MGH header; the download stopped early: remove it and fetch it again"
        )
    version, vertices, height, depth, frames, kind, _ = struct.unpack(">7i", head)
    if version != 1 or kind != 3 or (height, depth) != (1, 1) or vertices < 1 or frames < 1:
        raise ValueError(
            f"{path} is no surface file of float32 betas: MGH version {version}, type {kind}, size {vertices} x "
            f"{height} x {depth} x {frames}; "
            "expected version 1, type 3, vertices x 1 x 1 x trials (e.g. 163842 x 1 x 1 x 750)"
        )
    needed = HEADER_BYTES + vertices * frames * _FLOAT.itemsize
    if size < needed:
        raise ValueError(
            f"{path} is truncated: {size} bytes, but {vertices} vertices x {frames} trials need {needed}; "
            "remove it and fetch it again"
        )
    return MghHeader(vertices, frames)


def mesh_of(path: str | Path) -> str:
    """Return the mesh of a hemisphere's betas, from their number of vertices.

    Raises
    ------
    ValueError
        If the number of vertices fits none of the known meshes.
    """
    vertices = read_header(path).vertices
    for mesh, count in MESH_VERTICES.items():
        if count == vertices:
            return mesh
    known = ", ".join(f"{count} ({mesh})" for mesh, count in MESH_VERTICES.items())
    raise ValueError(f"{path} has {vertices} vertices; allowed: {known}")


def session_paths(root: str | Path, subject: int, session: int, beta_version: str) -> list[Path]:
    """Return a session's files below a folder in NSD's layout, of the left and the right hemisphere."""
    return [Path(root) / keys.betas(subject, session, hemisphere, beta_version) for hemisphere in HEMISPHERES]


def check_betas(paths: Sequence[Path], mesh: str | None = None, trials: int | None = None) -> MghHeader:
    """Check both hemispheres' files, and return their common header; parameters and errors as `beta_blocks`."""
    headers = {path: read_header(path) for path in paths}
    first = headers[paths[0]]
    expected = first.vertices if mesh is None else mesh_vertices(mesh)
    frames = trials or first.frames
    for path, header in headers.items():
        if header.vertices != expected:
            source = f"of {mesh}" if mesh else "as in the left hemisphere"
            raise ValueError(
                f"{path} has {header.vertices} vertices, expected {expected} {source}; set the mesh that the "
                "betas lie on"
            )
        if header.frames != frames:
            raise ValueError(f"{path} has {header.frames} trials, expected {frames}; remove it and fetch it again")
    return first


def beta_blocks(
    paths: Sequence[Path], columns: np.ndarray, mesh: str | None = None, trials: int | None = None
) -> Iterator[np.ndarray]:
    """Read betas at the given vertices, some trials at a time.

    Each file is memory-mapped and read once; only the given vertices are copied.

    Parameters
    ----------
    paths
        Files of the left and the right hemisphere.
    columns
        int [n], ascending vertex numbers; left-hemisphere vertices first, then right ones counted on from the left's
        number.
    mesh
        Mesh of the columns; the file must have its number of vertices. Default: any.
    trials
        Trials that the files must have; default: any number.

    Yields
    ------
    numpy.ndarray
        float32 [t, n], percent signal change, may hold NaN; the next block is written over it.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing, truncated, of another mesh, or has another number of trials.
    """
    header = check_betas(paths, mesh, trials)
    expected, frames = header.vertices, header.frames
    columns = np.asarray(columns, dtype=np.int64)
    if columns.size and (columns[0] < 0 or columns[-1] >= 2 * expected or (np.diff(columns) <= 0).any()):
        raise ValueError(f"columns must ascend within 0 to {2 * expected - 1}; found {columns[0]} to {columns[-1]}")
    split = int(np.searchsorted(columns, expected))
    betas = np.empty((min(_BLOCK_FRAMES, frames), len(columns)), np.float32)
    parts = (columns[:split], columns[split:] - expected)
    targets = (betas[:, :split], betas[:, split:])
    for start in range(0, frames, _BLOCK_FRAMES):
        count = min(_BLOCK_FRAMES, frames - start)
        for path, part, target in zip(paths, parts, targets, strict=True):
            _gather(_map(path, expected, start, count), part, target[:count])
        yield betas[:count]


def _gather(block: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    """Copy columns of big-endian frames [t, vertices] into `out`."""
    # Raw words first, then one byte swap of the few that are kept.
    out[:] = np.take(block.view(np.int32), columns, axis=1, mode="clip").view(_FLOAT)


def _map(path: Path, vertices: int, start: int, count: int) -> np.ndarray:
    """Map `count` frames block by block, so that the file as a whole never counts as resident memory."""
    offset = HEADER_BYTES + start * vertices * _FLOAT.itemsize
    return np.memmap(path, _FLOAT, "r", offset, (count, vertices)).view(np.ndarray)
