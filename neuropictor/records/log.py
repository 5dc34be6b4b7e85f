"""Log lines on standard error and in a file, for one process or the first of several."""

import logging
import os
import re
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from neuropictor.records.progress import show_bars

log = logging.getLogger(__name__)

#: Silences the bars and advice of Hugging Face's libraries, which read this on import.
_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error"}
#: Errors whose message tells what is wrong, and where; all others are faults of the program.
EXPLAINED = (ValueError, OSError, RuntimeError, MemoryError)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def launched() -> bool:
    """Tell whether this is one of several processes (of torch's or accelerate's launcher)."""
    return "RANK" in os.environ


def is_first() -> bool:
    """Tell whether this is the process that writes files: the only one, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def process_share() -> tuple[int, int]:
    """Return this process's number and how many there are: ``(0, 1)`` for one alone."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


class _Lines(logging.Formatter):
    """Lines whose control characters, which servers and names of files may bring in, command no terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return _CONTROL.sub(lambda found: repr(found[0])[1:-1], super().format(record))


class _Messages(_Lines):
    """Lines for people: what is wrong with files or settings needs no traceback."""

    def formatException(self, ei: Any) -> str:
        return "" if issubclass(ei[0], EXPLAINED) else super().formatException(ei)


def start_log(path: str | Path | None = None, prefix: str | None = None, debug: bool = False) -> None:
    """Send log messages, warnings and uncaught errors to standard error and, where given, to a file.

    Tracebacks of `EXPLAINED` errors are written to the file alone.

    Parameters
    ----------
    path
        Log file, started anew; progress is then written as lines, since several jobs may share one terminal.
        ``None``: standard error only, with progress drawn as a bar if that is a terminal.
    prefix
        Put before each line on standard error; default: from ``path`` (``logs/refine/sub-01.log``: ``refine sub-01``).
    debug
        Show these tracebacks, too.
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
    kind = _Lines if debug else _Messages
    screen.setFormatter(kind(f"[{prefix}] %(message)s" if prefix else "%(message)s"))
    root.addHandler(screen)
    if path and is_first():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if not launched():
            Path(path).write_text("")
        file = logging.FileHandler(path, mode="a", encoding="utf-8")
        file.setFormatter(_Lines("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
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
    """Log an uncaught error; an interruption only by name."""
    if issubclass(kind, KeyboardInterrupt):
        log.error("Interrupted.")
    else:
        explained = issubclass(kind, EXPLAINED) and str(error)
        text = str(error) if explained else f"{kind.__name__}: {error}"
        log.critical("%s", text, exc_info=(kind, error, traceback))
