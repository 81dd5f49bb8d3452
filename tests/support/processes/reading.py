"""What another process does with a dataset; it loads this module and none of a test's."""

from collections.abc import Sequence
from typing import Any

from clip_kinetics700.dataset import EmbeddingDataset


def put_samples(queue: Any, dataset: EmbeddingDataset, rows: Sequence[int]) -> None:
    """Read samples in another process."""
    queue.put([dataset[row] for row in rows])
