"""Ten thousand damaged datasets give an error of ours or a right answer, by every entry point.

A reading of a mutant may give rows that are bit for bit what its bytes say, as `tarfile`, `numpy`,
`json` and `pyarrow` read them; or `DamageError`, or an error that names the source; or, where
damage is skipped, the rows that are left and a warning. It may never crash, hang, take memory
without bounds, unpickle an object, or leave out rows without a word.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pytest

from tests.support.damage.mutant_reading import JOURNAL
from tests.support.damage.mutations import BASES, FAMILIES, SEED, make_mutant
from tests.support.processes.checkout import PROJECT, SOURCE_PATHS
from tests.support.processes.torture import count_cases, say_count

N_PROCESSES = 2
N_SUITE, N_FULL = 2_000, 10_000
# Some mutants of each family must be read whole and some refused, or they are too mild or too wild.
MIN_SHARE = 0.05
MAX_TOLD = 10
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}

Command: TypeAlias = Callable[[Path, range], list[str]]
"""A function that returns the command to read some mutants in a directory."""


class Result(NamedTuple):
    """The outcome of one mutant at one entry point."""

    number: int
    way: str
    outcome: str


def reading_command(directory: Path, numbers: range) -> list[str]:
    """Return the command that reads mutants."""
    where = (str(directory), str(numbers.start), str(numbers.stop), str(numbers.step))
    return [sys.executable, "-m", "tests.support.damage.mutant_reading", *where]


def read_mutants(
    directory: Path, numbers: range, command: Command = reading_command
) -> list[Result]:
    """Return what came of mutants; a process that dies of one is followed by one for the rest."""
    directory.mkdir(parents=True, exist_ok=True)
    journal = directory / JOURNAL
    results: list[Result] = []
    while numbers:
        journal.write_text("")
        process = subprocess.run(
            command(directory, numbers),
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": SOURCE_PATHS, **QUIET},
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        ended = [line for line in lines if "outcomes" in line]
        results += [Result(d["number"], *item) for d in ended for item in d["outcomes"].items()]
        last = lines[-1]["number"] if lines else numbers[0]
        if process.returncode or len(ended) < len(numbers):
            how = f"died with code {process.returncode}: {process.stderr[-2000:]}"
            results.append(Result(last, "process", f"WRONG: {how}"))
        numbers = numbers[numbers.index(last) + 1 :]
    return results


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    """The outcomes of all mutants of this run."""
    n_mutants = count_cases(N_SUITE, full=N_FULL)
    begin = time.monotonic()
    place = tmp_path_factory.mktemp("mutants")
    parts = [range(first, n_mutants, N_PROCESSES) for first in range(N_PROCESSES)]
    with ThreadPoolExecutor(N_PROCESSES) as pool:
        found = pool.map(read_mutants, [place / str(part.start) for part in parts], parts)
        results = [result for group in found for result in group]
    seconds = time.monotonic() - begin
    counts = ", ".join(f"{n} {word}" for word, n in count_outcomes(results).most_common())
    say_count(
        f"{n_mutants} mutated datasets, seed {SEED}, {len(results)} readings in {seconds:.0f} s: "
        f"{counts}"
    )
    return results


def count_outcomes(results: Iterable[Result]) -> Counter[str]:
    """Count `equal`, `refused`, `skipped` and `WRONG`."""
    return Counter(result.outcome.partition(":")[0] for result in results)


def tell_faults(results: Sequence[Result]) -> str:
    """Return what was wrong: numbers, what was done to the input, through which way."""
    faults = [result for result in results if result.outcome.startswith("WRONG")]
    lines = [f"{len(faults)} of {len(results)} readings, seed {SEED}:"]
    for number, way, outcome in faults[:MAX_TOLD]:
        mutant = make_mutant(number)
        lines.append(f"mutant {number} of {mutant.base}, {mutant.what}, by {way}: {outcome}")
    return "\n".join(lines) if faults else ""


@pytest.mark.torture
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_mutants_are_refused_or_read_right(results: list[Result], family: str) -> None:
    """Every mutant is read bit for bit as its bytes say, or refused, or left out with a warning."""
    place = list(FAMILIES).index(family)
    mine = [result for result in results if result.number % len(FAMILIES) == place]
    faults = tell_faults(mine)
    assert not faults, faults
    counts = count_outcomes(mine)
    assert counts["equal"] >= MIN_SHARE * len(mine)
    assert counts["refused"] + counts["skipped"] >= MIN_SHARE * len(mine)


@pytest.mark.slow
def test_sound_datasets_are_equal_through_every_way(tmp_path: Path) -> None:
    """Every entry point reads an undamaged dataset whole: nothing is refused in vain."""
    results = read_mutants(tmp_path, range(-len(BASES), 0))
    assert [result for result in results if result.outcome != "equal"] == []
    assert len({result.number for result in results}) == len(BASES)


DYING = """
import ctypes, os, sys, time
from pathlib import Path
from tests.support.damage.mutant_reading import Journal
journal = Journal(Path(sys.argv[1]), seconds=1)
for number in range(*map(int, sys.argv[2:])):
    journal.begin(number)
    if number == 2:
        ctypes.string_at(0)
    if number == 4:
        time.sleep(60)
    if number == 5:
        os._exit(0)
    journal.end(number, {"way": "equal"})
"""


@pytest.mark.slow
def test_a_case_that_crashes_or_hangs_is_named(tmp_path: Path) -> None:
    """A crash, a hang and a silent exit name their number, and all other mutants are read."""

    def command(directory: Path, numbers: range) -> list[str]:
        return [sys.executable, "-c", DYING, *reading_command(directory, numbers)[3:]]

    results = read_mutants(tmp_path, range(7), command)
    dead = {result.number: result.outcome for result in results if result.way == "process"}
    assert list(dead) == [2, 4, 5]
    assert "Segmentation fault" in dead[2]
    assert "Timeout" in dead[4]
    assert [result.number for result in results if result.outcome == "equal"] == [0, 1, 3, 6]
