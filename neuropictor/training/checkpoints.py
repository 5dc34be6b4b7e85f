"""Checkpoints of a training: whole files, the last two kept, and a guard that decides whether they may be used.

A checkpoint holds step, history, weights, optimizer and moving average (all random numbers follow from the step alone).
The guard file beside it holds configuration, code and input checksums of the training that wrote it: a training with
any other guard starts afresh and says which key differs.
"""

import json
import logging
import pickle
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from neuropictor.records.checksums import checksum
from neuropictor.records.files import atomic_path
from neuropictor.records.fingerprint import canonical, fingerprint

log = logging.getLogger(__name__)

#: Checkpoints that are kept: one that a full disk or a crash has damaged leaves the one before.
KEPT = 2
_GUARD = "guard.json"
_UNREADABLE = (RuntimeError, EOFError, LookupError, ValueError, TypeError, pickle.UnpicklingError, zipfile.BadZipFile)


def make_guard(
    config: Mapping[str, Any], inputs: Mapping[str, str | Path], script: str | Path | None, **further: Any
) -> dict[str, Any]:
    """Return what decides whether a checkpoint still fits.

    Parameters
    ----------
    config
        Pydantic sections by name.
    inputs
        Files or folders by name; compared by content, not location.
    script
        Module of the stage, whose code and imports are compared; None where code is not tracked.
    further
        By name, what else decides about batches; None: nothing.
    """
    sections = {name: section.model_dump(mode="json") for name, section in config.items()}
    return {
        "config": canonical(sections),
        "inputs": {name: checksum(path) for name, path in inputs.items()},
        "code": fingerprint(Path(script).resolve()) if script else None,
        **{name: canonical(value) for name, value in further.items() if value is not None},
    }


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {
        key: leaf for name, part in tree.items() for key, leaf in _flat(part, f"{prefix}.{name}".strip(".")).items()
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name each key in which two guards differ, with both values; untracked code (None) equals any code."""
    before, after = _flat(old), _flat(new)
    lines = []
    for key in sorted({*before, *after}):
        was, now = before.get(key, "nothing"), after.get(key, "nothing")
        if was != now and not (key == "code" and None in (was, now)):
            lines.append(f"{key} was {was!r}, is now {now!r}")
    return lines


class CheckpointFolder:
    """The checkpoints of one training.

    Parameters
    ----------
    folder
        Where they lie; made when needed.
    guard
        See `make_guard`.
    """

    def __init__(self, folder: str | Path, guard: Mapping[str, Any]):
        self.folder, self.guard = Path(folder), guard

    def files(self) -> list[Path]:
        """Return the checkpoint files, oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def prepare(self) -> None:
        """Keep checkpoints of the same training, remove those of another; call once, before `newest`."""
        if self._fits():
            return
        self.clear()
        self.folder.mkdir(parents=True)
        with atomic_path(self.folder / _GUARD) as temporary:
            temporary.write_text(json.dumps(self.guard, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def newest(self) -> dict[str, Any] | None:
        """Read the newest checkpoint that can be read, on the CPU; None where there is none."""
        for path in reversed(self.files()):
            try:
                with zipfile.ZipFile(path) as packed:  # torch writes checksums, and reads without them
                    if damaged := packed.testzip():
                        raise ValueError(f"{damaged} in it is damaged")
                state = torch.load(path, map_location="cpu", weights_only=True)
                log.info("Continuing after step %d, from %s", state["step"], path)
                return state
            except _UNREADABLE as error:
                log.warning("%s cannot be read (%s): trying the one before", path, error)
        return None

    def _fits(self) -> bool:
        path = self.folder / _GUARD
        if not path.is_file():
            return False
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            log.warning("%s cannot be read: starting afresh", path)
            return False
        changes = differences(old, self.guard)
        if changes and self.files():
            changed = "; ".join(changes)
            log.warning("Checkpoints in %s are of another training, starting afresh: %s", self.folder, changed)
        return not changes

    def save(self, state: Mapping[str, Any]) -> Path:
        """Write what the next step depends on, ``step`` included, atomically; remove all but the last two files."""
        path = self.folder / f"step-{state['step']:08d}.pt"
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            try:
                torch.save(dict(state), file)
            except RuntimeError as error:
                # torch's writer puts an error of its own before that of a full disk.
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        for old in self.files()[:-KEPT]:
            old.unlink()
        return path

    def clear(self) -> None:
        """Remove the folder: the training is complete, or its checkpoints are useless."""
        shutil.rmtree(self.folder, ignore_errors=True)
