"""These counters of bounded size learn of a dataset while its samples pass by.

Only the search for duplicates grows: by 200 bytes a sample, 130 MB for the whole of Kinetics-700.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from clip_kinetics700_builder.system.files import make_printable

Float32Array: TypeAlias = npt.NDArray[np.float32]

MAX_CLASSES = 10_000
# A histogram by the upper bits of float32: twelve of 23 bits of fraction fall away, so a bin is
# 1/2048 of its value wide. There are 2^19 bins of numbers that are not negative.
DROPPED_BITS = 12
N_BINS = 1 << (31 - DROPPED_BITS)


def describe_counts(counts: Counter[int]) -> dict[str, Any] | None:
    """Return minimum, median, mean and maximum of counted numbers; None where there are none."""
    total = counts.total()
    if not total:
        return None
    values = sorted(counts)
    ends = np.cumsum([counts[value] for value in values])
    middle = [
        values[int(np.searchsorted(ends, n, side="right"))] for n in ((total - 1) // 2, total // 2)
    ]
    return {
        "min": values[0],
        "median": sum(middle) / 2,
        "mean": sum(value * counts[value] for value in values) / total,
        "max": values[-1],
        "counts": {str(value): counts[value] for value in values},
    }


class Norms:
    """Lengths of frames: minimum, mean and maximum exactly, the median to 1/2048 of its value."""

    def __init__(self) -> None:
        """Count nothing yet."""
        self._histogram = np.zeros(N_BINS, np.int64)
        self._count = 0
        self._sum = 0.0
        self._min, self._max = np.inf, 0.0

    def add(self, norms: Float32Array) -> None:
        """Take (n,) float32 norms in, all finite."""
        if not len(norms):
            return
        self._count += len(norms)
        self._sum += float(norms.sum(dtype=np.float64))
        self._min = min(self._min, float(norms.min()))
        self._max = max(self._max, float(norms.max()))
        np.add.at(self._histogram, norms.view(np.uint32) >> DROPPED_BITS, 1)

    def describe(self) -> dict[str, float] | None:
        """Return minimum, median, mean and maximum; None where there are no frames."""
        if not self._count:
            return None
        number = int(np.searchsorted(np.cumsum(self._histogram), (self._count + 1) // 2))
        # The middle of the bin, but no more extreme than what was seen.
        bits = np.uint32((number << DROPPED_BITS) | (1 << (DROPPED_BITS - 1)))
        median = min(max(float(bits.view(np.float32)), self._min), self._max)
        mean = self._sum / self._count
        return {"min": self._min, "median": median, "mean": mean, "max": self._max}


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
        """Have seen none."""
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
