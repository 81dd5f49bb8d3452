"""`convert`, `info` and `index` survive a kill without warning, in bounded memory."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clip_kinetics700_builder.verify.dataset import verify_dataset
from tests.support.datasets.builds import command_line, published_hashes
from tests.support.datasets.conversions import list_reports, read_states
from tests.support.datasets.dialects import foreign_members, random_array
from tests.support.datasets.layouts import write_members
from tests.support.processes.checkout import SOURCE_PATHS

ENVIRONMENT = {**os.environ, "PYTHONPATH": SOURCE_PATHS}
KILLED_SAMPLES, KILLED_TARS = 300, 20


@pytest.fixture(scope="module")
def long_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of 6,000 samples in 20 tars: converting it takes seconds."""
    source = tmp_path_factory.mktemp("long") / "source"
    (source / "train").mkdir(parents=True)
    for tar in range(KILLED_TARS):
        numbers = range(tar * KILLED_SAMPLES, (tar + 1) * KILLED_SAMPLES)
        members = [m for number in numbers for m in foreign_members(number, random_array(number))]
        write_members(source / f"train/{tar:06d}.tar", members)
    return source


def convert_words(source: Path, output: Path) -> list[str]:
    """Return the command of a conversion into shards of 250."""
    words = ("convert", source, output, "--samples-per-shard", "250", "--quiet", "--no-figures")
    return command_line(*words)


def kill_in_the_middle(words: list[str], output: Path, n_reports: int) -> None:
    """Start a command and kill it, with no chance to clean up, when so many shards are done."""
    process = subprocess.Popen(words, env=ENVIRONMENT)
    try:
        while len(list_reports(output)) < n_reports:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def list_finished(output: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of the files of shards that are reported finished."""
    numbers = {int(name[len("train-") : -len(".json")]) for name in list_reports(output)}
    names = {f"ds_{number:06d}.tar" for number in numbers}
    names |= {f"train-{number:05d}-of-00024.parquet" for number in numbers}
    states = read_states(output)
    return {name: states[name] for name in names}


@pytest.mark.slow
def test_a_killed_conversion_goes_on(long_source: Path, tmp_path: Path) -> None:
    """After `kill -9`, twice, the third run keeps what was done and ends with the same bytes."""
    words = convert_words(long_source, tmp_path / "undisturbed")
    subprocess.run(words, env=ENVIRONMENT, check=True)
    output = tmp_path / "killed"
    words = convert_words(long_source, output)
    done: dict[str, tuple[int, int]] = {}
    for n_reports in (3, 9):
        kill_in_the_middle(words, output, n_reports)
        assert not (output / "manifest.json").exists()
        assert read_states(output).items() >= done.items()
        done = list_finished(output)
        assert len(done) >= 2 * n_reports
    subprocess.run(words, env=ENVIRONMENT, check=True)
    assert read_states(output).items() >= done.items()
    assert published_hashes(output) == published_hashes(tmp_path / "undisturbed")
    assert verify_dataset(output) == []


def measure_memory(*words: str | Path) -> int:
    """Run a command; return the most MiB it ever held, pages of mapped files included."""
    # A child's ru_maxrss starts with its parent's; VmHWM belongs to the program itself.
    code = (
        "import sys, clip_kinetics700_builder.cli.app as c\n"
        "assert not c.cli.main(sys.argv[1:], standalone_mode=False)\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "print(next(line.split()[1] for line in lines if line.startswith('VmHWM')))"
    )
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) >> 10


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Sources of 140 and 420 MB, in tars of 14 MB.

    A conversion of a smaller source has not filled all its buffers yet: it takes 360 MiB for 70 MB,
    and 385 to 435 MiB for 140, 280 and 560 MB alike.
    """
    directory = tmp_path_factory.mktemp("memory")
    rng = np.random.default_rng(0)
    array = rng.standard_normal((10, 512)).astype(np.float16)
    for name, n_tars in (("small", 10), ("large", 30)):
        (directory / name / "train").mkdir(parents=True)
        for tar in range(n_tars):
            numbers = range(1000 * tar, 1000 * (tar + 1))
            members = [member for n in numbers for member in foreign_members(n, array)]
            write_members(directory / name / f"train/{tar:06d}.tar", members)
    return [directory / "small", directory / "large"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("command", ["convert", "info", "index"])
def test_memory_does_not_grow_with_the_source(
    sources: list[Path], tmp_path: Path, command: str
) -> None:
    """Thrice the data, 280 MB more, takes no more than what one run differs from another."""
    used = []
    for source in sources:
        places = {"convert": [tmp_path / source.name], "info": [], "index": []}[command]
        used.append(measure_memory(command, source, *places, "--quiet"))
    small, large = used
    assert large - small < 90, used
