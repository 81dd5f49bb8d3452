"""Gives the padded batches of an epoch to any number of workers and ranks.

Every sample comes once an epoch, in an order that can be resumed at the exact next sample.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import IterableDataset, get_worker_info

from clip_kinetics700.damage import DamageError, OnError, keep_whole
from clip_kinetics700.dataset import EmbeddingDataset, open_dataset
from clip_kinetics700.index import IntArray
from clip_kinetics700.layout import Source
from clip_kinetics700.training.collate import (
    NO_LABEL,
    Batch,
    BatchRow,
    Dtype,
    FramePolicy,
    cut_frames,
    make_batch,
)

Even: TypeAlias = Literal["pad", "drop"] | None


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """The order in which one rank yields its rows in one epoch, and that in which it reads them."""

    rows: IntArray
    """(n,) int64 rows of the index in the order they are yielded."""
    places: IntArray
    """(n,) int64 place of each row when files are read from start to end, one after the other."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """How a dataset becomes batches; `batches` says what each option means."""

    batch_size: int
    shuffle: bool
    seed: int
    buffer_size: int
    dtype: Dtype
    max_frames: int | None
    frame_policy: FramePolicy
    drop_last: bool
    even: Even
    rank: int
    world_size: int

    def __post_init__(self) -> None:
        for name, allowed in (
            ("dtype", get_args(Dtype)),
            ("frame_policy", get_args(FramePolicy)),
            ("even", ("pad", "drop", None)),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; allowed are {', '.join(map(str, allowed))}")
        for name in ("batch_size", "buffer_size", "max_frames", "world_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} is none of a world of {self.world_size}")


def batches(
    source: Source | EmbeddingDataset,
    split: str | Sequence[str] | None = "train",
    *,
    classes: Sequence[str] | None = None,
    max_samples: int | None = None,
    batch_size: int = 64,
    shuffle: bool = False,
    seed: int = 0,
    buffer_size: int = 10_000,
    dtype: Dtype = "float32",
    max_frames: int | None = None,
    frame_policy: FramePolicy = "truncate",
    drop_last: bool = False,
    even: Even = None,
    rank: int | None = None,
    world_size: int | None = None,
    on_error: OnError = "raise",
) -> "Batches":
    """Return the padded batches of a split, to iterate over or to give to a DataLoader.

    In a DataLoader: `DataLoader(batches(...), batch_size=None, num_workers=2)`; torchdata's
    StatefulDataLoader resumes there. Without workers, this itself has `state_dict`.

    Args:
        source: whatever `open` takes, or a dataset that it has opened.
        split: `train`, `validation`, `test` or another word for one, or several; None is all.
        classes: names of classes, as the captions have them; None is all.
        max_samples: at most so many of each split, the first ones.
        batch_size: samples in a batch; the last one may hold fewer.
        shuffle: another order each epoch: files shuffled, and rows over `buffer_size` places.
        seed: changes that order, and random windows.
        buffer_size: rows over which they are mixed, as in a shuffle buffer.
        dtype: dtype of the embeddings; float16 is what is stored.
        max_frames: longer samples are cut to so many frames; None cuts none.
        frame_policy: which frames of a longer sample: the first ones (`truncate`), the middles of
            equal pieces (`uniform`), or a window at a random place (`random`).
        drop_last: leave out a last batch of fewer samples.
        even: for ranks that step together: `pad` repeats samples until all ranks have as many,
            `drop` leaves out the last ones, None reads every sample exactly once.
        rank: this process's; None asks torch.distributed, and is 0 without it.
        world_size: how many ranks there are; None asks torch.distributed, and is 1 without it.
        on_error: `raise` damage, or `skip` it with a warning; an opened dataset has its own.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: there is no such split or class, or an option is wrong.
    """
    if not isinstance(source, EmbeddingDataset):
        source = open_dataset(source, on_error=on_error)
    is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if rank is None:
        rank = torch.distributed.get_rank() if is_distributed else 0
    if world_size is None:
        world_size = torch.distributed.get_world_size() if is_distributed else 1
    options = BatchOptions(
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        buffer_size=buffer_size,
        dtype=dtype,
        max_frames=max_frames,
        frame_policy=frame_policy,
        drop_last=drop_last,
        even=even,
        rank=rank,
        world_size=world_size,
    )
    return Batches(source.select(split, classes=classes, max_samples=max_samples), options)


class Batches(IterableDataset[Batch]):
    """The batches of one rank, epoch after epoch.

    After its last batch an epoch gives way to the next one; `set_epoch` goes to any. Worker
    `j % num_workers` reads batch `j`, so that the number of workers changes no order.
    """

    def __init__(self, dataset: EmbeddingDataset, options: BatchOptions) -> None:
        """Call `batches` instead, which checks the options."""
        super().__init__()
        self.dataset = dataset
        self.options = options
        self._epoch = 0
        self._next_batch = 0
        self._is_resumed = False

    @property
    def epoch(self) -> int:
        """The epoch that is read, or will be read next."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch, or on in the epoch of a state that was loaded."""
        if epoch != self._epoch:
            self._epoch, self._next_batch, self._is_resumed = epoch, 0, False

    def __len__(self) -> int:
        """Count the batches of an epoch of this rank; its workers share them."""
        n_samples, size = len(self._places()), self.options.batch_size
        return n_samples // size if self.options.drop_last else math.ceil(n_samples / size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the epoch; those of one worker inside a DataLoader.

        Raises:
            DamageError: a sample is damaged and `on_error` is `raise`.
        """
        first = self._next_batch if self._is_resumed else 0
        self._next_batch, self._is_resumed = first, False
        for number, rows in self._read_batches(first):
            # A batch counts as read once it is yielded: a state taken then resumes behind it.
            self._next_batch = number + 1
            if rows:
                yield self._make_batch(rows, number)
        self._epoch, self._next_batch = self._epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return a state from which training resumes behind the batch that was yielded last."""
        return {"epoch": self._epoch, "next_batch": self._next_batch, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a state: the next batch is the one that would have come there.

        Raises:
            ValueError: the state was taken from other batches than these.
        """
        for name, value in self._identity().items():
            if state[name] != value:
                raise ValueError(f"the state has {name} {state[name]!r}, these batches {value!r}")
        self._epoch, self._next_batch = int(state["epoch"]), int(state["next_batch"])
        self._is_resumed = True

    def _identity(self) -> dict[str, Any]:
        """Return the options that decide which samples come when."""
        options = self.options
        names = ("batch_size", "shuffle", "seed", "buffer_size", "drop_last", "even")
        identity = {name: getattr(options, name) for name in (*names, "rank", "world_size")}
        return {**identity, "n_samples": len(self.dataset)}

    def _places(self) -> range:
        """Return which places of an epoch's rows are this rank's."""
        options, n_rows = self.options, len(self.dataset)
        return share_places(
            n_rows, rank=options.rank, world_size=options.world_size, even=options.even
        )

    def _order(self) -> Order:
        """Return this rank's order of the epoch."""
        options, rows = self.options, self.dataset.rows
        if options.shuffle and len(rows):
            files = self.dataset.index.file_numbers[rows]
            rows = order_epoch(rows, files, seed=(options.seed, self._epoch))
        places = self._places()
        rows = rows.take(np.arange(places.start, places.stop), mode="wrap") if places else rows[:0]
        if not options.shuffle:
            return Order(rows, np.arange(len(rows)))
        seed = (options.seed, self._epoch, options.rank)
        return shuffle_within(rows, buffer_size=options.buffer_size, seed=seed)

    def _read_batches(self, first: int) -> Iterator[tuple[int, list[BatchRow]]]:
        """Yield the number and the rows of each batch of this worker, from a number on."""
        worker, size, order = get_worker_info(), self.options.batch_size, self._order()
        worker_id, n_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        numbers = [number for number in range(first, len(self)) if number % n_workers == worker_id]
        places = [np.arange(n * size, min((n + 1) * size, len(order.rows))) for n in numbers]
        mine = np.concatenate([np.empty(0, np.int64), *places])
        read = read_ordered(Order(order.rows[mine], order.places[mine]), self._read_rows)
        for number, group in zip(numbers, places, strict=True):
            yield number, list(keep_whole(islice(read, len(group)), self.dataset.on_error))

    def _read_rows(self, rows: IntArray) -> Iterator[BatchRow | DamageError]:
        """Yield what a batch needs of rows of the index, in order, damage in its place."""
        for block, results in self.dataset.read_blocks(rows):
            columns = (block.column(name) for name in ("key", "caption", "label_id"))
            for array, key, caption, label_id in zip(results, *columns, strict=True):
                if type(array) is DamageError:
                    yield array
                else:
                    yield BatchRow(array, caption, NO_LABEL if label_id is None else label_id, key)

    def _make_batch(self, rows: Sequence[BatchRow], number: int) -> Batch:
        """Return rows as a batch."""
        options = self.options
        if options.max_frames is not None:
            rng = np.random.default_rng((options.seed, self._epoch, options.rank, number))
            cut = partial(
                cut_frames, max_frames=options.max_frames, policy=options.frame_policy, rng=rng
            )
            rows = [row._replace(embeddings=cut(row.embeddings)) for row in rows]
        return make_batch(rows, dtype=options.dtype)
