"""Decode tasks in, frames or failures out, in order, from worker processes that may die.

A hostile file costs its clip and never the build: each task has a time limit, a worker that
crashes or hangs is replaced. Threads wait for the workers, so none idles while we encode.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from types import TracebackType

from clip_kinetics700_builder.config import WORKER_MEMORY_MIB
from clip_kinetics700_builder.decode.video import DecodeTask, decode_frames
from clip_kinetics700_builder.decode.worker import Decode, DecodeWorker
from clip_kinetics700_builder.types import Failure, Frames

# Tasks in flight per worker: one runs, one waits, so that no worker idles.
TASKS_PER_WORKER = 2
# 64 frames of 224 x 224.
RESULT_BYTES = 64 * 224 * 224 * 3


class DecodePool:
    """Worker processes that decode; use it in a `with` block."""

    def __init__(
        self,
        workers: int,
        timeout_seconds: float,
        *,
        memory_mib: int = WORKER_MEMORY_MIB,
        result_bytes: int = RESULT_BYTES,
        decode: Decode = decode_frames,
    ) -> None:
        """Start `workers` processes.

        Args:
            workers: how many.
            timeout_seconds: what one call of `decode` may take.
            memory_mib: what one process may hold, resident.
            result_bytes: of the pixels of one call; larger ones come through the pipe.
            decode: what they run.
        """
        self._window = workers * TASKS_PER_WORKER
        self._workers = [
            DecodeWorker(timeout_seconds, memory_mib, result_bytes=result_bytes, decode=decode)
            for _ in range(workers)
        ]
        # As many threads as workers: a thread always finds one.
        self._idle: SimpleQueue[DecodeWorker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")

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
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.close()
        self._threads.shutdown()

    def decode(self, tasks: Iterable[DecodeTask | Failure]) -> Iterator[Frames | Failure]:
        """Decode clips in the order they come; failures among the tasks pass through.

        A clip of more frames than one task takes comes as several consecutive `Frames`.

        Raises:
            BuildError: no worker stays alive, or one failed as no file can make it fail.
        """
        source = iter(tasks)
        window: deque[tuple[DecodeTask, Future[Frames | Failure]] | Failure] = deque()
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

    def _submit(self, task: DecodeTask) -> Future[Frames | Failure]:
        return self._threads.submit(self._run, task)

    def _run(self, task: DecodeTask) -> Frames | Failure:
        worker = self._idle.get()
        try:
            return worker.run(task)
        finally:
            self._idle.put(worker)

    def _finish(
        self, task: DecodeTask, future: Future[Frames | Failure]
    ) -> Iterator[Frames | Failure]:
        """Yield the frames of one task and, for a long clip, of those that follow it."""
        while True:
            result = future.result()
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
