"""Decode tasks in, frames or failures out, in order, from worker processes that may die.

A hostile file costs its clip and never the build: each task has a time limit, a worker that
crashes or hangs is replaced. Workers are spawned: torch's threads hang in a forked child.
"""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import TimeoutError as TaskTimeoutError
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from pebble import ProcessExpired, ProcessPool

from builder.decode import DecodeTask, decode_frames, initialize_worker
from builder.types import Failure, Frames

if TYPE_CHECKING:
    from pebble import ProcessFuture

# Tasks in flight per worker: one runs, one waits, so that no worker idles.
TASKS_PER_WORKER = 2


class DecodePool:
    """Worker processes that decode; use it in a `with` block."""

    def __init__(
        self,
        workers: int,
        timeout_seconds: float,
        *,
        decode: Callable[[DecodeTask], Frames | Failure] = decode_frames,
    ) -> None:
        """Start `workers` processes; one call of `decode` may take `timeout_seconds`."""
        self._decode = decode
        self._timeout_seconds = timeout_seconds
        self._window = workers * TASKS_PER_WORKER
        self._pool = ProcessPool(
            max_workers=workers,
            initializer=initialize_worker,
            context=multiprocessing.get_context("spawn"),
        )

    def __enter__(self) -> "DecodePool":
        """Return the pool itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the workers, at once: what is still running is not wanted any more."""
        self._pool.stop()
        self._pool.join()

    def decode(self, tasks: Iterable[DecodeTask | Failure]) -> Iterator[Frames | Failure]:
        """Decode clips in the order they come; failures among the tasks pass through.

        A clip of more frames than one task takes comes as several consecutive `Frames`.
        """
        source = iter(tasks)
        window: deque[tuple[DecodeTask, ProcessFuture[Frames | Failure]] | Failure] = deque()
        while True:
            while len(window) < self._window and (task := next(source, None)) is not None:
                window.append(task if isinstance(task, Failure) else (task, self._submit(task)))
            if not window:
                return
            head = window.popleft()
            if isinstance(head, Failure):
                yield head
            else:
                yield from self._finish(*head)

    def _submit(self, task: DecodeTask) -> "ProcessFuture[Frames | Failure]":
        return self._pool.schedule(self._decode, args=(task,), timeout=self._timeout_seconds)

    def _finish(
        self, task: DecodeTask, future: "ProcessFuture[Frames | Failure]"
    ) -> Iterator[Frames | Failure]:
        """Yield the frames of one task and, for a long clip, of those that follow it."""
        while True:
            result = self._result(task, future)
            if isinstance(result, Failure):
                yield result
                return
            stop = result.first + len(result.pixels)
            if stop >= result.info.n_frames:
                yield result
                return
            # The next piece is decoded while this one is encoded.
            task = replace(task, first=stop)
            future = self._submit(task)
            yield result

    def _result(
        self, task: DecodeTask, future: "ProcessFuture[Frames | Failure]"
    ) -> Frames | Failure:
        try:
            result: Frames | Failure = future.result()
        except TaskTimeoutError:
            message = f"decoding took longer than {self._timeout_seconds:g} s"
            return Failure(task.row, "decode", "timed_out", message)
        except ProcessExpired:
            return Failure(task.row, "decode", "crashed", "the decoding process died")
        except MemoryError:
            return Failure(task.row, "decode", "out_of_memory", "decoding ran out of memory")
        return result
