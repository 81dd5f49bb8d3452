"""These counters learn of a dataset while its samples pass by.

Two of them grow: the search for duplicates by 200 bytes a sample, 130 MB for all of Kinetics-700,
and the lengths of frames by 4 bytes a frame, 26 MB.
"""

import hashlib
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clip_kinetics700_builder.system.files import make_printable
from clip_kinetics700_builder.types import Float32Array

MAX_CLASSES = 10_000


def describe_counts(counts: Counter[int]) -> dict[str, Any] | None:
    """Return minimum, median, mean and maximum of counted numbers; None where there are none."""
    total = counts.total()
    if not total:
        return None
    values = sorted(counts)
    return {
        "min": values[0],
        "median": float(statistics.median(counts.elements())),
        "mean": sum(value * counts[value] for value in values) / total,
        "max": values[-1],
        "counts": {str(value): counts[value] for value in values},
    }


def describe_norms(norms: Sequence[Float32Array]) -> dict[str, float] | None:
    """Return minimum, median, mean and maximum of (n,) float32 arrays; None where all are empty."""
    found = np.concatenate([np.empty(0, np.float32), *norms])
    if not len(found):
        return None
    mean = found.mean(dtype=np.float64)
    extremes = {"min": found.min(), "median": np.median(found), "mean": mean, "max": found.max()}
    return {name: float(number) for name, number in extremes.items()}


@dataclass(slots=True)
class Classes:
    """How many samples each class has, as long as there are not too many to be classes."""

    counts: Counter[str] = field(default_factory=Counter)
    n_missing: int = 0
    is_complete: bool = True
    """False where there are more than 10,000 different captions: free text, not classes."""

    def add(self, name: str) -> None:
        """Count one sample's class, empty where it has none."""
        if not name:
            self.n_missing += 1
        elif name in self.counts or len(self.counts) < MAX_CLASSES:
            self.counts[name] += 1
        else:
            self.is_complete = False


@dataclass(slots=True)
class Oddity:
    """How many samples are odd in one way, and which was the first."""

    count: int = 0
    first: str | None = None

    def add(self, name: str, count: int = 1) -> None:
        """Count samples, the first of which has that name."""
        if count:
            self.count += count
            self.first = make_printable(name) if self.first is None else self.first


class SeenNames:
    """Finds names that come again, by 64 bits of their hashes, kept apart by group."""

    def __init__(self) -> None:
        self.again = Oddity()
        """Names that came before in their group."""
        self.elsewhere = Oddity()
        """Names that came before in another group."""
        self._seen: dict[str, set[bytes]] = {}

    def add(self, name: str, group: str) -> None:
        """Take in a name."""
        data = name.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(data, digest_size=8).digest()
        seen = self._seen.setdefault(group, set())
        if digest in seen:
            self.again.add(name)
        seen.add(digest)
        if any(digest in others for others in self._seen.values() if others is not seen):
            self.elsewhere.add(name)
