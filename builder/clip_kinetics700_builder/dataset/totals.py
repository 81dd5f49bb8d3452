"""Counts of a dataset and of its splits, as the manifest states them and the samples have them.

Assembly counts what it writes and verification what it reads, so that the manifest, and with it
the card's pictures, can be checked against the samples themselves.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clip_kinetics700.schema import REASONS


@dataclass(slots=True)
class Totals:
    """Counts of a split or of the whole dataset; `rows == samples + failures` always."""

    rows: int = 0
    samples: int = 0
    failures: int = 0
    frames: int = 0
    failures_by_reason: dict[str, int] = field(default_factory=dict)
    samples_by_label: list[int] | None = None
    """Samples of each class, in the order of the class names; None where nobody counted."""
    samples_by_n_frames: dict[str, int] | None = None
    """Samples by number of frames, in numeric order; None where nobody counted."""

    def add_failures(self, reason: str, count: int) -> None:
        """Count failed rows of one reason."""
        self.failures += count
        self.failures_by_reason[reason] = self.failures_by_reason.get(reason, 0) + count

    def document(self) -> dict[str, Any]:
        """Return the counts as the manifest holds them, without those that are not known."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in values.items() if value is not None}

    def find_contradictions(self, name: str) -> Iterator[str]:
        """Yield what does not add up in these counts, which messages call by this name."""
        if self.rows != self.samples + self.failures:
            yield (
                f"{name}: {self.rows} rows are not {self.samples} samples "
                f"and {self.failures} failures"
            )
        if self.failures != sum(self.failures_by_reason.values()):
            yield f"{name}: {self.failures} failures are not the sum of failures_by_reason"
        for reason in sorted(self.failures_by_reason.keys() - {*REASONS}):
            yield f"{name}: unknown reason {reason!r}, allowed are {', '.join(REASONS)}"


def add_totals(splits: Mapping[str, Totals]) -> Totals:
    """Return the sum over splits."""
    whole = Totals()
    for totals in splits.values():
        whole.rows += totals.rows
        whole.samples += totals.samples
        whole.frames += totals.frames
        for reason, count in totals.failures_by_reason.items():
            whole.add_failures(reason, count)
    whole.samples_by_label = _add_lists([totals.samples_by_label for totals in splits.values()])
    whole.samples_by_n_frames = _add_counts(
        [totals.samples_by_n_frames for totals in splits.values()]
    )
    return whole


def _add_lists(lists: Sequence[list[int] | None]) -> list[int] | None:
    """Return the sum by place, or None where one of them is not known."""
    known = [numbers for numbers in lists if numbers is not None]
    lengths = {len(numbers) for numbers in known}
    if not known or len(known) < len(lists) or len(lengths) > 1:
        return None
    return [sum(numbers) for numbers in zip(*known, strict=True)]


def _add_counts(counts: Sequence[dict[str, int] | None]) -> dict[str, int] | None:
    """Return the sum by name, in numeric order, or None where one of them is not known."""
    known = [count for count in counts if count is not None]
    if not known or len(known) < len(counts):
        return None
    whole = sum(map(Counter, known), Counter[str]())
    return {name: whole[name] for name in sorted(whole, key=int)}


class SampleTally:
    """Counts samples by label and by number of frames."""

    def __init__(self, n_classes: int | None) -> None:
        """Count nothing yet; None stands for a dataset without classes."""
        self._by_label = None if n_classes is None else np.zeros(n_classes, np.int64)
        self._by_n_frames: Counter[int] = Counter()

    def add(self, label_ids: pa.Array, lengths: Sequence[int] | npt.NDArray[Any]) -> None:
        """Count samples; those whose label is missing or of no class count by length alone.

        Args:
            label_ids: (n_samples,) int64, null where a sample has no label.
            lengths: (n_samples,) integers, the frames of each sample.
        """
        if self._by_label is not None:
            labels = label_ids.drop_null().to_numpy()
            known = labels[(labels >= 0) & (labels < len(self._by_label))]
            self._by_label += np.bincount(known, minlength=len(self._by_label))
        n_frames, counts = np.unique(np.asarray(lengths, np.int64), return_counts=True)
        self._by_n_frames.update(dict(zip(n_frames.tolist(), counts.tolist(), strict=True)))

    @property
    def frames(self) -> int:
        """Frames of all samples."""
        return sum(n_frames * count for n_frames, count in self._by_n_frames.items())

    @property
    def samples_by_label(self) -> list[int] | None:
        """Samples of each class, in the order of the class names; None without classes."""
        return None if self._by_label is None else self._by_label.tolist()

    @property
    def samples_by_n_frames(self) -> dict[str, int]:
        """Samples by number of frames, in numeric order, named as JSON names them."""
        return {str(n_frames): count for n_frames, count in sorted(self._by_n_frames.items())}
