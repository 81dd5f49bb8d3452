"""Agrees on the epoch that comes next, among a process and the workers of its DataLoaders."""

import multiprocessing
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils.data import get_worker_info

MAX_WORKERS = 1023
NOTHING = -1
# The words of the memory that is shared: what was set, which set a state was loaded with, whether
# another library shares among ranks, the world that has read; then one word for each reader.
SET, LOADED, DISPATCHED, WORLD, READERS = range(5)
# How many bits of a word each number takes, the first one the highest.
SET_BITS, LOADER_BITS, TURN_BITS, EPOCH_BITS = 11, 20, 12, 20


class Begun(NamedTuple):
    """What a reader, this process or a worker, has begun last."""

    set_number: int
    """How often an epoch had been set."""
    loader: int
    """The same for the workers that a DataLoader has started together; 0 without workers."""
    turn: int
    """How many iterations these workers had begun before."""
    epoch: int

    def pack(self) -> int:
        """Return it as one word, which is written at once or not at all."""
        word = self.set_number << LOADER_BITS | self.loader
        return (word << TURN_BITS | self.turn) << EPOCH_BITS | self.epoch

    @classmethod
    def unpack(cls, word: int) -> "Begun":
        """Return what `pack` has packed."""
        word, epoch = divmod(word, 1 << EPOCH_BITS)
        word, turn = divmod(word, 1 << TURN_BITS)
        return cls(*divmod(word, 1 << LOADER_BITS), turn, epoch)


class Epochs:
    """Makes each iteration an epoch: the one that was set, or the one after the last.

    A process and the workers that it starts share memory. Each word has one writer and is written
    at once, so there is no lock that a killed worker could hold. Workers that a loader has started
    know each other and count its iterations, so all of them read the same epoch, however early the
    one before was left.
    """

    def __init__(self) -> None:
        """Begin with epoch 0."""
        words = torch.full((READERS + 1 + MAX_WORKERS,), NOTHING, dtype=torch.int64)
        words[SET] = 0
        self._words = share(words)
        self._owner = os.getpid()
        # What a worker was started with, or saw last: one that starts late must not go by more.
        self._set = Begun(0, 0, 0, 0)
        self._forced: int | None = None
        self._n_iterations = 0

    def __getstate__(self) -> dict[str, Any]:
        """Give workers this process's own memory."""
        self._memory()
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Share memory anew where this process makes a copy for itself."""
        self.__dict__.update(state)
        if self._owner == os.getpid():
            self._take_over()

    def set(self, epoch: int, *, is_loaded: bool = False) -> None:
        """Let the next iteration be of this epoch; set in a worker, it is for this worker alone.

        Raises:
            ValueError: there is no such epoch.
        """
        if not 0 <= epoch < 1 << EPOCH_BITS:
            raise ValueError(f"epoch must be 0 to {(1 << EPOCH_BITS) - 1}, got {epoch}")
        if get_worker_info() is not None:
            self._forced = epoch
            return
        words = self._memory()
        self._set = Begun((self._set.set_number + 1) % (1 << SET_BITS), 0, 0, epoch)
        for reader, slot in self._slots().items():
            if slot.set_number == self._set.set_number:
                # The number has come round to one that is still about.
                words[READERS + reader] = NOTHING
        words[LOADED] = self._set.set_number if is_loaded else NOTHING
        words[SET] = self._set.pack()

    @property
    def last(self) -> int | None:
        """The epoch that was begun last; None if none was since one was set."""
        return max(self._begun(self._set.set_number).values(), default=None)

    @property
    def next(self) -> int:
        """The epoch of the next iteration."""
        return self._set.epoch if self.last is None else self.last + 1

    @property
    def is_read_by_workers(self) -> bool:
        """Whether a worker has begun the last epoch."""
        begun = self._begun(self._set.set_number)
        return any(begun[reader] == self.last for reader in begun if reader)

    @property
    def is_dispatched(self) -> bool:
        """Whether another library shares what is read among the ranks."""
        return int(self._memory()[DISPATCHED]) == 1

    @is_dispatched.setter
    def is_dispatched(self, value: bool) -> None:
        self._memory()[DISPATCHED] = int(value)

    def remember_world(self, rank: int, size: int) -> tuple[int, int]:
        """Return rank and size of the world that was remembered first."""
        words = self._memory()
        if int(words[WORLD]) == NOTHING:
            words[WORLD] = size << 32 | rank
        return int(words[WORLD]) & 0xFFFFFFFF, int(words[WORLD]) >> 32

    def begin(self) -> int:
        """Return the epoch of an iteration that begins now, in this process.

        Raises:
            RuntimeError: it goes on from a state that this worker has not seen.
        """
        words, reader = self._memory(), self._reader()
        was_set = self._set
        if reader and self._n_iterations:
            was_set = Begun.unpack(int(words[SET]))
        mine = self._choose(reader, was_set)
        is_news = was_set.set_number != self._set.set_number
        if is_news and int(words[LOADED]) == was_set.set_number and mine.epoch == was_set.epoch:
            raise RuntimeError(
                "a state was loaded while persistent workers ran, which do not see it: load it "
                "before the DataLoader starts them, or into a StatefulDataLoader"
            )
        self._n_iterations += reader > 0
        self._set, self._forced = was_set, None
        words[READERS + reader] = mine.pack()
        return mine.epoch

    def _choose(self, reader: int, was_set: Begun) -> Begun:
        """Return what a reader begins: what its siblings do, or else the next epoch."""
        begun = self._begun(was_set.set_number)
        epoch = max(begun.values()) + 1 if begun else was_set.epoch
        if not reader:
            return was_set._replace(epoch=epoch)
        mine = Begun(
            was_set.set_number, self._loader(), self._n_iterations % (1 << TURN_BITS), epoch
        )
        if self._forced is not None:
            return mine._replace(epoch=self._forced)
        for other in self._slots().values():
            if other.loader == mine.loader and other.turn == mine.turn:
                return other
            # This worker is late, as the iteration was left early: its siblings are ahead.
            if other[:2] == mine[:2] and other.turn > mine.turn:
                return mine._replace(epoch=other.epoch - (other.turn - mine.turn))
        return mine

    @staticmethod
    def _reader() -> int:
        """Return this reader's number, 0 without workers."""
        worker = get_worker_info()
        if worker is not None and worker.num_workers > MAX_WORKERS:
            raise ValueError(f"at most {MAX_WORKERS} workers, got {worker.num_workers}")
        return 0 if worker is None else 1 + worker.id

    @staticmethod
    def _loader() -> int:
        """Return a number, at least 1, for the workers that were started with this one.

        They are started one after the other, and multiprocessing numbers processes in the order in
        which they are started; the number is in the process's name.
        """
        worker = get_worker_info()
        number = multiprocessing.current_process().name.rpartition("-")[2].rpartition(":")[2]
        first = int(number) - worker.id if worker and number.isdecimal() else 0
        return 1 + first % ((1 << LOADER_BITS) - 1)

    def _begun(self, set_number: int) -> dict[int, int]:
        """Return the epoch that each reader has begun last, if it was since this was set."""
        slots = self._slots()
        return {n: slot.epoch for n, slot in slots.items() if slot.set_number == set_number}

    def _slots(self) -> dict[int, Begun]:
        """Return what each reader has begun last, by its number."""
        words: list[int] = self._memory()[READERS:].tolist()
        return {reader: Begun.unpack(word) for reader, word in enumerate(words) if word != NOTHING}

    def _memory(self) -> torch.Tensor:
        """Return the words, (n,) int64, that this process shares with its workers alone.

        Raises:
            RuntimeError: this is a worker, and its parent has never touched what it was given.
        """
        if os.getpid() != self._owner:
            parent = multiprocessing.parent_process()
            if get_worker_info() is None:
                self._take_over()
            elif parent is None or parent.pid != self._owner:
                raise RuntimeError(
                    "these batches were made in another process than the DataLoader: "
                    "call their set_epoch, or make them, where the DataLoader is made"
                )
        return self._words

    def _take_over(self) -> None:
        """Share a copy of the memory from here on: one rank's epochs are none of another's."""
        self._words = share(self._words.clone())
        self._words[WORLD] = NOTHING
        self._owner = os.getpid()


def share(words: torch.Tensor) -> torch.Tensor:
    """Return a tensor that processes share to which it is handed."""
    move: Callable[[], torch.Tensor] = words.share_memory_
    return move()
