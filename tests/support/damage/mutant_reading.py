"""This program reads mutants through every entry point; it may die of one.

For each mutant it writes one line when it starts and one with what came of it: `equal`, `refused`,
`skipped`, or what is wrong. `python -m tests.support.damage.mutant_reading DIR 12 13 1` repeats
mutant 12.
"""

import faulthandler
import json
import logging
import os
import re
import resource
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import clip_kinetics700
from clip_kinetics700 import DamageError
from tests.support.damage.mutated_content import MARKER
from tests.support.damage.mutated_members import is_tar
from tests.support.damage.mutations import Mutant, make_mutant, read_base
from tests.support.datasets.entry_points import INDEX_WAYS, RARE_WAYS, SCAN_WAYS, Seen, Way
from tests.support.datasets.plain_reading import WORDS, Expected, Layout, plain_layout, read_scanned
from tests.support.datasets.plain_tables import INDEX, PARQUET, read_indexed, read_parquet

SECONDS_A_CASE = 60
# A shape of exabytes must not be allocated; torch alone maps a few gigabytes.
MAX_MEMORY = 8 << 30
ROUND = 10
RARELY = 12
OUR_ERRORS = (DamageError, ValueError, FileNotFoundError)
JOURNAL = "journal.jsonl"
LINE_END = re.compile(r"\r\n|\r|\n")


class Caught:
    """Keeps whatever error is raised inside."""

    error: Exception | None = None

    def __enter__(self) -> "Caught":
        """Enter the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Keep an error."""
        self.error = error if isinstance(error, Exception) else None
        return self.error is not None


class WarningCounter(logging.Handler):
    """Counts what our readers say that they leave out."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count a line."""
        self.count += record.getMessage().startswith(("skipped: ", "splits.csv leaves out"))


class Reading(NamedTuple):
    """What one entry point made of a mutant."""

    seen: list[Seen]
    error: Exception | None
    is_open: bool
    """Whether the error came after the source was open."""
    n_warnings: int
    layout: Layout
    names: tuple[str, ...]
    """Places of which an error of ours names one: the source, and its index."""


class Journal:
    """Writes which case starts and how it ended, so that the parent knows which one was deadly."""

    def __init__(self, directory: Path, seconds: float = SECONDS_A_CASE) -> None:
        """End the process of a case that takes longer."""
        self._path = directory / JOURNAL
        self._seconds = seconds
        faulthandler.enable()

    def begin(self, number: int) -> None:
        """Note the start of a case."""
        faulthandler.dump_traceback_later(self._seconds, exit=True)
        self._write({"number": number})

    def end(self, number: int, outcomes: Mapping[str, str]) -> None:
        """Note how the case ended through each way."""
        faulthandler.cancel_dump_traceback_later()
        self._write({"number": number, "outcomes": dict(outcomes)})

    def _write(self, line: Mapping[str, Any]) -> None:
        """Add a line that stays, whatever comes next."""
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def choose_ways(mutant: Mutant) -> list[Way]:
    """Return the entry points for a mutant, in rotation; all of them for a sound dataset."""
    turn = mutant.number // ROUND
    if mutant.number < 0:
        ways = [*SCAN_WAYS, *INDEX_WAYS, *RARE_WAYS]
    else:
        ways = [SCAN_WAYS[turn % len(SCAN_WAYS)], INDEX_WAYS[turn % len(INDEX_WAYS)]]
        if turn % RARELY == mutant.number % ROUND:
            ways.append(RARE_WAYS[turn // RARELY % len(RARE_WAYS)])
    return [way for way in ways if mutant.base != "parquet" or not way.is_elsewhere]


def run_case(number: int, work: Path) -> dict[str, str]:
    """Return how reading a mutant ended through some entry points."""
    mutant = make_mutant(number)
    directory = work / "mutant"
    shutil.rmtree(directory, ignore_errors=True)
    for name, data in mutant.files.items():
        path = (work / name) if name == INDEX else (directory / name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    outcomes = {}
    for way in choose_ways(mutant):
        if way.uses_index and not way.is_elsewhere and INDEX in mutant.files:
            shutil.copyfile(work / INDEX, directory / INDEX)
        outcomes[way.name] = judge(mutant, way, read(way, directory))
        (directory / INDEX).unlink(missing_ok=True)
    if Path(MARKER).exists():
        Path(MARKER).rmdir()
        outcomes["pickle"] = "WRONG: something was unpickled"
    return outcomes


def read(way: Way, directory: Path) -> Reading:
    """Read a dataset through one entry point."""
    counter, seen, layout, is_open = WarningCounter(), list[Seen](), Layout(), False
    logger = logging.getLogger("clip_kinetics700")
    logger.addHandler(counter)
    index = directory.parent / INDEX
    with way.place(directory) as source, Caught() as caught:
        dataset = clip_kinetics700.open(
            source, on_error=way.on_error, index=index if way.is_elsewhere else None
        )
        for split, paths in dataset.layout.files.items():
            layout[split] = [dataset.layout.relative(path) for path in paths]
        is_open = True
        for row in way.read(dataset, source):
            seen.append(row)
    logger.removeHandler(counter)
    names = (str(source), str(directory), str(index))
    return Reading(seen, caught.error, is_open, counter.count, layout, names)


def judge(mutant: Mutant, way: Way, reading: Reading) -> str:
    """Return `equal`, `refused`, `skipped`, or what is wrong."""
    fault = find_fault(way, reading)
    if fault is None and reading.is_open:
        fault = find_layout_fault(mutant, reading)
    if fault is not None:
        return f"WRONG: {fault}"
    if not reading.is_open:
        return "refused"
    found = ""
    for expected in list_expected(mutant, way, reading.layout):
        found = compare(way, way.view(expected), reading)
        if not found.startswith("WRONG"):
            break
    return found


def find_fault(way: Way, reading: Reading) -> str | None:
    """Return what is wrong with the end of a reading: an error that is none of ours."""
    error = reading.error
    if error is None:
        return None
    told = f"{type(error).__name__}: {error!s:.300}"
    is_ours = type(error) in OUR_ERRORS and any(name in str(error) for name in reading.names)
    if not is_ours:
        return f"raised {told}"
    # A warning tells what is left out; a source that cannot be opened at all is an error.
    if way.on_error == "skip" and (
        isinstance(error, DamageError) or (reading.is_open and not way.may_refuse)
    ):
        return f"raised instead of skipping: {told}"
    return None


def list_expected(mutant: Mutant, way: Way, layout: Layout) -> Iterator[Expected]:
    """Yield what may be read; where an index is left out as damaged, all else is read."""
    names = [name for group in layout.values() for name in group]
    if mutant.base == "parquet":
        yield read_parquet(mutant.files, names)
        return
    if way.uses_index:
        indexed = read_indexed(mutant.files, read_base(mutant.base))
        yield [None] if indexed is None else indexed
    if not way.uses_index or way.on_error == "skip":
        yield read_scanned(mutant.files, layout)


def compare(way: Way, wanted: Sequence[Seen | None], reading: Reading) -> str:
    """Return what came of a reading, given what a right answer is."""
    seen, error = reading.seen, reading.error
    compare_rows = compare_begin if way.on_error == "raise" else compare_rest
    fault = compare_rows(seen, wanted)
    if fault is not None:
        return f"WRONG: {fault}"
    if error is not None:
        return "refused"
    if len(seen) == len(wanted):
        return "equal"
    is_told = way.on_error == "skip" and reading.n_warnings > 0
    return "skipped" if is_told else f"WRONG: silently {len(seen)} of {len(wanted)} rows"


def compare_begin(seen: Sequence[Seen], wanted: Sequence[Seen | None]) -> str | None:
    """Return how rows differ from the first of the expected ones."""
    for place, (one, other) in enumerate(zip(seen, wanted, strict=False)):
        if one != other:
            return f"row {place} is {one!r:.500} instead of {other!r:.500}"
    return f"{len(seen)} rows instead of {len(wanted)}" if len(seen) > len(wanted) else None


def compare_rest(seen: Sequence[Seen], wanted: Sequence[Seen | None]) -> str | None:
    """Return which row is none of the expected ones, in their order."""
    left = iter([row for row in wanted if row is not None])
    for place, row in enumerate(seen):
        if row not in left:
            return f"row {place} is {row!r:.500}, which is none of those that are left"
    return None


def find_layout_fault(mutant: Mutant, reading: Reading) -> str | None:
    """Return what is wrong with the way files were given to splits."""
    layout = reading.layout
    sound = read_base(mutant.base)
    names = [name for group in layout.values() for name in group]
    if mutant.base == "parquet":
        there = sorted(name for name in mutant.files if PARQUET.fullmatch(name))
        return None if sorted(names) == there else f"files {names} instead of {there}"
    csv = mutant.files.get("splits.csv", b"")
    if csv == sound.get("splits.csv", b""):
        wanted = plain_layout(sound)
        return None if layout == wanted else f"files {layout} instead of {wanted}"
    if len(set(names)) < len(names) or not set(names) <= mutant.files.keys():
        return f"files {names}"
    left_out = {name for name in mutant.files if is_tar(name)} - set(names)
    if not names or (left_out and not reading.n_warnings):
        return f"{left_out} are left out without a word"
    return find_csv_fault(csv.decode("utf-8", "replace"), layout)


def find_csv_fault(text: str, layout: Layout) -> str | None:
    """Return what is in a split without a line of `splits.csv` that says so."""
    for split, group in layout.items():
        words = [word for word in WORDS if WORDS[word] == split]
        for name in group:
            stem = Path(name).name.partition(".")[0]
            lines = [line for line in LINE_END.split(text) if stem in line or "{" in line]
            if not any(word in line.lower() for line in lines for word in words):
                return f"{name} is in {split}, of which splits.csv says nothing"
    return None


def main(arguments: Sequence[str]) -> None:
    """Read the mutants from one number to another, in steps, in a directory."""
    directory, first, last, step = Path(arguments[0]).resolve(), *map(int, arguments[1:])
    os.chdir(directory)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    logging.getLogger("clip_kinetics700").propagate = False
    journal = Journal(directory)
    for number in range(first, last, step):
        journal.begin(number)
        with Caught() as caught:
            outcomes = run_case(number, directory)
        if caught.error is not None:
            outcomes = {"test": f"WRONG: the test itself: {caught.error!r:.500}"}
        journal.end(number, outcomes)
    # Arrow's threads may still hold bytes that the plain readers gave them; without Python they
    # would end the process with an abort, which is none of a mutant's.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
