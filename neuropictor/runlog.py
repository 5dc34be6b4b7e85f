"""What a run leaves behind: log lines, progress with time left, whole files, and a record of how each was made.

Loads little: ``rich`` only for the bar on a terminal; torch is asked for its peak memory only where it is loaded.
"""

import contextlib
import errno
import importlib.metadata
import json
import logging
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from neuropictor.checksums import checksum, of_outputs, verify
from neuropictor.progress import Progress, duration, progress, show_bars

__all__ = [
    "Progress",
    "RunRecord",
    "atomic_path",
    "checksum",
    "duration",
    "is_first",
    "job_record",
    "launched",
    "process_share",
    "progress",
    "record_path",
    "revision",
    "start_log",
    "versions",
]

log = logging.getLogger(__name__)

#: Hugging Face's libraries draw bars and print advice of their own, read when they are imported.
_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error"}


def launched() -> bool:
    """Tell whether this is one of several processes that train together (by torch's or accelerate's launcher)."""
    return "RANK" in os.environ


def is_first() -> bool:
    """Tell whether this is the process that writes files: the only one, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def process_share() -> tuple[int, int]:
    """Return this process's number and how many there are: ``(0, 1)`` for one alone."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def start_log(path: str | Path | None = None, prefix: str | None = None) -> None:
    """Send log messages, warnings and uncaught errors to standard error and, where given, to a file.

    Parameters
    ----------
    path
        Log file, started anew; progress is then written as lines, since several jobs may share one terminal.
        ``None``: standard error only, with progress drawn as a bar if that is a terminal.
    prefix
        Put before each line on standard error; default: from ``path`` (``logs/refine/sub-01.log``: ``refine sub-01``).
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    if prefix is None:
        prefix = _prefix(Path(path)) if path else ""
    screen = logging.StreamHandler(sys.stderr)
    screen.setFormatter(logging.Formatter(f"[{prefix}] %(message)s" if prefix else "%(message)s"))
    root.addHandler(screen)
    if path and is_first():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if not launched():
            Path(path).write_text("")
        file = logging.FileHandler(path, mode="a", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
        root.addHandler(file)
    root.setLevel(logging.WARNING)
    logging.getLogger("neuropictor").setLevel(logging.INFO if is_first() else logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _log_exception
    show_bars(path is None and is_first() and sys.stderr.isatty())


def _prefix(path: Path) -> str:
    parts = path.with_suffix("").parts
    start = len(parts) - parts[::-1].index("logs") if "logs" in parts else -1
    return " ".join(dict.fromkeys(parts[start:]))


def _log_exception(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Log an uncaught error with its traceback; an interruption only by name."""
    if issubclass(kind, KeyboardInterrupt):
        log.error("Interrupted.")
    else:
        log.critical("%s: %s", kind.__name__, error, exc_info=(kind, error, traceback))


class NotWrittenError(OSError):
    """A file could not be written, for want of room or of permission; the message says which and what to do."""


_CANNOT_WRITE = {
    errno.ENOSPC: "Make room",
    errno.EDQUOT: "Make room within your quota",
    errno.EFBIG: "Allow larger files (ulimit -f)",
    errno.EROFS: "Make it possible to write",
    errno.EACCES: "Make it possible to write",
    errno.EPERM: "Make it possible to write",
}


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Write a file whole or not at all.

    Yields a temporary path in the same folder, with the same suffix; when the body ends well the file is flushed to
    disk and renamed to ``path``, otherwise it is removed and ``path`` stays as it was.

    Parameters
    ----------
    path
        The final file; missing parent folders are made.

    Raises
    ------
    FileNotFoundError
        If the body wrote nothing.
    NotWrittenError
        If the disk or a quota is full, or the folder is read-only.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(path)
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask has it: some writers make files that only their owner may read
        temporary.unlink()
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except Exception as error:
        number = _system_error(error)
        if number not in _CANNOT_WRITE or isinstance(error, NotWrittenError):
            raise
        raise NotWrittenError(
            number,
            f"{path} could not be written: {os.strerror(number)}. {_CANNOT_WRITE[number]} in {path.parent}, and run"
            " again; what was there before is untouched, and trainings go on from their last checkpoint",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


def _system_error(error: BaseException) -> int | None:
    """Return the system's error number, which HDF5 and safetensors only put into their words."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = re.search(r"(?:errno = |os error )(\d+)", str(error))
    return int(found.group(1)) if found else None


def _remove_left_behind(path: Path) -> None:
    """Remove what killed processes of this machine have begun and not finished to write of a file."""
    for old in path.parent.glob(f".{path.stem}.*.partial{path.suffix}"):
        number = old.name.removeprefix(f".{path.stem}.").removesuffix(f".partial{path.suffix}")
        if number.isdigit() and not Path(f"/proc/{number}").exists() and Path("/proc/self").exists():
            with contextlib.suppress(OSError):
                old.unlink()


def record_path(out: str | Path) -> Path:
    """Return where the run record of an output file lies: ``metrics.csv`` -> ``metrics.run.json`` beside it."""
    return Path(out).with_suffix(".run.json")


class RunRecord:
    """Write ``run.json`` at the end of a stage: what was made, from what, with what, and at what cost.

    Nothing is written when the body raises, so a record tells that its stage ended well.

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
    >>> with RunRecord(out.parent / "run.json", "pretrain", config=config, inputs=[latents]) as record:
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
        outputs: Iterable[str | Path] = (),
    ):
        self.path, self.stage, self.config, self.seed = Path(path), stage, config, seed
        self.inputs, self.outputs = [Path(item) for item in inputs], list(outputs)
        self.results: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._started, self._began = datetime.now(UTC), time.monotonic()
        verify(*self.inputs)
        # Checksums first: the record names the files as the stage found them.
        self._checksums = {str(item): checksum(item) for item in self.inputs}
        return self

    def add(self, **results: Any) -> None:
        """Add what the stage found or counted; values must be writable as JSON."""
        self.results.update(results)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None or not is_first():
            return
        record = {
            "stage": self.stage,
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
    """Return the record of a job whose function keeps none: pages, figures, and what lies among NSD's own files.

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
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


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
