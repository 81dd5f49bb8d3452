"""Runs a process that decodes one task at a time, may die, and is replaced then.

Each worker has a pipe of its own: on a shared one, a worker killed at the wrong moment loses a task
or stops the others. On Linux they are forked from a server that has imported torch and decodes
nothing: a worker starts at once, and threads of torch, which hang in a forked child, never ran.
"""

import ctypes
import math
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from enum import Enum, auto
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from threading import Lock
from typing import NamedTuple

import numpy as np
import psutil
from av.error import FFmpegError

from clip_kinetics700_builder.decode import video
from clip_kinetics700_builder.decode.video import DecodeTask
from clip_kinetics700_builder.system.children import ADVICE, NO_GUARD
from clip_kinetics700_builder.system.machine import is_out_of_memory
from clip_kinetics700_builder.system.signals import SIGNALS
from clip_kinetics700_builder.system.threads import use_one_thread
from clip_kinetics700_builder.types import (
    BuildError,
    Failure,
    Frames,
    InputError,
    OutageError,
    UInt8Array,
)

Context = ForkServerContext | SpawnContext

# What decodes the files of others needs none of these variables.
SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|(API|ACCESS)_?KEY", re.IGNORECASE)


def open_context() -> Context:
    """Return how workers start."""
    # Frameworks of macOS do not bear a fork.
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([video.__name__])
    with hide_secrets():
        # The server and all workers that are forked from it have the variables of this moment.
        forkserver.ensure_running()
    return context


@contextmanager
def hide_secrets() -> Iterator[None]:
    """Take tokens and keys out of the environment within the block."""
    secrets = {name: value for name, value in os.environ.items() if SECRET.search(name)}
    for name in secrets:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(secrets)


class SharedPixels:
    """Memory that a worker and its parent share; it has no name and ends with them."""

    def __init__(self, context: Context, n_bytes: int) -> None:
        """Allocate room for the pixels of one result; pass this to a process when it starts."""
        self._memory = context.RawArray(ctypes.c_uint8, n_bytes)

    def send(self, connection: Connection, result: "Frames | Failure | Outage") -> None:
        """Send a result; its pixels stay in the shared memory until the next one."""
        if isinstance(result, Frames) and 0 < result.pixels.nbytes <= len(self._memory):
            self._view(result.pixels.shape)[:] = result.pixels
            result = replace(result, pixels=result.pixels[:0])
        connection.send(result)

    def receive(self, connection: Connection) -> "Frames | Failure | Outage | str":
        """Return the next result, its pixels copied out of the shared memory.

        Raises:
            EOFError, OSError: the other side has ended.
        """
        result: Frames | Failure | Outage | str = connection.recv()
        if isinstance(result, Frames) and len(result.pixels) < len(result.timestamps):
            shape = (len(result.timestamps), *result.pixels.shape[1:])
            return replace(result, pixels=self._view(shape).copy())
        return result

    def _view(self, shape: tuple[int, ...]) -> UInt8Array:
        return np.ctypeslib.as_array(self._memory)[: math.prod(shape)].reshape(shape)


Decode = Callable[[DecodeTask], Frames | Failure]


class Outage(NamedTuple):
    """What keeps a worker from decoding is not its clip's fault."""

    message: str


class Silence(Enum):
    """Why a process is not waited for any longer."""

    LATE = auto()
    LARGE = auto()
    STOPPED = auto()


# How long a process may take to start: importing torch from a cold network disk takes minutes.
START_SECONDS = 600.0
# How often a killed worker is started again for one task; one that cannot start must end the run.
MAX_STARTS = 3
STOP_SECONDS = 10.0
# prctl's option by which the kernel sends a signal when the parent ends.
PR_SET_PDEATHSIG = 1
# Time between two looks at the memory of a worker, which can take 100 MiB meanwhile.
WATCH_SECONDS = 0.05
# Longer steps were not spent awake: the machine slept, or this process was stopped.
MAX_STEP_SECONDS = 1.0
# A process that is stopped for so long, while this one runs, is replaced.
STOPPED_SECONDS = 10.0
STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
# What libraries that decode raise for anything wrong with a file.
LIBRARY_ERRORS = (FFmpegError, RuntimeError, ValueError, IndexError)
# A worker says this when a task has reached it: if it dies from then on, the clip is blamed.
TAKEN = "taken"


class DecodeWorker:
    """A process that decodes one task at a time and is replaced when it is lost."""

    def __init__(
        self, timeout_seconds: float, memory_mib: int, *, result_bytes: int, decode: Decode
    ) -> None:
        """Start the process, without waiting for it to be ready."""
        self._decode = decode
        self._context = open_context()
        self._shared = SharedPixels(self._context, result_bytes)
        self._timeout_seconds = timeout_seconds
        self._memory_mib = memory_mib
        self._lock = Lock()
        self._is_closed = False
        self._process, self._connection = self._start()

    def run(self, task: DecodeTask) -> Frames | Failure:
        """Decode one task; a process that dies costs the clip only if it had taken the task.

        Raises:
            OutageError: the disk fails, or memory or descriptors are short.
            BuildError: no process stays alive to take the task, or one failed by an error of this
                program.
        """
        for _ in range(MAX_STARTS):
            if not self._hand_over(task):
                self._process.join(1)
                if self._process.exitcode == NO_GUARD:
                    raise InputError(ADVICE)
                self.restart()
            elif (result := self._receive_result(task)) is not None:
                return result
        raise BuildError(
            f"the decode worker for plan row {task.row} was lost {MAX_STARTS} times in a row "
            "before it took the clip: is memory short? fewer --decode-workers need less"
        )

    def close(self) -> None:
        """Kill the process, at once and for good; `run` in another thread ends with an error."""
        with self._lock:
            self._is_closed = True
            self._process.kill()
            self._process.join(STOP_SECONDS)

    def _start(self) -> tuple[BaseProcess, Connection]:
        # A new process inherits the mask, so that no signal kills it during its imports. The server
        # that workers are forked from keeps it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            connection, far_end = self._context.Pipe()
            process = self._context.Process(
                target=serve, args=(far_end, self._shared, self._decode), daemon=True
            )
            process.start()
        except OSError as error:
            raise BuildError(f"a decode worker cannot be started: {error.strerror}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        # Only the worker may hold the far end: the pipe then ends when the worker does.
        far_end.close()
        return process, connection

    def restart(self) -> None:
        """Replace the process: nothing of what it decoded before is left.

        Raises:
            BuildError: it cannot be started, or the worker was closed.
        """
        with self._lock:
            self._process.kill()
            self._process.join(STOP_SECONDS)
            self._connection.close()
            if self._is_closed:
                raise BuildError("the decode workers were stopped")
            self._process, self._connection = self._start()

    def _hand_over(self, task: DecodeTask) -> bool:
        """Return whether the process took the task."""
        with suppress(EOFError, OSError):
            self._connection.send(task)
            return self._wait(START_SECONDS) is None and self._connection.recv() == TAKEN
        return False

    def _receive_result(self, task: DecodeTask) -> Frames | Failure | None:
        """Return the result, or None if the task is to be tried in a fresh process."""
        try:
            silence = self._wait(self._timeout_seconds)
            if silence is not None:
                self.restart()
                return self._blame(task, silence)
            result = self._shared.receive(self._connection)
        except (EOFError, OSError):
            self.restart()
            return Failure(task.row, "decode", "crashed", "the decoding process died")
        if isinstance(result, Outage):
            raise OutageError(result.message)
        if isinstance(result, str):
            raise BuildError(f"decoding the clip in row {task.row} of the plan raised {result}")
        return result

    def _blame(self, task: DecodeTask, silence: Silence) -> Failure | None:
        """Return the failure of a clip whose process had to be stopped, None where it has none."""
        if silence is Silence.STOPPED:
            return None
        if silence is Silence.LATE:
            message = f"decoding took longer than {self._timeout_seconds:g} s"
            return Failure(task.row, "decode", "timed_out", message)
        message = f"decoding took over {self._memory_mib} MiB of memory"
        return Failure(task.row, "decode", "out_of_memory", message)

    def _wait(self, limit_seconds: float) -> Silence | None:
        """Wait until the process sends something, or is dead; return why that lasts too long.

        The time counts in which both processes ran, or could have run: a machine that sleeps, or
        that is frozen or stopped, or whose disk does not answer, loses no clip.
        """
        awake_seconds = stopped_seconds = 0.0
        last = time.monotonic()
        while not self._connection.poll(WATCH_SECONDS):
            step, last = time.monotonic() - last, time.monotonic()
            status, resident_mib = self._look()
            if resident_mib > self._memory_mib:
                return Silence.LARGE
            if step > MAX_STEP_SECONDS or status == psutil.STATUS_DISK_SLEEP:
                continue
            if status in STOPPED:
                stopped_seconds += step
            else:
                awake_seconds, stopped_seconds = awake_seconds + step, 0.0
            if stopped_seconds >= STOPPED_SECONDS:
                return Silence.STOPPED
            if awake_seconds >= limit_seconds:
                return Silence.LATE
        return None

    def _look(self) -> tuple[str, float]:
        """Return the status of the process, as psutil calls it, and its resident memory in MiB."""
        # One that is dead cannot be measured, as the pipe tells; none can without descriptors.
        with suppress(psutil.Error, OSError):
            process = psutil.Process(self._process.pid)
            return process.status(), float(process.memory_info().rss / 2**20)
        return psutil.STATUS_DEAD, 0.0


def serve(connection: Connection, shared: SharedPixels, decode: Decode) -> None:
    """Decode what comes through the pipe until it is closed; the main function of a worker."""
    # A terminal or a job sends signals to all its processes. A worker that ended by itself would
    # cost a clip, so the parent decides what becomes of the workers.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    use_one_thread()
    with suppress(EOFError, ConnectionError):
        while True:
            task = connection.recv()
            connection.send(TAKEN)
            shared.send(connection, decode_or_explain(task, decode, connection))


def end_with_parent() -> None:
    """Make Linux kill this process when the build ends, even in the middle of a hang."""
    if sys.platform != "linux":
        return
    # The server, which is the parent, ends once the build and whoever else holds this pipe have
    # ended. A worker holds it so as to start processes of its own, which it never does.
    server = getattr(forkserver, "_forkserver", None)
    pipe = getattr(server, "_forkserver_alive_fd", None)
    if pipe is not None:
        os.close(pipe)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    build = multiprocessing.parent_process()
    if build is None or not build.is_alive():
        sys.exit(1)


def decode_or_explain(
    task: DecodeTask, decode: Decode, connection: Connection
) -> Frames | Failure | Outage:
    """Return the frames of a clip, or what about it, or about the machine, made decoding fail."""
    try:
        return decode(task)
    except OutageError as error:
        return Outage(str(error))
    except (MemoryError, ArithmeticError, *LIBRARY_ERRORS) as error:
        if is_out_of_memory(error):
            return Failure(task.row, "decode", "out_of_memory", "decoding ran out of memory")
        message = f"decoding raised {type(error).__name__}"
        return Failure(task.row, "decode", "decode_error", message)
    except OSError as error:
        return Outage(f"{task.path}: {error.strerror or type(error).__name__}")
    except BaseException as error:
        # No file causes this: it is an error of this program, and its traceback goes to stderr.
        connection.send(" ".join(f"{type(error).__name__}: {error}".split()))
        raise
