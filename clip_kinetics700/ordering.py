"""In which order an epoch reads which rows: shards and rows shuffled, shared among ranks. Pure.

In: rows, the file of each, a seed and an epoch. Out: an `Order`. It is the same whatever workers
read it, so that a run can be resumed at its exact next sample.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .index import IntArray

Even: TypeAlias = Literal["pad", "drop"] | None


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """Rows of one rank in one epoch, and in which order files hold them."""

    rows: IntArray
    """(n,) rows of the index in the order they are yielded."""
    places: IntArray
    """(n,) where each comes when files are read from begin to end, one after the other."""


def order_epoch(rows: IntArray, files: npt.NDArray[np.int32], *, seed: tuple[int, ...]) -> IntArray:
    """Return the rows file by file, the files in a random order.

    Args:
        rows: (n,) rows of the index, at least one.
        files: (n,) number of the file of each.
        seed: of that order.
    """
    place_of_file = np.random.default_rng(seed).permutation(int(files.max()) + 1)
    return rows[np.argsort(place_of_file[files], kind="stable")]


def share_places(n_rows: int, *, rank: int, world_size: int, even: Even) -> range:
    """Return which places are one rank's: neighbours, so that ranks read different files.

    Args:
        n_rows: of all ranks; places beyond them are those of the begin again.
        rank: from 0 to `world_size - 1`.
        world_size: how many ranks there are.
        even: None gives each row to exactly one rank, and some ranks one row more than others;
            `pad` repeats rows until all ranks have as many; `drop` leaves out the last ones.
    """
    fewest, rest = divmod(n_rows, world_size)
    if even is None:
        begin = rank * fewest + min(rank, rest)
        return range(begin, begin + fewest + (rank < rest))
    size = fewest + (even == "pad" and rest > 0)
    return range(rank * size, (rank + 1) * size)


def shuffle_within(rows: IntArray, *, buffer_size: int, seed: tuple[int, ...]) -> Order:
    """Return rows mixed as a shuffle buffer mixes a stream, without holding more than it does.

    Each row is moved back by a random number of places up to `buffer_size`, so whoever reads
    files from begin to end holds about half as many rows at a time.
    """
    delays = np.random.default_rng(seed).uniform(0, buffer_size, len(rows))
    places = np.argsort(np.arange(len(rows)) + delays, kind="stable")
    return Order(rows[places], places)
