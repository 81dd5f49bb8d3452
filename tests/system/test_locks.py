"""A lock keeps others out until its process ends, on file systems with and without locks."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes.checkout import SOURCE_PATHS
from tests.support.processes.failing_disk import FailingDisk

PROGRAM = """
import logging, sys
from pathlib import Path
from clip_kinetics700_builder.system import locks
locks.LEASE_SECONDS = 1.0
logging.basicConfig(format="%(message)s")
with locks.hold_lock(Path(sys.argv[1]), "taken"):
    print("held", flush=True)
    sys.stdin.read()
"""


def start(file: Path, environment: dict[str, str]) -> "subprocess.Popen[str]":
    """Start a process that holds a lock until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(file)],
        env={**os.environ, "PYTHONPATH": SOURCE_PATHS, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(params=[0, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def environment(
    request: pytest.FixtureRequest, failing_disk: FailingDisk, tmp_path: Path
) -> dict[str, str]:
    """The variables of a process on a file system with locks, or without."""
    if not request.param:
        return {}
    return failing_disk.environment("flock", request.param, "a.lock", tmp_path)


def test_a_lock_keeps_others_out_while_its_process_lives(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """The second process is told; once the first has ended, a third one gets the lock."""
    file = tmp_path / "a.lock"
    with start(file, environment) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with start(file, environment) as second:
            assert "InputError: taken" in second.communicate()[1]
        first.kill()
    with start(file, environment) as third:
        assert third.communicate()[0] == "held\n"


@pytest.mark.parametrize("content", ["4242\nothernode\n", "what is this"])
def test_the_lease_of_a_dead_host_is_given_up(
    content: str, failing_disk: FailingDisk, tmp_path: Path
) -> None:
    """A message names the process that gave no sign."""
    file = tmp_path / "a.lock"
    file.write_text(content)
    environment = failing_disk.environment("flock", errno.ENOLCK, "a.lock", tmp_path)
    with start(file, environment) as process:
        out, messages = process.communicate()
    assert out == "held\n", messages
    if "othernode" in content:
        assert "taken from process 4242 of othernode, which gave no sign" in messages
