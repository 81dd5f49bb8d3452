"""Samples in, how many there are of each class and of each length out.

Assembly counts what it writes and verification what it reads, so that the manifest, and with it
the card's pictures, can be checked against the samples themselves.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


class SampleTally:
    """Counts of samples by label and by number of frames."""

    def __init__(self, n_classes: int | None) -> None:
        """Count nothing yet; None where there are no classes."""
        self._by_label = None if n_classes is None else np.zeros(n_classes, np.int64)
        self._by_n_frames: Counter[int] = Counter()

    def add(self, label_ids: pa.Array, lengths: Sequence[int] | npt.NDArray[Any]) -> None:
        """Count samples; those without a label, or with one of no class, have lengths alone.

        Args:
            label_ids: int64, null where there is no label.
            lengths: frames of each sample.
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
        """Samples of each class, in the order of their names; None where there are none."""
        return None if self._by_label is None else self._by_label.tolist()

    @property
    def samples_by_n_frames(self) -> dict[str, int]:
        """Samples by number of frames, as JSON has its names, in numeric order."""
        return {str(n_frames): count for n_frames, count in sorted(self._by_n_frames.items())}
