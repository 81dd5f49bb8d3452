"""One run of a download: what is asked for, what is on record, what came of it, and its threads."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, field
from typing import TypeVar

from builder.archive_files import Store
from builder.config import DownloadConfig
from builder.ledger import GOT, Attempt, Ledger
from builder.types import Clip

Item = TypeVar("Item")
Advance = Callable[[int], None]

# For what is in flight when a run is stopped.
GRACE_SECONDS = 3.0


@dataclass(slots=True)
class DownloadSummary:
    """What a run did and left."""

    held: int = 0
    """Clips that were on disk before."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Clips that no source had, by the last reason."""
    got: Counter[str] = field(default_factory=Counter)
    """Clips that were got, by source."""


@dataclass(slots=True)
class Download:
    """A run: what is asked for, what is there, what came of it."""

    config: DownloadConfig
    clips: list[Clip]
    """Those that may be got, in order."""
    store: Store
    ledger: Ledger
    last: dict[tuple[str, str], Attempt]
    """The last attempt by identity and source, of earlier runs and of this one."""
    summary: DownloadSummary = field(default_factory=DownloadSummary)
    fresh: set[tuple[str, str]] = field(default_factory=set)
    """Identity and source of the attempts of this run."""
    advance: Advance = lambda _: None

    def write(self, attempts: Sequence[Attempt]) -> None:
        """Put attempts on record."""
        self.ledger.write(attempts)
        for attempt in attempts:
            self.last[attempt.identity, attempt.source] = attempt
            self.fresh.add((attempt.identity, attempt.source))
            if attempt.outcome == GOT:
                self.summary.got[attempt.source] += 1
        self.advance(sum(attempt.outcome == GOT for attempt in attempts))

    def may_try(self, clip: Clip, source: str) -> bool:
        """Tell whether a source is to be asked for a clip: not where it failed, unless retried."""
        attempt = self.last.get((clip.identity, source))
        if attempt is None or attempt.outcome == GOT:
            return True
        reasons = self.config.retry_errors
        return reasons is not None and (not reasons or attempt.reason in reasons)

    def each(self, work: Callable[[Item], None], items: Iterable[Item]) -> None:
        """Do some work on each item, several at a time; whatever is raised ends it all."""
        threads = ThreadPoolExecutor(self.config.num_workers, "download")
        futures = [threads.submit(work, item) for item in items]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            self.store.stop.set()
            threads.shutdown(wait=False, cancel_futures=True)
            # Not for a silent server: what arrived is kept, and gone on with in the next run.
            wait(futures, GRACE_SECONDS)
            raise
        threads.shutdown()
