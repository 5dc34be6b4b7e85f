"""Progress and time left: a bar on a terminal, otherwise lines."""

import logging
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, Self

log = logging.getLogger(__name__)

#: Seconds between two lines where no bar can be drawn.
LINE_INTERVAL = 10.0
_state = {"bar": False}


def show_bars(shown: bool) -> None:
    """Choose between bars and lines, from now on."""
    _state["bar"] = shown


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
        Items to iterate over (``for item in progress(items, ...)``), or a number of steps
        (``with progress(3000, ...) as bar: bar.advance()``).
    description
        Of the work, e.g. ``"Encoding images"``.
    total
        Number of items; default: ``len(items)`` where it has one.
    start
        Number already done, for work that was resumed.
    unit
        Name of one item in the singular, e.g. ``"step"``.
    """
    if isinstance(items, int):
        return Progress(None, items, description, start, unit)
    if total is None and isinstance(items, Sized):
        total = len(items)
    return Progress(items, total, description, start, unit)


def duration(seconds: float) -> str:
    """Write a time span for people: ``8 s``, ``3 min 20 s``, ``2 h 5 min``."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60} min"
