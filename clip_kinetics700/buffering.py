"""Rows in any order from files that are read from begin to end: a shuffle buffer known beforehand.

In: a dataset and an `Order`. Out: its samples one by one. Remote files are read in few large
ranges this way, and local ones page after page.
"""

from collections.abc import Iterator

import numpy as np

from .dataset import EmbeddingDataset
from .ordering import Order
from .schema import DamageError, Sample


def read_ordered(dataset: EmbeddingDataset, order: Order) -> Iterator[Sample | DamageError]:
    """Yield the samples of an order, damage in its place."""
    by_place = np.argsort(order.places, kind="stable")
    # Where each row that is yielded comes among those that are read.
    arrival = np.empty(len(by_place), np.int64)
    arrival[by_place] = np.arange(len(by_place))
    read = dataset.read_rows(order.rows[by_place])
    waiting: dict[int, Sample | DamageError] = {}
    n_read = 0
    for wanted in arrival.tolist():
        while n_read <= wanted:
            waiting[n_read] = next(read)
            n_read += 1
        yield waiting.pop(wanted)
