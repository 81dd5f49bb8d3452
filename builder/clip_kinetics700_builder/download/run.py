"""Keeps the state of one download: which clips are still to be got, and what came of the others.

`max_samples` means what it means in FiftyOne: clips on disk count first, then others up to that
many of each split.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, field
from difflib import get_close_matches
from threading import Lock
from typing import TypeVar

from clip_kinetics700_builder.clips.plan import order_clips
from clip_kinetics700_builder.config import DownloadConfig
from clip_kinetics700_builder.download.archive_store import Store
from clip_kinetics700_builder.sources.ledger import GOT, Attempt, Ledger
from clip_kinetics700_builder.system.outage import Patience
from clip_kinetics700_builder.system.progress import Advance
from clip_kinetics700_builder.types import Clip, InputError

Item = TypeVar("Item")

# How long to wait for what is in flight when a download is stopped.
GRACE_SECONDS = 3.0


def select_clips(
    clips: Iterable[Clip], *, classes: Sequence[str] = (), shuffle: bool = False, seed: int = 0
) -> list[Clip]:
    """Return the clips of some classes, in the order of their lists or in a random one.

    Raises:
        InputError: no clip is of a class.
    """
    clips = list(clips)
    labels = {clip.label for clip in clips if clip.label is not None}
    for name in classes:
        if name not in labels:
            near = ", ".join(get_close_matches(name, sorted(labels), n=3, cutoff=0.5)) or "none"
            raise InputError(f"no clip is of class {name!r}; near names: {near}")
    chosen = [clip for clip in clips if not classes or clip.label in classes]
    return order_clips(chosen, seed) if shuffle else chosen


class OpenClips:
    """The clips of one round that nobody has got or claimed yet."""

    def __init__(self, clips: Sequence[Clip], need: Mapping[str, float]) -> None:
        """Take clips in the order in which they are wanted, and how many each split needs."""
        self._clips = {clip.file_stem: clip for clip in clips}
        self.need = dict(need)
        """How many clips of each split are still to be got; infinity for all."""
        self._lock = Lock()

    def list_open(self) -> list[Clip]:
        """Return the clips that nobody has claimed, of splits that need more."""
        with self._lock:
            return [clip for clip in self._clips.values() if self.need[clip.split] > 0]

    def wants(self, name: str) -> bool:
        """Tell whether a clip is still wanted."""
        with self._lock:
            clip = self._clips.get(name)
            return clip is not None and self.need[clip.split] > 0

    def has(self, name: str) -> bool:
        """Tell whether nobody has claimed a clip, whether its split needs more or not."""
        with self._lock:
            return name in self._clips

    def claim(self, name: str) -> Clip | None:
        """Return a clip that the caller is to bring, or None if it is not wanted any more."""
        with self._lock:
            clip = self._clips.get(name)
            if clip is None or self.need[clip.split] <= 0:
                return None
            del self._clips[name]
            self.need[clip.split] -= 1
            return clip

    def give_back(self, clips: Iterable[Clip]) -> None:
        """Want clips again, as they could not be brought after all."""
        with self._lock:
            for clip in clips:
                self._clips[clip.file_stem] = clip
                self.need[clip.split] += 1


def count_need(
    clips: Iterable[Clip], held: Collection[str], max_samples: int | None
) -> dict[str, float]:
    """Return how many more clips each split needs beside those held; infinity for all there are."""
    clips = list(clips)
    here = Counter(clip.split for clip in clips if clip.identity in held)
    return {
        split: math.inf if max_samples is None else max(0, max_samples - here[split])
        for split in dict.fromkeys(clip.split for clip in clips)
    }


def take_first(clips: Iterable[Clip], need: Mapping[str, float]) -> list[Clip]:
    """Return as many clips of each split as it needs, the first ones."""
    left = dict(need)
    chosen = []
    for clip in clips:
        if left[clip.split] > 0:
            chosen.append(clip)
            left[clip.split] -= 1
    return chosen


@dataclass(slots=True)
class DownloadSummary:
    """What a download did and left."""

    held: int = 0
    """Clips that were on disk before."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Clips that no source had, by the last reason."""
    got: Counter[str] = field(default_factory=Counter)
    """Clips that were got, by source."""


@dataclass(slots=True)
class Download:
    """One run of the command: what is asked for, what is there, what came of it."""

    config: DownloadConfig
    store: Store
    ledger: Ledger
    patience: Patience
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
        """Tell whether to ask a source for a clip: not where it failed before, unless retried."""
        attempt = self.last.get((clip.identity, source))
        if attempt is None or attempt.outcome == GOT:
            return True
        reasons = self.config.retry_errors
        return reasons is not None and (not reasons or attempt.reason in reasons)

    def each(self, work: Callable[[Item], None], items: Iterable[Item]) -> None:
        """Do some work on each item, several at a time; the first error stops all of it."""
        threads = ThreadPoolExecutor(self.config.num_workers, "download")
        futures = [threads.submit(work, item) for item in items]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            self.store.stop.set()
            threads.shutdown(wait=False, cancel_futures=True)
            # A silent server is not waited for: what arrived is kept for the next run.
            wait(futures, GRACE_SECONDS)
            raise
        threads.shutdown()
