"""Where tensors live: the device and thread count that the runtime section asks for."""

import os
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
        If a device is asked for by name and not there, or GPUs are and there is none.
    """
    if runtime.threads:
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes that train together on this machine
        torch.set_num_threads(max(1, runtime.threads // beside))
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if there["cuda"] and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # what "cuda" then means in this process
    if runtime.device == "auto":
        if runtime.gpus and not there["cuda"]:
            raise RuntimeError(
                f"runtime.gpus: {runtime.gpus} asked for, but torch {torch.__version__} finds no GPU here (is the"
                " driver there, CUDA_VISIBLE_DEVICES set, a container started with --nv?); allowed: runtime: {gpus: 0}"
                " to run on the CPU, or {device: cpu} to reserve GPUs and not use them"
            )
        return torch.device(next(name for name, found in there.items() if found))
    if not there[runtime.device]:
        usable = ", ".join(name for name, found in there.items() if found)
        raise RuntimeError(
            f"runtime.device: {runtime.device!r} asked for, but torch {torch.__version__} finds no such device here; "
            f"allowed: auto, {usable}, for example runtime: {{device: auto}}"
        )
    return torch.device(runtime.device)
