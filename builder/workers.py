"""One decode task in, frames or a failure out, from a process of its own that may die.

Each worker is an executor of one process: where several share their queues, one that is
killed at the wrong moment takes the others along. Spawned: torch hangs in a forked child.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from threading import Lock

from builder.decode import DECODER_ERRORS, DecodeTask, decode_frames, initialize_worker
from builder.types import BuildError, Failure, Frames

Decode = Callable[[DecodeTask], Frames | Failure]

# Importing torch from a cold network disk takes minutes.
START_SECONDS = 600.0
# Processes lost in a row before they were ready: one that cannot start must not go on for ever.
MAX_STARTS = 3
# A process may be killed for what others do, where memory is short: a clip is tried again once.
MAX_TRIES = 2
# prctl's option by which the kernel sends a signal when the parent ends.
PR_SET_PDEATHSIG = 1
# How torch and FFmpeg, which know no MemoryError, say it.
OUT_OF_MEMORY = ("allocate memory", "not enough memory", "out of memory", "bad_alloc")


class DecodeWorker:
    """A process that decodes one task at a time and is replaced when it is lost."""

    def __init__(self, timeout_seconds: float, *, decode: Decode = decode_frames) -> None:
        """Start the process, without waiting for it to be ready."""
        self._decode = decode
        self._timeout_seconds = timeout_seconds
        self._lock = Lock()
        self._is_closed = False
        self._start()

    def run(self, task: DecodeTask) -> Frames | Failure:
        """Decode one task; a clip that twice loses its process has crashed it.

        Raises:
            BuildError: no process stays alive to take the task, or it failed as no file
                can make it fail.
        """
        for _ in range(MAX_TRIES):
            self._wait_until_ready(task)
            try:
                future = self._executor.submit(decode_or_explain, task, self._decode)
                error = future.exception(self._timeout_seconds)
            except FutureTimeoutError:
                self._restart()
                message = f"decoding took longer than {self._timeout_seconds:g} s"
                return Failure(task.row, "decode", "timed_out", message)
            except BrokenProcessPool as broken:
                error = broken
            if error is None:
                return future.result()
            if not isinstance(error, BrokenProcessPool):
                words = " ".join(f"{type(error).__name__}: {error}".split())
                raise BuildError(
                    f"decoding the clip in row {task.row} of the plan raised {words}"
                ) from error
            self._restart()
        return Failure(task.row, "decode", "crashed", "the decoding process died, twice")

    def close(self) -> None:
        """Kill the process, at once and for good; `run` in another thread ends with an error."""
        with self._lock:
            self._is_closed = True
            self._kill()

    def pid(self) -> int:
        """Return the id of the process, once it is ready."""
        return self._ready.result(START_SECONDS)

    def _start(self) -> None:
        self._executor = ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=prepare_process,
            initargs=(os.getpid(),),
        )
        # A new process inherits the mask: Ctrl-C does not meet it in the middle of its imports.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            self._ready: Future[int] = self._executor.submit(os.getpid)
        except OSError as error:
            raise BuildError(f"a decode worker cannot be started: {error.strerror}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _wait_until_ready(self, task: DecodeTask) -> None:
        """Wait for the imports of a new process, which are not the clip's time."""
        for _ in range(MAX_STARTS):
            with suppress(BrokenProcessPool, FutureTimeoutError):
                self.pid()
                return
            self._restart()
        raise BuildError(
            f"the decode worker for plan row {task.row} was lost {MAX_STARTS} times in a row "
            "before it took the clip: is memory short? fewer --decode-workers need less"
        )

    def _restart(self) -> None:
        with self._lock:
            self._kill()
            if self._is_closed:
                raise BuildError("the decode workers were stopped")
            self._start()

    def _kill(self) -> None:
        if self._ready.done() and self._ready.exception() is None:
            with suppress(ProcessLookupError):
                os.kill(self._ready.result(), signal.SIGKILL)
        self._executor.shutdown(wait=False, cancel_futures=True)


def prepare_process(parent: int) -> None:
    """Make this process a decoder that neither Ctrl-C nor its parent's end leaves behind."""
    # Ctrl-C reaches all processes of a terminal; what becomes of the workers the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(parent)
    initialize_worker()


def end_with_parent(parent: int) -> None:
    """Make Linux kill this process when its parent ends, even in the middle of a hang."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def decode_or_explain(task: DecodeTask, decode: Decode) -> Frames | Failure:
    """Return the frames of a clip, or what about it made decoding fail."""
    try:
        return decode(task)
    except (MemoryError, ArithmeticError, *DECODER_ERRORS) as error:
        if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
            return Failure(task.row, "decode", "out_of_memory", "decoding ran out of memory")
        message = f"decoding raised {type(error).__name__}"
        return Failure(task.row, "decode", "decode_error", message)
