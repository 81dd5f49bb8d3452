"""Progress of long work: a bar with rate and remaining time, or plain lines.

In: a total and steps. Out: what a person at a terminal, or a log file, wants to see.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0


class RateColumn(ProgressColumn):
    """Steps a second."""

    def __init__(self, unit: str) -> None:
        """Name what is counted."""
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Return the mean rate since the begin: batches make that of the last second jump."""
        if not task.elapsed or not task.completed:
            return Text("")
        return Text(f"{task.completed / task.elapsed:.1f} {self._unit}/s")


@contextmanager
def track_progress(
    description: str, total: int, *, unit: str, quiet: bool = False
) -> Iterator[Callable[[int], None]]:
    """Yield the function to call with the number of steps just done."""
    if quiet or total == 0:
        yield lambda _: None
    elif sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            RateColumn(unit),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(description, total=total)
            yield lambda steps: progress.advance(task, steps)
    else:
        yield _line_printer(description, total, unit)


def _line_printer(description: str, total: int, unit: str) -> Callable[[int], None]:
    begin = last_line = time.monotonic()
    done = 0

    def advance(steps: int) -> None:
        nonlocal done, last_line
        done += steps
        now = time.monotonic()
        if done < total and now - last_line < SECONDS_BETWEEN_LINES:
            return
        last_line = now
        rate = done / max(now - begin, 1e-9)
        left = (total - done) / rate if rate else 0.0
        log.info(
            "%s: %d of %d %s, %.1f %s/s, %.0f s left",
            description,
            done,
            total,
            unit,
            rate,
            unit,
            left,
        )

    return advance
