"""Start a training or sampling in several processes, on one machine or, inside a Slurm job, on several.

The running program (a workflow script, or the command line) is started ``runtime.processes`` times;
each copy calls the same stage, finds its rank in its environment, and takes its share of every batch.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from neuropictor.models.device import prepare_device
from neuropictor.records.log import launched

if TYPE_CHECKING:
    from neuropictor.config import RuntimeConfig

#: Seconds that processes have after SIGTERM to save and end, before torch's launcher kills them (its default: 30): a
#: checkpoint of the paper's size has 8.1 GB, 10.8 with a moving average. The same as in profiles/slurm.
GRACE = 300


def launch(stage: Callable[..., None], runtime: "RuntimeConfig", **arguments: Any) -> None:
    """Call a stage in ``runtime.processes`` processes, and return when all have ended.

    Parameters
    ----------
    stage
        Function of a stage, e.g. `neuropictor.training.reconstruct.pretrain`.
    runtime
        Section of the configuration; with one process the stage is called here.
    arguments
        All other arguments of the stage.

    Raises
    ------
    RuntimeError
        If the device of `runtime` does not exist, there are fewer GPUs than processes, or more nodes are asked
        for outside Slurm.
    SystemExit
        If a process fails, or after SIGTERM, once all have saved and ended.
    """
    if not launched():
        _check(runtime)
    if runtime.processes == 1 or launched():
        stage(runtime=runtime, **arguments)
        return
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(GRACE))
    options = ["--nproc-per-node", str(runtime.processes // runtime.nodes), *sys.argv]
    if runtime.nodes == 1:
        _run_here(["--standalone", *options])
    else:
        _run_on_nodes(runtime, options)


def _check(runtime: "RuntimeConfig") -> None:
    """Refuse impossible settings before starting anything."""
    device, local = prepare_device(runtime), runtime.processes // runtime.nodes
    if device.type == "cuda" and torch.cuda.device_count() < local:
        raise RuntimeError(
            f"runtime.processes: {runtime.processes} asked for, {local} of them on this machine, which has"
            f" {torch.cuda.device_count()} GPUs; allowed: one process a GPU, for example runtime: {{processes:"
            f" {torch.cuda.device_count() * runtime.nodes}}}"
        )
    if runtime.nodes > 1 and "SLURM_JOB_ID" not in os.environ:
        raise RuntimeError(
            f"runtime.nodes: {runtime.nodes} asked for, but this is no Slurm job; allowed: nodes: 1, or start the"
            " workflow with --workflow-profile profiles/slurm"
        )


def _run_here(arguments: list[str]) -> None:
    """Start all processes with torch's launcher; signals are passed on to them."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    try:
        main(arguments)
    except SignalException as error:
        raise SystemExit(128 + error.sigval) from None
    except ChildFailedError as error:
        raise SystemExit(f"{len(error.failures)} of the processes failed; what they said stands above") from None


def _run_on_nodes(runtime: "RuntimeConfig", arguments: list[str]) -> None:
    """Start torch's launcher on every node of this Slurm job; they meet at this node."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    nodes = str(runtime.nodes)
    step = ["srun", "--nodes", nodes, "--ntasks", nodes, "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    step += ["--cpus-per-task", str(max(1, runtime.threads)), *(["--gpus", str(runtime.gpus)] if runtime.gpus else [])]
    meeting = ["--nnodes", nodes, "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{socket.gethostname()}:{port}"]
    meeting += ["--rdzv-id", os.environ["SLURM_JOB_ID"]]
    running = subprocess.Popen([*step, sys.executable, "-m", "torch.distributed.run", *meeting, *arguments])

    def pass_on(number: int, frame: FrameType | None) -> None:
        running.send_signal(number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        status = running.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    if status:
        raise SystemExit(f"srun ended with status {status}; what the processes said stands above")
