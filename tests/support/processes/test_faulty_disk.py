"""The faulty disk takes a process for hung that will never get on, and no other."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import pytest

from tests.support.processes import faulty_disk
from tests.support.processes.faulty_disk import Disk

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

COMPUTE = "import time\nwhile time.process_time() < 0.5: pass"


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A listener that nobody asks, of a disk that looks often."""
    monkeypatch.setattr(faulty_disk, "LOOK_SECONDS", 0.1)
    reading, writing = os.pipe()
    yield reading
    os.close(reading)
    os.close(writing)


def watch(listener: int, *command: str, pause_seconds: float = 0.0) -> bool:
    """Watch a process, stopped for a while if asked for; tell whether it was taken for hung."""
    with subprocess.Popen(command, start_new_session=True) as process:
        if pause_seconds:
            process.send_signal(signal.SIGSTOP)
            Timer(pause_seconds, process.send_signal, [signal.SIGCONT]).start()
        return Disk(listener, process.pid, Path("/nowhere"), None).watch()


def test_a_process_that_waits_for_ever_hangs(listener: int) -> None:
    """All its threads sleep, look after look: it is killed."""
    assert watch(listener, "sleep", "60")


def test_a_process_that_computes_does_not_hang(listener: int) -> None:
    """It asks nothing for longer than two looks, and is waited for."""
    assert not watch(listener, sys.executable, "-S", "-c", COMPUTE)


def test_a_process_that_is_stopped_does_not_hang(listener: int) -> None:
    """As on a machine that is suspended, it gets on as soon as it may."""
    assert not watch(listener, "sleep", "0.05", pause_seconds=0.5)
