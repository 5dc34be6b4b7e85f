"""Where tensors live: the device and thread count that the runtime section asks for."""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from neuropictor.config import RuntimeConfig


def prepare_device(runtime: "RuntimeConfig") -> torch.device:
    """Set the thread count and return the device of a runtime section.

    ``auto`` takes CUDA where there is one, else Apple's MPS, else the CPU.

    Raises
    ------
    RuntimeError
        If a device is asked for by name and not there.
    """
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if runtime.device == "auto":
        return torch.device(next(name for name, found in there.items() if found))
    if not there[runtime.device]:
        usable = ", ".join(name for name, found in there.items() if found)
        raise RuntimeError(
            f"runtime.device: {runtime.device!r} asked for, but torch {torch.__version__} finds no such device here; "
            f"allowed: auto, {usable}, for example runtime: {{device: auto}}"
        )
    return torch.device(runtime.device)
