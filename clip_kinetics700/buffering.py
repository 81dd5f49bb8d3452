"""Rows in any order from files that are read from begin to end: a shuffle buffer known beforehand.

In: an `Order`, and what reads rows. Out: what it reads, in that order. Remote files are read in few
large ranges this way, and local ones page after page.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from .index import IntArray
from .ordering import Order

Row = TypeVar("Row")


def read_ordered(order: Order, read: Callable[[IntArray], Iterator[Row]]) -> Iterator[Row]:
    """Yield the rows of an order, held back from when they are read until it is their turn."""
    by_place = np.argsort(order.places, kind="stable")
    # Where each row that is yielded comes among those that are read.
    arrival = np.empty(len(by_place), np.int64)
    arrival[by_place] = np.arange(len(by_place))
    rows = read(order.rows[by_place])
    waiting: dict[int, Row] = {}
    n_read = 0
    for wanted in arrival.tolist():
        while n_read <= wanted:
            waiting[n_read] = next(rows)
            n_read += 1
        yield waiting.pop(wanted)
