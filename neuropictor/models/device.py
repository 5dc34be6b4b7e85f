"""Device and precision of tensors: what the runtime section asks for, decided only here."""

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from neuropictor.config import RuntimeConfig

log = logging.getLogger(__name__)

_CPU_DESCRIPTION = Path("/proc/cpuinfo")


def fast_bf16(device: torch.device) -> bool:
    """Tell whether a device has instructions for bf16; a CPU of unknown features is assumed to have them."""
    if device.type != "cpu" or not _CPU_DESCRIPTION.is_file():
        return True
    # x86-64: avx512_bf16, amx_bf16; Arm: bf16.
    return re.search(r"\b(avx512_|amx_)?bf16\b", _CPU_DESCRIPTION.read_text()) is not None


def _set_arithmetic(runtime: "RuntimeConfig", device: torch.device) -> None:
    """Set for this process what float32 means on a GPU, and whether computations there repeat bit for bit.

    With precision fp32 products are products of float32 numbers; in the lower precisions those products that are left
    in float32 may have factors of TF32's 11 digits, which are more than those of bf16.
    """
    tf32 = runtime.precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = not runtime.deterministic
    if runtime.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it before its first use
    torch.use_deterministic_algorithms(runtime.deterministic, warn_only=True)
    if runtime.precision == "bf16" and not fast_bf16(device):
        log.warning(
            "runtime.precision: bf16 asked for, but this processor has no instructions for it and takes about 12 times"
            " as long as with fp32; allowed: fp32, for example runtime: {precision: fp32}"
        )


def prepare_device(runtime: "RuntimeConfig") -> torch.device:
    """Set thread count and arithmetic, and return the device of a runtime section.

    ``auto`` takes CUDA where there is one, else Apple's MPS, else the CPU.

    Raises
    ------
    RuntimeError
        If a named device, or a GPU where some are asked for, is missing.
    """
    if runtime.threads:
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes on this machine
        torch.set_num_threads(max(1, runtime.threads // beside))
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if available["cuda"] and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # "cuda" means this one in this process
    device = _chosen(runtime, available)
    _set_arithmetic(runtime, device)
    return device


def _chosen(runtime: "RuntimeConfig", available: dict[str, bool]) -> torch.device:
    if runtime.device == "auto":
        if runtime.gpus and not available["cuda"]:
            raise RuntimeError(
                f"runtime.gpus: {runtime.gpus} asked for, but torch {torch.__version__} finds no GPU here (is the"
                " driver there, CUDA_VISIBLE_DEVICES set, a container started with --nv?); allowed: runtime: {gpus: 0}"
                " to run on the CPU, or {device: cpu} to reserve GPUs and not use them"
            )
        return torch.device(next(name for name, present in available.items() if present))
    if not available[runtime.device]:
        usable = ", ".join(name for name, present in available.items() if present)
        raise RuntimeError(
            f"runtime.device: {runtime.device!r} asked for, but torch {torch.__version__} finds no such device here; "
            f"allowed: auto, {usable}, for example runtime: {{device: auto}}"
        )
    return torch.device(runtime.device)
