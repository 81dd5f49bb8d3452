"""Decides who reads what: the order of an epoch, the share of each rank, what is left of it."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from clip_kinetics700.index import IntArray

Even: TypeAlias = Literal["pad", "drop"] | None


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """The order in which one rank yields its rows in one epoch, and that in which it reads them."""

    rows: IntArray
    """(n,) int64 rows of the index in the order they are yielded."""
    places: IntArray
    """(n,) int64 place of each row when files are read from start to end, one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordering:
    """How an epoch is ordered and shared; `batches` says what each option means."""

    batch_size: int
    shuffle: bool
    seed: int
    buffer_size: int
    drop_last: bool
    even: Even

    def order_rank(
        self, rows: IntArray, *, epoch: int, stage: int, rank: int, world_size: int
    ) -> Order:
        """Return one rank's order of (n,) int64 rows that all ranks share.

        A stage is what ranks of one number share; an epoch has a second one where it goes on with
        another number of them.
        """
        share = share_places(len(rows), rank=rank, world_size=world_size, even=self.even)
        # A place beyond the rows of all ranks starts again at the first row.
        mine = rows.take(np.arange(share.start, share.stop), mode="wrap") if share else rows[:0]
        if not self.shuffle:
            return Order(mine, np.arange(len(mine)))
        seed = (self.seed, epoch, rank, stage)[: 4 if stage else 3]
        return shuffle_within(mine, buffer_size=self.buffer_size, seed=seed)

    def count_batches(self, n_rows: int, *, rank: int, world_size: int) -> int:
        """Count the batches of one rank in an epoch of so many rows."""
        n_mine = len(share_places(n_rows, rank=rank, world_size=world_size, even=self.even))
        return n_mine // self.batch_size if self.drop_last else math.ceil(n_mine / self.batch_size)

    def warn_of_uneven_ranks(self, n_rows: int, *, world_size: int) -> None:
        """Warn where ranks that step together would wait for a batch that one of them has not."""
        most = self.count_batches(n_rows, rank=0, world_size=world_size)
        fewest = self.count_batches(n_rows, rank=world_size - 1, world_size=world_size)
        if most != fewest:
            warnings.warn(
                f"of {world_size} ranks some have {most} batches and some {fewest}: a loop whose "
                "ranks step together waits for ever; `even` pads or drops samples",
                stacklevel=2,
            )

    def rows_left(
        self, rows: IntArray, taken: Sequence[int], *, epoch: int, stage: int
    ) -> IntArray:
        """Return the (n,) int64 rows, in order, that no rank's taken batches hold.

        Args:
            rows: (n,) int64 rows that the ranks shared.
            taken: how many batches each rank has taken.
            epoch: it decides the order, as `stage` does.
            stage: 0, or how often the number of ranks has changed in this epoch.
        """
        world_size = len(taken)
        is_left = np.ones(len(rows), np.bool_)
        for rank, n_batches in enumerate(taken):
            share = share_places(len(rows), rank=rank, world_size=world_size, even=self.even)
            order = self.order_rank(
                rows, epoch=epoch, stage=stage, rank=rank, world_size=world_size
            )
            places = share.start + order.places[: n_batches * self.batch_size]
            is_left[places[places < len(rows)]] = False
        if self.even == "drop":
            is_left[len(rows) - len(rows) % world_size :] = False
        return rows[is_left]


def order_epoch(rows: IntArray, files: npt.NDArray[np.int32], *, seed: tuple[int, ...]) -> IntArray:
    """Return (n,) int64 rows, at least one, file by file, the files in a random order."""
    place_of_file = np.random.default_rng(seed).permutation(int(files.max()) + 1)
    return rows[np.argsort(place_of_file[files], kind="stable")]


def share_places(n_rows: int, *, rank: int, world_size: int, even: Even) -> range:
    """Return which places are one rank's: neighbours, so that ranks read different files.

    A place beyond the rows of all ranks starts again at the first row. `even` as for `batches`:
    without it some ranks have one row more than others.
    """
    fewest, rest = divmod(n_rows, world_size)
    if even is None:
        begin = rank * fewest + min(rank, rest)
        return range(begin, begin + fewest + (rank < rest))
    size = fewest + (even == "pad" and rest > 0)
    return range(rank * size, (rank + 1) * size)


def shuffle_within(rows: IntArray, *, buffer_size: int, seed: tuple[int, ...]) -> Order:
    """Return (n,) int64 rows mixed as a shuffle buffer mixes a stream.

    Each row is moved back by a random number of places up to `buffer_size`, so whoever reads
    files from start to end holds about half as many rows at a time.
    """
    delays = np.random.default_rng(seed).uniform(0, buffer_size, len(rows))
    places = np.argsort(np.arange(len(rows)) + delays, kind="stable")
    return Order(rows[places], places)


Item = TypeVar("Item")


def read_ordered(order: Order, read: Callable[[IntArray], Iterator[Item]]) -> Iterator[Item]:
    """Yield the rows of an order, each held back from when it is read until it is its turn."""
    by_place = np.argsort(order.places, kind="stable")
    # The number of rows that are read before each row that is yielded.
    arrival = np.empty(len(by_place), np.int64)
    arrival[by_place] = np.arange(len(by_place))
    rows = read(order.rows[by_place])
    waiting: dict[int, Item] = {}
    n_read = 0
    for wanted in arrival.tolist():
        while n_read <= wanted:
            waiting[n_read] = next(rows)
            n_read += 1
        yield waiting.pop(wanted)
