"""What `calibrate.extra` names: response stores, or time series in a file, a folder, or all that a pattern matches."""

import functools
import glob
import hashlib
import os
import re
from pathlib import Path
from typing import NoReturn

SERIES = ".dtseries.nii"
_STORES = (".h5", ".hdf5")


def response_stores(entry: str) -> list[str]:
    """Return the response stores that an entry names, ascending; a name without a pattern may be of one still to make.

    Returns
    -------
    list of str
        Empty if the entry names time series.

    Raises
    ------
    ValueError
        If a pattern matches nothing.
    """
    if not entry.endswith(_STORES):
        return []
    if not glob.has_magic(entry):
        return [entry]
    return sorted(glob.glob(entry, recursive=True)) or _nothing(entry)


@functools.cache
def series_files(entry: str | Path) -> list[Path]:
    """Return the time series that an entry names, ascending; of a folder all at and below it, hidden ones left out.

    Raises
    ------
    ValueError
        If there are none, or a pattern matches other files too.
    """
    entry = str(entry)
    matches = sorted(glob.glob(entry, recursive=True)) if not os.path.lexists(entry) else [entry]
    files = []
    for match in map(Path, matches):
        if match.is_dir():
            below = sorted(path.relative_to(match) for path in match.rglob(f"*{SERIES}"))
            files += [match / path for path in below if not any(part.startswith(".") for part in path.parts)]
        elif match.name.endswith(SERIES):
            files.append(match)
        else:
            raise ValueError(
                f"calibrate.extra: {match} is no CIFTI time series, *{SERIES}, as {entry} asks for; allowed: such"
                f" files, e.g. ukb/*/*{SERIES}, or response stores, e.g. data/prepared/sub-MM02/responses.h5"
            )
    return list(dict.fromkeys(files)) or _nothing(entry)


def series_state(entry: str) -> str:
    """Return the number of an entry's time series, and a hash of their names, sizes and times of change."""
    files = series_files(entry)
    states = [(path, path.stat() if path.exists() else path.lstat()) for path in files]  # links may lead nowhere
    told = "\n".join(f"{path} {state.st_size} {int(state.st_mtime)}" for path, state in states)
    return f"{len(files)} time series {hashlib.sha256(told.encode()).hexdigest()[:16]}"


def _nothing(entry: str) -> NoReturn:
    raise ValueError(
        f"calibrate.extra: {entry} names no file; allowed: CIFTI time series in a file, in a folder or by a pattern,"
        f" e.g. ukb/*/*{SERIES}, or response stores, e.g. data/prepared/sub-MM02/responses.h5"
    )


def frames_name(entry: str) -> str:
    """Return what the store of an entry's frames is called: the last words of it, and a part of its checksum."""
    words = re.findall(r"[A-Za-z0-9]+", entry.removesuffix(SERIES))[-2:]
    return "-".join([*words, hashlib.sha256(entry.encode()).hexdigest()[:8]])
