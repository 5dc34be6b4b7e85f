"""What a run leaves behind: log lines, progress with time left, whole files, and a record of how each was made.

Standard library only, apart from ``rich`` for the bar on a terminal; torch is asked for its peak memory only if loaded.
"""

import contextlib
import hashlib
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

log = logging.getLogger(__name__)

#: Seconds between two progress lines where no bar can be drawn.
LINE_INTERVAL = 10.0
#: Bytes above which a file is identified by size, head and tail: hashing all of NSD's pictures would take minutes.
WHOLE_HASH_LIMIT = 4 * 2**30
_EDGE = 16 * 2**20
#: Hugging Face's libraries draw bars and print advice of their own, read when they are imported.
_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error"}
_state = {"bar": False}


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
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(path, mode="w", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
        root.addHandler(file)
    root.setLevel(logging.WARNING)
    logging.getLogger("neuropictor").setLevel(logging.INFO)
    logging.captureWarnings(True)
    sys.excepthook = _log_exception
    _state["bar"] = path is None and sys.stderr.isatty()


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
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    temporary.touch()
    mode = temporary.stat().st_mode  # as the umask has it: some writers make files that only their owner may read
    temporary.unlink()
    try:
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
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def record_path(out: str | Path) -> Path:
    """Return where the run record of an output file lies: ``metrics.csv`` -> ``metrics.run.json`` beside it."""
    return Path(out).with_suffix(".run.json")


class Progress:
    """A running count with time left; made by `progress`.

    Use as an iterable, or as a context manager with `advance`.
    """

    def __init__(self, items: Iterable[Any] | None, total: int | None, description: str, start: int, unit: str):
        self.items, self.total, self.description, self.unit = items, total, description, unit
        self.start = self.done = start
        self.values: dict[str, float] = {}
        self._began = self._last_line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        self._began = self._last_line = time.monotonic()
        if _state["bar"]:
            self._open_bar()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        if kind is None:
            seconds = time.monotonic() - self._began
            log.info("%s: %s in %s%s", self.description, self._count(), duration(seconds), self._shown())
        else:
            log.info("%s: stopped at %s", self.description, self._count())

    def __iter__(self) -> Iterator[Any]:
        if self.items is None:
            raise TypeError(
                f"progress {self.description!r} was given a number of steps, not things to go through; use advance()"
            )
        with self:
            for item in self.items:
                yield item
                self.advance()

    def advance(self, count: int = 1, **values: float) -> None:
        """Count `count` more as done, and show `values` (losses, rates) beside the time left."""
        self.done += count
        self.values.update(values)
        if self._bar:
            self._bar.update(self._task, completed=self.done, values=self._shown())
        elif self.done != self.total and time.monotonic() - self._last_line >= LINE_INTERVAL:
            self._last_line = time.monotonic()
            log.info("%s: %s, %s%s", self.description, self._count(), self._left(), self._shown())

    def seconds_left(self) -> float | None:
        """Return the seconds left at the mean rate so far, or None while that is unknown."""
        gone, made = time.monotonic() - self._began, self.done - self.start
        if self.total is None or made <= 0:
            return None
        return max(0.0, gone / made * (self.total - self.done))

    def _count(self) -> str:
        unit = f" {self.unit}{'es' if self.unit.endswith(('ch', 's')) else 's'}" if self.unit else ""
        if self.total is None:
            return f"{self.done:,}{unit}"
        share = 100 * self.done // max(self.total, 1)
        return f"{self.done:,} of {self.total:,}{unit} ({share} %)"

    def _left(self) -> str:
        left = self.seconds_left()
        return "time left unknown" if left is None else f"{duration(left)} left"

    def _shown(self) -> str:
        return "".join(f", {name} {value:.4g}" for name, value in self.values.items())

    def _open_bar(self) -> None:
        from rich import progress as rich_progress
        from rich.console import Console

        shown = (rich_progress.MofNCompleteColumn(), rich_progress.TextColumn("left{task.fields[values]}"))
        columns = (*rich_progress.Progress.get_default_columns(), *shown)
        self._bar = rich_progress.Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(self.description, total=self.total, completed=self.done, values="")
        self._bar.start()


def progress(
    items: Iterable[Any] | int, description: str, *, total: int | None = None, start: int = 0, unit: str = ""
) -> Progress:
    """Report progress with time left: a bar on a terminal, else a log line every ten seconds at most.

    Parameters
    ----------
    items
        Things to go through (``for item in progress(items, ...)``), or a number of steps
        (``with progress(3000, ...) as bar: bar.advance()``).
    description
        What is being done, e.g. ``"Encoding pictures"``.
    total
        Number of things; default: ``len(items)`` where it has one.
    start
        Number already done, for work that was resumed.
    unit
        One thing's name in the singular, e.g. ``"step"``.
    """
    if isinstance(items, int):
        return Progress(None, items, description, start, unit)
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    return Progress(items, total, description, start, unit)


def duration(seconds: float) -> str:
    """Write a time span for people: ``8 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def checksum(path: str | Path) -> str:
    """Return ``sha256:...`` of a file or folder; above 4 GiB ``sha256-edges:...`` of its size, head and tail.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    """
    path = Path(path)
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(item for item in path.rglob("*") if item.is_file()):
            digest.update(f"{file.relative_to(path)} {checksum(file)}\n".encode())
        return f"sha256:{digest.hexdigest()}"
    size = path.stat().st_size
    with open(path, "rb") as file:
        if size <= WHOLE_HASH_LIMIT:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        digest.update(f"{size}".encode() + file.read(_EDGE))
        file.seek(-_EDGE, os.SEEK_END)
        digest.update(file.read())
    return f"sha256-edges:{digest.hexdigest()}"


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
        Files read; each is recorded with its checksum.

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
    ):
        self.path, self.stage, self.config, self.seed = Path(path), stage, config, seed
        self.inputs = [Path(item) for item in inputs]
        self.results: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._started, self._began = datetime.now(UTC), time.monotonic()
        # Checksums first: the record names the files as the stage found them.
        self._checksums = {str(item): checksum(item) for item in self.inputs}
        return self

    def add(self, **results: Any) -> None:
        """Add what the stage found or counted; values must be writable as JSON."""
        self.results.update(results)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        record = {
            "stage": self.stage,
            "results": self.results,
            "config": _plain(self.config),
            "seed": self.seed,
            "inputs": self._checksums,
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
    """Return the GPU's name and peak memory where a stage has used one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return {"gpu": torch.cuda.get_device_name(), "peak_memory_mib": round(torch.cuda.max_memory_allocated() / 2**20)}
