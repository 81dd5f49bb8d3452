"""Runs programs that write on a faulty disk, each in a fork of a process that has imported all.

`python -m tests.support.processes.disk_fault_programs` reads a program's name, a directory and a
fault from each line of its input, as JSON, and answers how the program ended and which calls would
have changed the directory.
"""

import json
import os
import platform
import resource
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from clip_kinetics700_builder.cli.app import FAILED, describe_error
from clip_kinetics700_builder.config import AssembleConfig, ConvertConfig, SourceConfig
from clip_kinetics700_builder.convert.convert import convert
from clip_kinetics700_builder.parts.part import finish_part, is_done, write_results
from clip_kinetics700_builder.parts.work import Sources, WorkConfig, store_sources, store_work
from clip_kinetics700_builder.sources.ledger import (
    Attempt,
    FetchError,
    Ledger,
    failed,
    got,
    read_attempts,
)
from clip_kinetics700_builder.types import Clip, Part
from tests.support.damage.datasets import (
    CLASS_NAMES,
    ROWS,
    WIDTH,
    ChangedRows,
    SmallRows,
    make_dataset,
)
from tests.support.datasets.works import assemble_work, encode_small
from tests.support.processes.checkout import SOURCE_PATHS
from tests.support.processes.faulty_disk import (
    CPU_SECONDS,
    MACHINES,
    Call,
    Disk,
    Fault,
    install_filter,
)

SOURCE_NAME = "source"
"""Beside the directory of a conversion lies what it converts."""
BATCHES = 4
CLIPS = [
    Clip("train", f"-a_{row:08d}", row, row + 10, "abseiling", "abseiling") for row in range(9)
]


def write_part(directory: Path) -> None:
    """Write one part of a build, if it is not finished."""
    rows = range(ROWS["train"])
    part = Part("train-00000", list(rows))
    if is_done(directory, part.name):
        return
    results = [SmallRows().result("train", row) for row in rows]
    canary = np.arange(WIDTH, dtype=np.float32)
    finish_part(directory, write_results(directory, part, results, width=WIDTH, canary=canary))


def store_begin(directory: Path) -> None:
    """Store what a build decides once: configuration, plan and sources."""
    configuration = {"dtype": "float32", "preprocessing": {"crop": [224, 224]}}
    config = WorkConfig(configuration, CLASS_NAMES, "cpu", 500)
    store_work(directory, lambda _: config, CLIPS)
    store_sources(directory, Sources(has_videos=True, archives=("first.tar", "second.tar")))


def write_ledger(directory: Path) -> None:
    """Append the attempts that are not in the ledger yet, some at a time."""
    path = directory / "ledger.jsonl"
    ledger = Ledger(path)
    n_before = sum(1 for _ in read_attempts(path))
    attempts = list_attempts()
    size = len(attempts) // BATCHES
    for begin in range(0, len(attempts), size):
        ledger.write(attempts[max(begin, n_before) : begin + size])


def list_attempts() -> list[Attempt]:
    """Return attempts of which some fill more than a buffer."""
    error = FetchError("timed_out", "nothing came for too long: " + "." * 3000)
    return [
        got(clip, "cvdf", bytes=1000) if row % 3 else failed(clip, "cvdf", error)
        for row, clip in enumerate(4 * CLIPS)
    ]


def convert_small(directory: Path) -> None:
    """Convert the dataset that lies beside the directory."""
    source = SourceConfig(source=str(directory.with_name(SOURCE_NAME)))
    assembly = AssembleConfig(
        source=directory, output=directory, samples_per_shard=4, figures=False
    )
    config = ConvertConfig(source=source, assembly=assembly)
    _, problems = convert(config)
    assert not problems, problems


def assemble_small(directory: Path) -> None:
    """Assemble small rows as tars and Parquet files."""
    make_dataset(directory)


def prepare_replacement(directory: Path) -> None:
    """Make a dataset whose parts have changed since it was assembled."""
    work = directory / ".build"
    encode_small(work)
    assemble_work(work, directory)
    (work / "parts/train-00001.json").unlink()
    encode_small(work, ChangedRows())


def replace_small(directory: Path) -> None:
    """Assemble what the directory's parts are now."""
    assemble_work(directory / ".build", directory)


PROGRAMS: dict[str, Callable[[Path], object]] = {
    "assemble": assemble_small,
    "part": write_part,
    "work": store_begin,
    "ledger": write_ledger,
    "convert": convert_small,
    "replace": replace_small,
}


@dataclass(slots=True)
class Outcome:
    """How a program ended."""

    end: str
    """`done`, `error`, `crash`, `hang`, `refused` or `signal N`."""
    message: str = ""
    """The line that a user gets of an error; why seccomp is refused."""
    stderr: str = ""
    calls: list[Call] = field(default_factory=list)


def refuse_platform() -> str | None:
    """Return why there can be no such disk here, as far as the platform tells."""
    if sys.platform == "linux" and platform.machine() in MACHINES:
        return None
    return f"seccomp's numbers on {sys.platform} {platform.machine()} are not known here"


def run_program(name: str, directory: Path) -> Outcome:
    """Run a program in this process, with the errors that the command line takes for errors."""
    try:
        PROGRAMS[name](directory)
    except FAILED as error:
        return Outcome("error", describe_error(error))
    return Outcome("done")


def run_on_disk(name: str, directory: Path, fault: Fault | None) -> Outcome:
    """Run a program in a fork of this process, which does nothing else."""
    ours, theirs = socket.socketpair()
    stderr = os.memfd_create("stderr")
    pid = os.fork()
    if pid == 0:
        _run_child(name, directory, theirs, stderr)
    theirs.close()
    with ours:
        text, descriptors, _, _ = socket.recv_fds(ours, 4096, 1)
        if not descriptors:
            os.waitpid(pid, 0)
            os.close(stderr)
            return Outcome("refused", text.decode() or "the process died")
        disk = Disk(descriptors[0], pid, directory.resolve(), fault)
        is_hung = disk.watch()
        report = b"".join(iter(lambda: ours.recv(1 << 16), b""))
    os.close(descriptors[0])
    _, status = os.waitpid(pid, 0)
    outcome = Outcome(**json.loads(report)) if report else Outcome("crash")
    if os.WIFSIGNALED(status):
        outcome.end = f"signal {os.WTERMSIG(status)}"
    outcome.end = "hang" if is_hung else outcome.end
    outcome.stderr = os.pread(stderr, 1 << 16, 0).decode()
    os.close(stderr)
    outcome.calls = disk.calls
    return outcome


def _run_child(name: str, directory: Path, theirs: socket.socket, stderr: int) -> None:
    """Pass the listener on, run the program, say what came of it, and end."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    os.dup2(stderr, 1)
    os.dup2(stderr, 2)
    try:
        listener = install_filter(MACHINES[platform.machine()])
    except OSError as error:
        theirs.sendall(f"seccomp: {error}".encode())
        os._exit(0)
    socket.send_fds(theirs, [b"listener"], [listener])
    os.close(listener)
    outcome = Outcome("crash")
    try:
        outcome = run_program(name, directory)
    finally:
        if outcome.end == "crash":
            traceback.print_exc()
        sys.stderr.flush()
        theirs.sendall(json.dumps({"end": outcome.end, "message": outcome.message}).encode())
        # Nothing of the process that was forked may run in this one.
        os._exit(0)


class FaultyDisk(ExitStack):
    """Runs programs on a faulty disk, one after the other; use it in a `with` block."""

    def __init__(self) -> None:
        """Start the process that forks; neither numpy nor Arrow's allocator starts threads in it.

        A fork has none of them, and what they held at that moment is held for ever.
        """
        super().__init__()
        command = [sys.executable, "-m", "tests.support.processes.disk_fault_programs"]
        self._process = subprocess.Popen(
            command,
            env={
                **os.environ,
                "PYTHONPATH": SOURCE_PATHS,
                "OPENBLAS_NUM_THREADS": "1",
                "JE_ARROW_MALLOC_CONF": "background_thread:false",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.callback(self._process.communicate)

    def run(self, name: str, directory: Path, fault: Fault | None = None) -> Outcome:
        """Run a program on a directory; the calls of the outcome end with the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"name": name, "directory": str(directory), "fault": fault and asdict(fault)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return Outcome(**{**answer, "calls": [Call(**call) for call in answer["calls"]]})


def answer_requests() -> None:
    """Run what is asked for, until there are no more requests."""
    with TemporaryDirectory() as place:
        # These import now what programs import where they use it; no thread starts in them.
        assemble_small(Path(place))
        write_part(Path(place))
    for line in sys.stdin:
        request = json.loads(line)
        fault = request["fault"] and Fault(**request["fault"])
        outcome = run_on_disk(request["name"], Path(request["directory"]), fault)
        sys.stdout.write(json.dumps(asdict(outcome)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    answer_requests()
