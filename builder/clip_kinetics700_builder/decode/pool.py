"""Decodes clips in order in worker processes, so that a hostile file costs its clip alone.

Each task has a time limit, and a worker that crashes or hangs is replaced. Threads wait for the
workers, so that no worker idles while this process encodes.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from queue import SimpleQueue

from clip_kinetics700_builder.config import WORKER_MEMORY_MIB
from clip_kinetics700_builder.decode.video import DecodeTask, decode_frames, identify
from clip_kinetics700_builder.decode.worker import Decode, DecodeWorker
from clip_kinetics700_builder.system.outage import NO_PATIENCE, Patience
from clip_kinetics700_builder.types import ClipError, Failure, Frames, OutageError

log = logging.getLogger(__name__)

# What may be the fault of a busy machine, or of the clips decoded before or beside this one.
FAULTS_OF_MANY = ("timed_out", "crashed", "out_of_memory")
# Results come out in order, so one slow clip holds back the others: with this many tasks a worker,
# the workers go on meanwhile (docs/decisions.md), but only as long as their results fit.
TASKS_PER_WORKER = 16
MAX_WINDOW_BYTES = 2**30
MIN_TASKS_PER_WORKER = 2
# Pixels of 64 frames of 224 x 224.
RESULT_BYTES = 64 * 224 * 224 * 3


class DecodePool(AbstractContextManager["DecodePool"]):
    """Worker processes that decode; use it in a `with` block."""

    def __init__(
        self,
        workers: int,
        timeout_seconds: float,
        *,
        memory_mib: int = WORKER_MEMORY_MIB,
        result_bytes: int = RESULT_BYTES,
        decode: Decode = decode_frames,
        patience: Patience = NO_PATIENCE,
    ) -> None:
        """Start `workers` processes.

        Args:
            workers: how many processes to start.
            timeout_seconds: how long one call of `decode` may take.
            memory_mib: how much resident memory one process may hold.
            result_bytes: room for the pixels of one call; larger results come through the pipe.
            decode: the function that the processes run.
            patience: how long an outage may last.
        """
        self._patience = patience
        fitting = min(workers * TASKS_PER_WORKER, MAX_WINDOW_BYTES // result_bytes)
        self._window = max(fitting, workers * MIN_TASKS_PER_WORKER)
        self._workers = [
            DecodeWorker(timeout_seconds, memory_mib, result_bytes=result_bytes, decode=decode)
            for _ in range(workers)
        ]
        # There are as many threads as workers, so a thread always finds an idle one.
        self._idle: SimpleQueue[DecodeWorker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def __exit__(self, *_: object) -> None:
        """Stop the workers at once: nobody wants what is still running."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.close()
        self._threads.shutdown()

    def decode(self, tasks: Iterable[DecodeTask | Failure]) -> Iterator[Frames | Failure]:
        """Decode clips in the order they come; failures among the tasks pass through.

        A clip of more frames than one task takes comes as several consecutive `Frames`.

        Raises:
            OutageError: what keeps clips from being decoded is not theirs, and lasts.
            BuildError: no worker stays alive, or one failed by an error of this program.
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
        """Yield the frames of one task and, for a long clip, those of the tasks that follow it.

        Raises:
            OutageError: the file of a long clip was replaced meanwhile, or see `decode`.
        """
        before: tuple[str, int, int] | None = None
        while True:
            result = self._settle(task, future)
            if before is not None and before != read_state(task.path):
                again = "run the same command again to go on"
                raise OutageError(f"{task.path}: was changed while it was decoded; {again}")
            if isinstance(result, Failure):
                yield result
                return
            stop = result.first + len(result.pixels)
            if stop >= result.info.n_frames:
                yield result
                return
            before = read_state(task.path)
            # The next piece is decoded while this one is encoded.
            task = replace(task, first=stop)
            future = self._submit(task)
            yield result

    def _settle(self, task: DecodeTask, future: Future[Frames | Failure]) -> Frames | Failure:
        """Return what comes of a task in the end, whatever the machine does meanwhile."""
        futures = chain([future], iter(partial(self._submit, task), None))
        result = self._patience.outlast(lambda: next(futures).result())
        if isinstance(result, Failure) and result.reason in FAULTS_OF_MANY:
            log.info("plan row %d: %s; another try alone", task.row, result.message)
            result = self._patience.outlast(partial(self._run_alone, task))
        return result

    def _run_alone(self, task: DecodeTask) -> Frames | Failure:
        """Return what comes of a task in a fresh process with nothing beside it."""
        # No task comes after those that are queued, so one worker after the other gets idle.
        workers = [self._idle.get() for _ in self._workers]
        try:
            workers[0].restart()
            return workers[0].run(task)
        finally:
            for worker in workers:
                self._idle.put(worker)


def read_state(path: str) -> tuple[str, int, int] | None:
    """Return what `identify` does; None for a file that is no longer there."""
    with suppress(ClipError):
        return identify(path)
    return None
