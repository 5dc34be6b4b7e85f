"""The kinds of files that labs have; another is its file in this folder and its line in `KINDS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from neuropictor.data.labs.algonauts import algonauts
from neuropictor.data.labs.glmsingle import glmsingle
from neuropictor.data.labs.mosaic import mosaic
from neuropictor.data.labs.nod import nod
from neuropictor.data.labs.reader import Files
from neuropictor.data.labs.session_files import brain, hemispheres


@dataclass(frozen=True)
class Kind:
    """A kind of files.

    Attributes
    ----------
    open
        Returns a person's files of a folder (or file), or None if it holds none of this kind.
    example
        What lies in the folder.
    standardised
        Whether the responses are z-scores already.
    """

    open: Callable[[Path], Files | None]
    example: str
    standardised: bool = False


KINDS = {
    "hemispheres": Kind(hemispheres, "lh.session1.mgh, rh.session1.mgh"),
    "brain": Kind(brain, "session1.dscalar.nii"),
    "glmsingle": Kind(glmsingle, "lh/TYPED_FITHRF_GLMDENOISE_RR.hdf5, rh/TYPED_FITHRF_GLMDENOISE_RR.hdf5"),
    "mosaic": Kind(mosaic, "sub-01_NSD.hdf5", standardised=True),
    "nod": Kind(nod, "ses-imagenet01_task-imagenet_run-1/ses-imagenet01_task-imagenet_run-1_beta.dscalar.nii"),
    "algonauts2023": Kind(algonauts, "training_split/training_fmri/lh_training_fmri.npy", standardised=True),
}


def open_files(path: Path, kind: str = "") -> tuple[str, Files]:
    """Open a person's files, of the kind that their names show unless it is given.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is none of the kind, or no kind or several fit.
    """
    if kind and kind not in KINDS:
        raise ValueError(f"kind {kind!r} does not exist; allowed: {_listed()}")
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; expected a folder of betas. Allowed kinds: {_listed()}")
    fitting = {name: files for name in ([kind] if kind else KINDS) if (files := KINDS[name].open(path)) is not None}
    if len(fitting) != 1:
        holds = f"files of the kinds {', '.join(fitting)}" if fitting else f"no files of {kind or 'a known kind'}"
        raise FileNotFoundError(
            f"{path} holds {holds}; allowed: one kind, or which one by --kind: {_listed()}. Example: --kind hemispheres"
        )
    return next(iter(fitting.items()))


def _listed() -> str:
    return "; ".join(f"{name} (e.g. {kind.example})" for name, kind in KINDS.items())
