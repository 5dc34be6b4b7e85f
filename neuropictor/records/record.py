"""A record of how each result was made: inputs, settings, software, and cost.

Torch is asked for its peak memory only where it is loaded.
"""

import contextlib
import importlib.metadata
import json
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from neuropictor.records.checksums import checksum, of_outputs, verify
from neuropictor.records.files import atomic_path
from neuropictor.records.log import is_first

#: Name of this process's job in the workflow, as in its log and benchmark; None outside the workflow.
JOB: str | None = None


def job_name(rule: str, log: str | Path) -> str:
    """Return a job's name, from its log: ``logs/refine/sub-01.log`` -> ``refine/sub-01``."""
    parts = Path(log).with_suffix("").parts
    return "/".join(parts[len(parts) - 1 - parts[::-1].index(rule) :])


def record_path(out: str | Path) -> Path:
    """Return where the run record of an output file lies: ``metrics.csv`` -> ``metrics.run.json`` beside it."""
    return Path(out).with_suffix(".run.json")


class RunRecord:
    """Write ``run.json`` at the end of a stage: outputs, inputs, settings, software, and cost.

    Nothing is written when the body raises, so a record means that its stage succeeded.

    Parameters
    ----------
    path
        The record's file.
    stage
        Name of the stage, e.g. ``"pretrain"``.
    config
        Pydantic section, or a mapping of names to sections.
    seed
        The stage's seed, where it has one.
    inputs
        Files read; each is recorded with its checksum, after a comparison with the record of the stage that wrote it.
    outputs
        Files and folders written, recorded with their checksums: the stages that read them compare.

    Raises
    ------
    DamagedFileError
        On entering, if an input is not what its stage wrote.

    Examples
    --------
    >>> with RunRecord(out.parent / "run.json", "pretrain", config=config, inputs=[latents], outputs=[out]) as record:
    ...     record.add(steps=3000, validation_loss=0.31)
    """

    def __init__(
        self,
        path: str | Path,
        stage: str,
        *,
        config: Any = None,
        seed: int | None = None,
        inputs: Iterable[str | Path] = (),
        outputs: Iterable[str | Path],
    ):
        self.path, self.stage, self.config, self.seed = Path(path), stage, config, seed
        self.inputs, self.outputs = [Path(item) for item in inputs], list(outputs)
        self.results: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._started, self._began = datetime.now(UTC), time.monotonic()
        verify(*self.inputs)
        # Checksums first: of the files as the stage reads them.
        self._checksums = {str(item): checksum(item) for item in self.inputs}
        return self

    def add(self, **results: Any) -> None:
        """Add the stage's results and counts; values must be writable as JSON."""
        self.results.update(results)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None or not is_first():
            return
        record = {
            "stage": self.stage,
            "job": JOB,
            "results": self.results,
            "config": _plain(self.config),
            "seed": self.seed,
            "inputs": self._checksums,
            "outputs": of_outputs(self.outputs, self.path),
            "revision": revision(),
            "started": self._started.isoformat(timespec="seconds"),
            "wall_seconds": round(time.monotonic() - self._began, 2),
            "peak_memory_mib": _peak_memory_mib(),
            "device": _device(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "versions": versions(),
        }
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def job_record(
    rule: str, log: str | Path, parameters: Iterable[tuple[str, Any]], inputs: Iterable[str], outputs: Iterable[str]
) -> RunRecord:
    """Return the record of a job whose function writes none: pages, figures, and files among NSD's own.

    Parameters
    ----------
    rule
        Name of the job's rule.
    log
        The job's log; the record lies beside it.
    parameters
        Names and values of the rule's parameters.
    inputs, outputs
        The job's files.
    """
    config = dict(parameters)
    seed = next((value["seed"] for value in config.values() if isinstance(value, Mapping) and "seed" in value), None)
    return RunRecord(record_path(log), rule, config=config, seed=seed, inputs=inputs, outputs=outputs)


def _plain(config: Any) -> Any:
    if hasattr(config, "model_dump"):
        return config.model_dump(mode="json")
    if isinstance(config, Mapping):
        return {str(name): _plain(value) for name, value in config.items()}
    return config


def revision() -> str | None:
    """Return the project's git revision, with ``-dirty`` where files differ from it; None outside a checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).resolve().parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--match=no-tags",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, str]:
    """Return the installed versions of the project and of the packages that it requires."""
    try:
        required = importlib.metadata.requires("neuropictor") or []
    except importlib.metadata.PackageNotFoundError:
        required = ["numpy", "scipy", "h5py", "torch", "diffusers", "transformers", "snakemake"]
    names = ["neuropictor", *(re.split(r"[^\w.-]", item)[0] for item in required if "extra ==" not in item)]
    installed = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def _peak_memory_mib() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


def _device() -> dict[str, Any] | None:
    """Return the GPU's name, peak memory and arithmetic where a stage has used one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return {
        "gpu": torch.cuda.get_device_name(),
        "peak_memory_mib": round(torch.cuda.max_memory_allocated() / 2**20),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
