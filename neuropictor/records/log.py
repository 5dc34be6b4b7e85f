"""Log lines on standard error and in a file, for one process or the first of several."""

import logging
import os
import sys
from pathlib import Path
from types import TracebackType

from neuropictor.records.progress import show_bars

log = logging.getLogger(__name__)

#: Silences the bars and advice of Hugging Face's libraries, which read this on import.
_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error"}


def launched() -> bool:
    """Tell whether this is one of several processes (of torch's or accelerate's launcher)."""
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
