"""Checkpoints of a training: whole files, the last two kept, and a guard that decides whether they may be used.

A checkpoint is one safetensors file with weights, optimizer state and moving average (what is drawn at random depends
on the step alone); its metadata carries step and history as JSON. The guard file beside it holds configuration, code
and input checksums of the training that wrote it: a training with any other guard starts afresh and says which key
differs.
"""

import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from neuropictor.records.checksums import checksum
from neuropictor.records.files import atomic_path
from neuropictor.records.fingerprint import canonical, fingerprint

log = logging.getLogger(__name__)

KEPT = 2
_GUARD = "guard.json"


class Checkpoint(NamedTuple):
    """A checkpoint as read: number of steps done, tensors by name, and what was stored as JSON."""

    step: int
    tensors: dict[str, torch.Tensor]
    extra: dict[str, Any]


def make_guard(
    config: Mapping[str, Any], inputs: Mapping[str, str | Path], script: str | Path | None
) -> dict[str, Any]:
    """Return what decides whether a checkpoint still fits.

    Parameters
    ----------
    config
        Pydantic sections by name.
    inputs
        Files or folders by name; compared by content, not by place.
    script
        Module of the stage, whose code and imports are compared; None where code is not tracked.
    """
    sections = {name: section.model_dump(mode="json") for name, section in config.items()}
    return {
        "config": canonical(sections),
        "inputs": {name: checksum(path) for name, path in inputs.items()},
        "code": fingerprint(Path(script).resolve()) if script else None,
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
    found = []
    for key in sorted({*before, *after}):
        was, now = before.get(key, "nothing"), after.get(key, "nothing")
        if was != now and not (key == "code" and None in (was, now)):
            found.append(f"{key} was {was!r}, is now {now!r}")
    return found


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
        return sorted(self.folder.glob("step-*.safetensors"))

    def prepare(self) -> None:
        """Keep checkpoints of the same training, remove those of another; call once, before `newest`."""
        if self._fits():
            return
        self.clear()
        self.folder.mkdir(parents=True)
        with atomic_path(self.folder / _GUARD) as temporary:
            temporary.write_text(json.dumps(self.guard, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def newest(self) -> Checkpoint | None:
        """Read the newest checkpoint that can be read; None where there is none."""
        for path in reversed(self.files()):
            try:
                checkpoint = self._read(path)
            except (SafetensorError, KeyError, ValueError) as error:
                log.warning("%s cannot be read (%s): trying the one before", path, error)
                continue
            log.info("Continuing after step %d, from %s", checkpoint.step, path)
            return checkpoint
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
        found = differences(old, self.guard)
        if found and self.files():
            log.warning("Checkpoints in %s are of another training, starting afresh: %s", self.folder, "; ".join(found))
        return not found

    @staticmethod
    def _read(path: Path) -> Checkpoint:
        with safe_open(path, framework="pt") as file:
            extra = json.loads(file.metadata()["extra"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Checkpoint(int(extra.pop("step")), tensors, extra)

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], extra: Mapping[str, Any]) -> Path:
        """Write a checkpoint after `step` steps, atomically, and remove all but the last two."""
        path = self.folder / f"step-{step:08d}.safetensors"
        plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
        with atomic_path(path) as temporary:
            save_file(plain, temporary, metadata={"extra": json.dumps({**extra, "step": step})})
        for old in self.files()[:-KEPT]:
            old.unlink()
        return path

    def clear(self) -> None:
        """Remove the folder: the training is complete, or its checkpoints are of no more use."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _prefixed(prefix: str, tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors}


def _part(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def training_state(
    module: nn.Module, optimizer: torch.optim.Optimizer, average: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Collect everything that the next step depends on, as named tensors."""
    state = _prefixed("module", module.state_dict().items()) | _prefixed("average", average.items())
    for index, values in optimizer.state_dict()["state"].items():
        state |= _prefixed(f"optimizer.{index}", ((name, torch.as_tensor(value)) for name, value in values.items()))
    return state


def restore_state(
    tensors: Mapping[str, torch.Tensor],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, torch.Tensor],
) -> None:
    """Put back what `training_state` collected."""
    module.load_state_dict(_part("module", tensors))
    for name, tensor in _part("average", tensors).items():
        average[name].copy_(tensor)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    values: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in _part("optimizer", tensors).items():
        index, name = key.split(".", 1)
        # In the memory layout of the weight, as the fused optimizer takes for granted.
        like = parameters[int(index)] if tensor.dim() else tensor
        values.setdefault(int(index), {})[name] = torch.empty_like(like, device="cpu").copy_(tensor)
    optimizer.load_state_dict({"state": values, "param_groups": optimizer.state_dict()["param_groups"]})
