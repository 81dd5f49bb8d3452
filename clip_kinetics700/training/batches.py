"""Gives the padded batches of an epoch to any number of workers and ranks.

Every sample comes once an epoch, in an order that can be resumed at the exact next sample.
`ordering` says who reads what, `epochs` which epoch it is, `world` which rank this is.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import islice
from typing import Any

import numpy as np
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
    choose_columns,
    cut_frames,
    make_batch,
)
from clip_kinetics700.training.epochs import Epochs
from clip_kinetics700.training.options import TENSORS, BatchOptions
from clip_kinetics700.training.ordering import Even, Order, order_epoch, read_ordered
from clip_kinetics700.training.position import Position, Reading, join_states
from clip_kinetics700.training.world import (
    World,
    ask_environment,
    ask_torch,
    is_counted_by_accelerate,
    is_shared_by_accelerate,
)


def batches(
    source: Source | EmbeddingDataset,
    split: str | Sequence[str] | None = "train",
    *,
    classes: str | Sequence[str] | None = None,
    max_samples: int | None = None,
    batch_size: int = 64,
    shuffle: bool = False,
    seed: int = 0,
    buffer_size: int = 10_000,
    dtype: Dtype = "float32",
    max_frames: int | None = None,
    frame_policy: FramePolicy = "truncate",
    columns: Sequence[str] | None = None,
    drop_last: bool = False,
    even: Even = "pad",
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
        columns: names of what a batch holds, to leave out the texts, say; None is all of `Batch`.
        drop_last: leave out a last batch of fewer samples.
        even: for ranks that step together: `pad` repeats a sample on some ranks until all have as
            many, `drop` leaves out the last ones, None reads every sample exactly once.
        rank: this process's; None asks torch.distributed when reading begins, or else `RANK`.
        world_size: how many ranks there are; None asks likewise, or else `WORLD_SIZE`.
        on_error: `raise` damage, or `skip` it with a warning; an opened dataset has its own.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: there is no such split or class, or an option is wrong.
    """
    if not isinstance(source, EmbeddingDataset):
        source = open_dataset(source, on_error=on_error)
    options = BatchOptions(
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        buffer_size=buffer_size,
        dtype=dtype,
        max_frames=max_frames,
        frame_policy=frame_policy,
        columns=columns,
        drop_last=drop_last,
        even=even,
        rank=rank,
        world_size=world_size,
    )
    return Batches(source.select(split, classes=classes, max_samples=max_samples), options)


class Batches(IterableDataset[Batch]):
    """The batches of one rank, epoch after epoch.

    Each iteration is the next epoch, `set_epoch` goes to any, whether this process reads or the
    workers of a DataLoader, persistent or not. Workers take turns, batch by batch, so their number
    changes no order.
    """

    def __init__(self, dataset: EmbeddingDataset, options: BatchOptions) -> None:
        """Call `batches` instead, which checks the options."""
        super().__init__()
        self.dataset = dataset
        self.options = options
        self._epochs = Epochs()
        self._position: Position | None = None
        self._reading: Reading | None = None
        # The world of the process that has started this worker, which cannot ask itself.
        self._inherited: World | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Tell workers which rank they read for."""
        inherited = ask_torch() or self._inherited or ask_environment()
        return {**self.__dict__, "_inherited": inherited, "_reading": None}

    @property
    def epoch(self) -> int:
        """The epoch that is read or, behind its last batch, will be read next."""
        reading = self._reading
        if reading is None or self._epochs.last != reading.epoch:
            return self._epochs.next if self._epochs.last is None else self._epochs.last
        return reading.epoch + reading.is_over

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch, or on in the epoch of a state that was loaded.

        Raises:
            RuntimeError: accelerate would share the batches among ranks and cannot.
            ValueError: there is no such epoch.
        """
        position = self._position
        if position is not None and (position.epoch != epoch or self._epochs.last is not None):
            position = None
        self._position, self._reading = position, None
        self._epochs.set(epoch, is_loaded=position is not None)
        self._epochs.is_dispatched = is_shared_by_accelerate(self)

    def __len__(self) -> int:
        """Count the batches of an epoch of this rank; its workers share them."""
        if is_counted_by_accelerate():
            self._epochs.is_dispatched = True
        world = self._ask_world()
        return self.options.count_batches(len(self.dataset), rank=world.rank, world_size=world.size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the epoch; those of one worker inside a DataLoader.

        Raises:
            DamageError: a sample is damaged and `on_error` is `raise`.
            RuntimeError: the world has changed since the first batch.
        """
        # Workers begin at once, in the iteration for which they were started; this process with
        # its first batch, so that an iterator that nobody reads is no epoch.
        return self._read(self._begin()) if get_worker_info() else self._read_lazily()

    def state_dict(self, n_batches: int | None = None) -> dict[str, Any]:
        """Return a state from which training resumes behind the batch that was taken last.

        Args:
            n_batches: how many batches the loop has taken from its iterator; needed where workers
                read ahead of it.

        Raises:
            RuntimeError: workers read, and `n_batches` is not given.
        """
        is_ahead = get_worker_info() is None and self._epochs.is_read_by_workers
        if is_ahead and n_batches is None:
            raise RuntimeError(
                "workers read these batches ahead of the loop, so they do not know how far it is: "
                "take the state of a StatefulDataLoader, or give state_dict(n_batches=...), how "
                "many the loop has taken from its iterator"
            )
        reading = self._reading
        if is_ahead or reading is None or self._epochs.last is None:
            reading = self._resume(self._epochs.next if not is_ahead else self._epochs.next - 1)
        next_batch = reading.next_batch
        if n_batches is not None:
            next_batch = reading.first + n_batches
        return {
            "epoch": reading.epoch,
            "next_batch": next_batch,
            "first": reading.first if get_worker_info() else None,
            "rank": reading.world.rank,
            "world_size": reading.world.size,
            "earlier": [list(taken) for taken in reading.earlier],
            **self._identity,
        }

    def load_state_dict(self, state: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Resume from a state: the next batch is the one that would have come there.

        With another number of ranks than the state's, these share what was left of its epoch. One
        rank's state tells what all had taken, as they step together; else give those of all ranks.

        Raises:
            ValueError: the state was taken from other batches than these, or states of ranks do
                not belong together.
        """
        states = [state] if isinstance(state, Mapping) else list(state)
        for each in states:
            for name, value in self._identity.items():
                if each.get(name) != value:
                    raise ValueError(
                        f"the state has {name} {each.get(name)!r}, these batches {value!r}"
                    )
        position = join_states(states)
        self._position, self._reading = position, None
        # A state behind the last batch goes on with the next epoch.
        is_over = get_worker_info() is None and self._is_over(position)
        self._epochs.set(position.epoch + is_over, is_loaded=True)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """The options that decide which samples and frames come when."""
        options, rows = self.options, self.dataset.rows
        order = ("batch_size", "shuffle", "seed", "buffer_size", "drop_last", "even")
        return {
            **{name: getattr(options, name) for name in (*order, "max_frames", "frame_policy")},
            "split": ",".join(self.dataset.splits),
            "n_samples": len(rows),
            "selection": zlib.crc32(rows.tobytes()),
        }

    def _ask_world(self) -> World:
        """Return which rank reads, of how many; one reads where another library shares."""
        return World() if self._epochs.is_dispatched else self._find_world()

    def _find_world(self) -> World:
        """Return which rank this process is, of how many."""
        rank, size = self.options.rank, self.options.world_size
        if rank is None or size is None:
            asked = ask_torch() or self._inherited or ask_environment() or World()
            rank, size = asked.rank if rank is None else rank, size or asked.size
        return World(rank, size)

    def _check_world(self, first: World) -> None:
        """Raise RuntimeError if batches were first read as another rank than this is now."""
        world = self._find_world()
        if first != world:
            raise RuntimeError(
                f"these batches were first read as {first}, and this is now {world}: "
                "read them after init_process_group, or give rank and world_size"
            )

    def _resume(self, epoch: int) -> Reading:
        """Return where this rank's reading of an epoch begins."""
        position = self._position
        if position is None or position.epoch != epoch:
            position = Position(epoch=epoch)
        return position.resume(self._ask_world())

    def _is_over(self, position: Position) -> bool:
        """Tell whether no rank of a state has a batch left."""
        n_rows, size = len(self._shared_rows(position.epoch, position.earlier)), len(position.taken)
        return all(
            n_taken >= self.options.count_batches(n_rows, rank=rank, world_size=size)
            for rank, n_taken in enumerate(position.taken)
        )

    def _shared_rows(self, epoch: int, earlier: Sequence[Sequence[int]]) -> IntArray:
        """Return the (n,) int64 rows that the ranks share, in the order of their files."""
        options, rows = self.options, self.dataset.rows
        if options.shuffle and len(rows):
            rows = order_epoch(
                rows, self.dataset.index.file_numbers[rows], seed=(options.seed, epoch)
            )
        for stage, taken in enumerate(earlier):
            rows = options.rows_left(rows, taken, epoch=epoch, stage=stage)
        return rows

    def _begin(self) -> Reading:
        """Begin the next epoch."""
        self._reading = reading = self._resume(self._epochs.begin())
        reading.is_dispatched = self._epochs.is_dispatched
        if not reading.is_dispatched:
            world = reading.world
            self._check_world(World(*self._epochs.remember_world(world.rank, world.size)))
        self._position = None
        return reading

    def _read_lazily(self) -> Iterator[Batch]:
        """Begin the next epoch with the first batch that is asked for."""
        reading = self._begin()
        for batch in self._read(reading):
            yield batch
            if not reading.is_dispatched:
                self._check_world(reading.world)

    def _read(self, reading: Reading) -> Iterator[Batch]:
        """Yield the batches of an epoch, those of one worker inside a DataLoader."""
        rows = self._shared_rows(reading.epoch, reading.earlier)
        world = reading.world
        reading.n_batches = self.options.count_batches(
            len(rows), rank=world.rank, world_size=world.size
        )
        worker = get_worker_info()
        if worker is None or worker.id == 0:
            self.options.warn_of_uneven_ranks(len(rows), world_size=world.size)
        steps_together = self.options.even is not None and world.size > 1
        last: list[BatchRow] = []
        n_owed = 0
        for number, group in self._read_groups(rows, reading):
            # A batch counts as read once it is yielded: a state taken then resumes behind it.
            reading.next_batch = number + 1
            # A batch of nothing but damage must not leave the other ranks waiting.
            n_owed += bool(group) or steps_together
            last = group or last
            while last and n_owed:
                n_owed -= 1
                yield self._make_batch(last, reading, number)
        if n_owed:
            raise RuntimeError(f"{world} has nothing but damaged samples, and others wait for it")

    def _read_groups(
        self, rows: IntArray, reading: Reading
    ) -> Iterator[tuple[int, list[BatchRow]]]:
        """Yield the number and the rows of each batch of this worker."""
        options, world, worker = self.options, reading.world, get_worker_info()
        order = options.order_rank(
            rows,
            epoch=reading.epoch,
            stage=len(reading.earlier),
            rank=world.rank,
            world_size=world.size,
        )
        turn, n_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        numbers = [
            number
            for number in range(reading.next_batch, reading.n_batches or 0)
            if (number - reading.first) % n_workers == turn
        ]
        size = options.batch_size
        places = [np.arange(n * size, min((n + 1) * size, len(order.rows))) for n in numbers]
        mine = np.concatenate([np.empty(0, np.int64), *places])
        if self.dataset.is_random_access:
            read = self._read_rows(order.rows[mine])
        else:
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

    def _make_batch(self, rows: Sequence[BatchRow], reading: Reading, number: int) -> Batch:
        """Return rows as a batch."""
        options, columns, n_frames = self.options, self.options.columns, None
        if options.max_frames is not None:
            rng = np.random.default_rng((options.seed, reading.epoch, reading.world.rank, number))
            cut = partial(
                cut_frames, max_frames=options.max_frames, policy=options.frame_policy, rng=rng
            )
            rows = [row._replace(embeddings=cut(row.embeddings)) for row in rows]
        if reading.is_dispatched:
            # Such batches are joined and cut into slices, so they must be tensors of one length.
            n_frames = self._longest
            columns = [name for name in columns or TENSORS if name in TENSORS]
        return choose_columns(make_batch(rows, dtype=options.dtype, n_frames=n_frames), columns)

    @cached_property
    def _longest(self) -> int:
        """Frames of the longest sample, as it is cut."""
        lengths = self.dataset.index.samples.column("n_frames").to_numpy()[self.dataset.rows]
        longest = int(lengths.max(initial=1))
        return min(longest, self.options.max_frames or longest)
