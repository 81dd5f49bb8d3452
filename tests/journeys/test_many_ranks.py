"""The ranks of a job array give the bytes of one process, even if one of them is killed."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.datasets.builds import build_arguments, command_line, published_hashes
from tests.support.kinetics.miniature import MiniKinetics
from tests.support.processes.checkout import SOURCE_PATHS

pytestmark = [pytest.mark.needs_ffmpeg, pytest.mark.slow]

N_RANKS = 4
WAIT_SECONDS = 240


@contextmanager
def start_rank(arguments: list[str], rank: int) -> Iterator["subprocess.Popen[str]"]:
    """Start one task of an array of four, in a process group of its own."""
    array = {"ID": rank, "MIN": 0, "MAX": N_RANKS - 1, "STEP": 1, "COUNT": N_RANKS}
    slurm = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in array.items()}
    with subprocess.Popen(
        command_line(*arguments, "--rows-per-part", "1", "--quiet"),
        env={**os.environ, **slurm, "PYTHONPATH": SOURCE_PATHS},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process


def run_rank(arguments: list[str], rank: int) -> None:
    """Run one task of the array to its good end."""
    with start_rank(arguments, rank) as process:
        _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0, errors


@pytest.fixture
def arguments(mini_kinetics: MiniKinetics, random_model: Path, tmp_path: Path) -> list[str]:
    """Return the command line of the build that every rank runs."""
    return build_arguments(mini_kinetics, random_model, tmp_path / "out")


def test_four_processes_give_the_bytes_of_one(
    arguments: list[str], dataset: Path, tmp_path: Path
) -> None:
    """Four tasks of a job array at once: none is told its rank but by Slurm's variables."""
    with (
        start_rank(arguments, 0) as zero,
        start_rank(arguments, 1) as one,
        start_rank(arguments, 2) as two,
        start_rank(arguments, 3) as three,
    ):
        for process in (zero, one, two, three):
            _, errors = process.communicate(timeout=WAIT_SECONDS)
            assert process.returncode == 0, errors
    assert published_hashes(tmp_path / "out") == published_hashes(dataset)


def test_a_killed_rank_is_run_again_alone(
    arguments: list[str], dataset: Path, tmp_path: Path
) -> None:
    """Kill one of four at work: the others end well, it alone is run again and assembles."""
    parts = tmp_path / "out/.build/parts"
    with start_rank(arguments, 2) as process:
        while process.poll() is None and not list(parts.glob("*.json")):
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    for rank in (0, 1, 3):
        run_rank(arguments, rank)
    assert not (tmp_path / "out/manifest.json").exists()
    before = {path: path.stat().st_mtime_ns for path in parts.glob("*.json")}
    run_rank(arguments, 2)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert published_hashes(tmp_path / "out") == published_hashes(dataset)
