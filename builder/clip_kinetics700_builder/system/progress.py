"""Shows how far long work has come: a bar with rate and remaining time, or plain lines in a log.

Whoever does long work takes a `Progress`, so that it needs to know nothing of terminals.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Protocol, TypeAlias

import rich.progress
from rich.console import Console
from rich.text import Text

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0

Advance: TypeAlias = Callable[[int], None]
"""Takes the number of steps just done."""


class Progress(Protocol):
    """Opens a block of long work and shows how far it has come."""

    def __call__(self, description: str, total: int, unit: str) -> AbstractContextManager[Advance]:
        """Return the block: `total` steps, each called a `unit`."""
        ...


class RateColumn(rich.progress.ProgressColumn):
    """Shows the steps a second."""

    def __init__(self, unit: str) -> None:
        """Name what is counted."""
        super().__init__()
        self._unit = unit

    def render(self, task: rich.progress.Task) -> Text:
        """Return the mean rate since the start: batches make that of the last second jump."""
        if not task.elapsed or not task.completed:
            return Text("")
        return Text(f"{task.completed / task.elapsed:.1f} {self._unit}/s")


@contextmanager
def track_progress(
    description: str, total: int, unit: str, *, quiet: bool = False
) -> Iterator[Advance]:
    """Yield the function to call with the number of steps just done."""
    console = Console(stderr=True)
    if quiet or total == 0:
        yield lambda _: None
    elif console.is_terminal or console.is_jupyter:
        columns = (
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            RateColumn(unit),
            rich.progress.TimeRemainingColumn(),
        )
        with rich.progress.Progress(*columns, console=console) as bars:
            task = bars.add_task(description, total=total)
            yield lambda steps: bars.advance(task, steps)
    else:
        yield _line_printer(description, total, unit)


no_progress: Progress = partial(track_progress, quiet=True)
"""Shows nothing."""


def _line_printer(description: str, total: int, unit: str) -> Advance:
    start = last_line = time.monotonic()
    done = 0

    def advance(steps: int) -> None:
        nonlocal done, last_line
        done += steps
        now = time.monotonic()
        if done < total and now - last_line < SECONDS_BETWEEN_LINES:
            return
        last_line = now
        rate = done / max(now - start, 1e-9)
        left = (total - done) / rate if rate else 0.0
        counts = f"{done} of {total} {unit}, {rate:.1f} {unit}/s"
        log.info("%s: %s, %.0f s left", description, counts, left)

    return advance
