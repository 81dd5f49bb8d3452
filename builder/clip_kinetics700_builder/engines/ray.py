"""Encodes parts on a Ray cluster, a group of parts in each task.

Ray decides where a task runs, and where it runs again when its process or its node is lost; what is
finished stands in the directory that all nodes share. No other module imports ray.
"""

import logging
import os
import signal
import socket
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import uuid4

import ray
from filelock import Timeout
from ray.exceptions import RayError, RayTaskError

from clip_kinetics700_builder.config import EncodeConfig
from clip_kinetics700_builder.decode.video import check_decoder
from clip_kinetics700_builder.encode.devices import resolve_decoder
from clip_kinetics700_builder.engines.cluster import divide_nodes
from clip_kinetics700_builder.engines.local import (
    EncodeParts,
    LocalEngine,
    Started,
    count_clips,
    start_engine,
)
from clip_kinetics700_builder.engines.prepare import Job, prepare_engine
from clip_kinetics700_builder.parts.part import PartReport, is_done, read_report
from clip_kinetics700_builder.parts.work import parts_directory
from clip_kinetics700_builder.system.locks import acquire_lock
from clip_kinetics700_builder.system.progress import Progress
from clip_kinetics700_builder.types import BuildError, InputError, Part

log = logging.getLogger(__name__)

# So many groups that all slots end at about the same time, and a lost task costs little time.
GROUPS_PER_SLOT = 16
# How often Ray starts a task anew after losing its process or node: a group of parts that kills
# every process must not go round for ever.
MAX_RETRIES = 8
# How often a part gets a task: none can finish it while a process of a lost node holds its lock.
MAX_ROUNDS = 3
# An NFS server frees the locks of a machine that is gone after 90 s; an archive takes minutes.
LOCK_SECONDS = 900.0
CONNECT_SECONDS = 10.0
# The errors of a task that have a line of ours, or of the system's, for the user.
TASK_ERRORS = (InputError, BuildError, OSError, MemoryError)


@dataclass(frozen=True, slots=True)
class Assignment:
    """What every task of a build is given."""

    token: str
    """Names the build: by it a process knows what it has opened already."""
    config: EncodeConfig
    job: Any
    """Ray's reference to the `Job`, which a process fetches once."""


@dataclass(frozen=True, slots=True)
class Session:
    """What a process of the cluster keeps from task to task: the model, the decoders."""

    engine: LocalEngine
    started: Started
    gpus: str | None
    """The GPUs that Ray had given this process when the model was loaded."""
    exits: ExitStack
    """Ends the session when it is closed."""


# The session of this process by its token; there is at most one.
_sessions: dict[str, Session] = {}


def encode_group(assignment: Assignment, parts: Sequence[Part]) -> list[PartReport]:
    """Encode a group of parts in this process of the cluster; an empty group only loads the model.

    Returns:
        Reports of the finished parts, even those that an earlier try of this task finished.
    """
    session = open_session(assignment)
    for _ in session.engine.encode_parts(parts, session.started):
        pass
    directory = session.engine.parts_directory
    return [read_report(directory, part.name) for part in parts if is_done(directory, part.name)]


def open_session(assignment: Assignment) -> Session:
    """Return the session of this process; the first task of an assignment opens it."""
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    session = _sessions.get(assignment.token)
    if session is None:
        for name in list(_sessions):
            _sessions.pop(name).exits.close()
        check_decoder(resolve_decoder(assignment.config.model))
        engine = prepare_engine(assignment.config, ray.get(assignment.job))
        exits = ExitStack()
        started = exits.enter_context(start_engine(assignment.config, engine))
        session = _sessions[assignment.token] = Session(engine, started, gpus, exits)
    elif session.gpus != gpus:
        # torch stays on its first GPU, which is another task's now: Ray starts this task anew in
        # another process.
        os._exit(1)
    return session


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Ray cluster that is ready for parts."""

    task: Any
    """`encode_group` as Ray runs it."""
    assignment: Assignment
    n_slots: int
    """How many tasks run at a time."""

    def encode_parts(
        self, parts: list[Part], *, n_archive_rows: int, progress: Progress
    ) -> tuple[list[PartReport], float]:
        """Encode parts as `EncodeParts` says.

        Raises:
            BuildError: another process holds a part, and does not give it up.
        """
        begin = time.monotonic()
        done: dict[str, PartReport] = {}
        left = parts
        with progress("encode", count_clips(parts, n_archive_rows), "clips") as advance:
            for _ in range(MAX_ROUNDS):
                # Within a group decoders never wait.
                length = max(1, len(left) // (self.n_slots * GROUPS_PER_SLOT))
                groups = [left[first : first + length] for first in range(0, len(left), length)]
                # The tasks must be cancelled before the connection ends, whatever ends this loop.
                with closing(self.start_tasks(groups)) as results:
                    for reports in results:
                        done |= {report.name: report for report in reports}
                        advance(sum(len(report.rows) for report in reports))
                left = [part for part in left if part.name not in done]
                if not left:
                    return list(done.values()), time.monotonic() - begin
                for part in left:
                    self.wait_for(part)
        raise BuildError(f"part {left[0].name}: {MAX_ROUNDS} tasks in turn have not finished it")

    def start_tasks(
        self, groups: Sequence[Sequence[Part]]
    ) -> Generator[list[PartReport], None, None]:
        """Give Ray a task for each group; yield what each has finished, in the order they end.

        Raises:
            InputError: a task has raised it, or another error of ours.
            BuildError: Ray has given up on a task.
        """
        tasks = [self.task.remote(self.assignment, group) for group in groups]
        try:
            # Ray's own way of waiting would lose the exception of a signal.
            for future in as_completed([task.future() for task in tasks]):
                yield future.result()
        except RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise (cause if isinstance(cause, TASK_ERRORS) else error) from error
        except RayError as error:
            line = next(iter(str(error).splitlines()), type(error).__name__)
            raise BuildError(f"Ray gave up on a task: {line}; run it again to go on") from error
        finally:
            for task in tasks:
                ray.cancel(task, force=True)

    def wait_for(self, part: Part) -> None:
        """Wait until no process holds a part."""
        lock = parts_directory(self.assignment.config.work) / f"{part.name}.lock"
        log.info("part %s is held by a process that Ray has lost; waiting for it", part.name)
        try:
            acquire_lock(lock, LOCK_SECONDS).release()
        except Timeout as error:
            raise BuildError(
                f"part {part.name}: another process holds {lock}; end it and run this again"
            ) from error


@contextmanager
def open_cluster(config: EncodeConfig, job: Job, *, progress: Progress) -> Iterator[EncodeParts]:
    """Connect to a cluster; yield what encodes parts there.

    One task first finds out what is wrong, or what `auto` means there.

    Raises:
        InputError: there is no such cluster, or none of its nodes can do the work.
    """
    with connect(config):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        share = divide_nodes(config, nodes)
        assignment = Assignment(
            uuid4().hex, share.config, ray.put(replace(job, world_size=share.n_slots))
        )
        remote: Any = ray.remote
        task = remote(
            num_cpus=share.n_cpus,
            num_gpus=share.n_gpus,
            max_retries=MAX_RETRIES,
            max_calls=0,  # the process stays, with the model that it has loaded
        )(encode_group)
        cluster = Cluster(task, assignment, share.n_slots)
        list(cluster.start_tasks([[]]))
        log.info("Ray: %d nodes, %d tasks at a time", len(nodes), share.n_slots)
        n_archive_rows = len(job.list_archive_rows())
        yield partial(cluster.encode_parts, n_archive_rows=n_archive_rows, progress=progress)


@contextmanager
def connect(config: EncodeConfig) -> Iterator[None]:
    """Make this process a driver of the cluster that the options name."""
    shown, address = "--ray-address", config.run.ray_address
    if address in (None, "auto") and os.environ.get("RAY_ADDRESS"):
        shown, address = "RAY_ADDRESS", os.environ["RAY_ADDRESS"]
    shown = f"{shown} {address}" if address else "--engine ray"
    check_address(shown, address)
    is_verbose = log.isEnabledFor(logging.INFO)
    logging.getLogger("ray").setLevel(logging.WARNING if is_verbose else logging.ERROR)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            include_dashboard=False,
            configure_logging=False,
            log_to_driver=is_verbose,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{shown}: {line}") from error
    finally:
        # Ray's own handler would end this process with an exit code of 15.
        if signal.getsignal(signal.SIGTERM) is not handler:
            signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()


def check_address(shown: str, address: str | None) -> None:
    """Refuse an address at which nothing answers: Ray itself would try for two minutes."""
    if address in (None, "auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if address.startswith("ray://") or not host or not port.isdecimal():
        raise InputError(
            f"{shown}: HOST:PORT of the head node, auto or local is needed "
            "(the build itself runs on a node of the cluster, without Ray Client)"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS):
            pass
    except (OSError, OverflowError) as error:
        raise InputError(f"{shown}: nothing answers there: {error}") from error
