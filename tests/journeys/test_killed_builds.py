"""Builds that are killed again and again end in the files of a build that was left alone."""

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.datasets.builds import build_arguments, command_line, published_hashes
from tests.support.kinetics.cvdf import CvdfTree
from tests.support.kinetics.miniature import MiniKinetics
from tests.support.processes.checkout import SOURCE_PATHS
from tests.support.processes.torture import count_cases, say_count

pytestmark = [pytest.mark.needs_ffmpeg, pytest.mark.torture, pytest.mark.slow]

SEED = 5
N_KILLS = count_cases(25, full=200)
KILLS_PER_TEST = 5
"""So that no test takes longer than a hanging one may."""


class Killer:
    """Runs one command again and again and kills its process group at random moments."""

    def __init__(self, command: list[str], output: Path, rng: random.Random) -> None:
        """Take the command that writes to `output`."""
        self._command = command
        self._output = output
        self._rng = rng
        self.n_killed = 0
        self.n_at_work = 0
        self.work_seconds = 1.0
        """Seconds that a run goes on once it writes, learned from runs that end by themselves."""

    def run(self) -> bool:
        """Run it and kill it; return whether it was done before."""
        with self._start() as process:
            try:
                # Most of a short run is the import of torch: two of three kills come later.
                is_early = self._rng.random() < 1 / 3
                if is_early:
                    time.sleep(self._rng.uniform(0, 3))
                else:
                    self._wait_for_writes(process)
                    begin = time.monotonic()
                    time.sleep(self._rng.uniform(0, self.work_seconds))
                is_done = process.poll() is not None
                if not is_done:
                    os.killpg(process.pid, signal.SIGKILL)
                    self.n_killed += 1
                    self.n_at_work += not is_early
            finally:
                kill_group(process)
        if is_done:
            assert process.returncode == 0
            self.work_seconds = max(0.3, 0.8 * (time.monotonic() - begin)) if not is_early else 1.0
        return is_done

    def finish(self) -> None:
        """Run it and leave it alone."""
        with self._start() as process:
            process.wait(timeout=120)
        assert process.returncode == 0

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self._command,
            env={**os.environ, "PYTHONPATH": SOURCE_PATHS},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _wait_for_writes(self, process: "subprocess.Popen[bytes]") -> None:
        before = list_states(self._output)
        while process.poll() is None and list_states(self._output) == before:
            time.sleep(0.005)


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill what is left of a process group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def list_states(output: Path) -> set[tuple[str, int]]:
    """Return names and times of all files below a directory, locks left out."""
    states = set()
    for path in output.rglob("*"):
        # A partial file may be gone meanwhile.
        with suppress(FileNotFoundError):
            if path.suffix != ".lock":
                states.add((str(path), path.stat().st_mtime_ns))
    return states


@pytest.mark.parametrize("number", range(N_KILLS // KILLS_PER_TEST))
def test_however_often_a_build_is_killed_its_files_are_the_same(
    dataset: Path, mini_kinetics: MiniKinetics, random_model: Path,
    trees: dict[str, CvdfTree], tmp_path: Path, number: int,
) -> None:  # fmt: skip
    """Each `kill -9` is followed by a restart; every build that ends has the undisturbed bytes."""
    rng = random.Random(SEED + number)
    sources = [
        ["--videos", str(mini_kinetics.videos)],
        ["--source", "cvdf", "--version", "600", "--base-url", str(trees["600"].root)],
    ]
    n_killed = n_at_work = n_builds = 0
    while n_killed < KILLS_PER_TEST:
        output = tmp_path / f"build-{n_builds}"
        arguments = build_arguments(mini_kinetics, random_model, output)
        at = arguments.index("--videos")
        arguments[at : at + 2] = sources[number % 2]
        killer = Killer(command_line(*arguments, "--rows-per-part", "2"), output, rng)
        while killer.n_killed + n_killed < KILLS_PER_TEST and not killer.run():
            pass
        killer.finish()
        n_killed += killer.n_killed
        n_at_work += killer.n_at_work
        n_builds += 1
        assert published_hashes(output) == published_hashes(dataset)
        assert not [*output.rglob("*.partial")]
    assert n_at_work > 0
    say_count(
        f"{n_killed} kills of a whole process group, seed {SEED + number}: {n_at_work} at work, "
        f"{n_builds} builds ended in the undisturbed bytes"
    )
