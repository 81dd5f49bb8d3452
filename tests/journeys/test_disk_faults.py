"""Whatever call of a writer fails or is its last, the next run completes the directory.

Each call that changes a directory is refused or cut short; the disk is full or read-only from there
on; the process is killed before it or in the middle of a write.
"""

import errno
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.damage.datasets import make_dataset
from tests.support.processes.disk_fault_programs import (
    PROGRAMS,
    SOURCE_NAME,
    FaultyDisk,
    Outcome,
    prepare_replacement,
    refuse_platform,
)
from tests.support.processes.faulty_disk import Call, Fault
from tests.support.processes.torture import count_cases, say_count

pytestmark = [pytest.mark.torture, pytest.mark.slow]

SEED = 700
ACTIONS = {
    "open": ("EACCES", "ENOSPC", "EIO", "full", "read-only", "kill"),
    "write": ("ENOSPC", "EIO", "full", "short", "torn", "kill"),
    "fsync": ("EIO", "ENOSPC", "kill"),
    "truncate": ("EIO", "kill"),
    "rename": ("EACCES", "EIO", "ENOSPC", "read-only", "kill"),
    "unlink": ("EACCES", "EIO", "kill"),
    "mkdir": ("EACCES", "ENOSPC", "EIO", "kill"),
}
KILLS = ("kill", "torn")
LASTING = {"full": errno.ENOSPC, "read-only": errno.EROFS}
MANY_CALLS = 100
"""In a program with more calls, each write is killed, and fails in one way of several."""
SUITE_CASES = {"assemble": 50, "convert": 8, "ledger": 60, "part": 30, "replace": 50, "work": 30}
FULL_CASES = {**dict.fromkeys(SUITE_CASES, 10_000), "convert": 400}
"""All cases that there are, but fewer for a conversion, which writes as assembly does."""
SUITE_STORMS, FULL_STORMS = 1, 30
RUNS_IN_A_STORM = 6
REPLACED = "replaced"
"""The dataset that is replaced by another."""
STAGE = ".build/next"
UNSEEN = (".build/shards", STAGE)
"""What nobody reads once the dataset is complete may stay if it cannot be removed."""


@dataclass(slots=True)
class Bench:
    """A disk, and what each program does on it when nothing goes wrong."""

    disk: FaultyDisk
    place: Path
    calls: dict[str, list[Call]] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    findings: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def run(self, name: str, number: int | str, fault: Fault | None = None) -> Outcome:
        """Run a program in a directory of its own for each number."""
        directory = self.directory(name, number)
        if name == "replace" and not directory.exists():
            shutil.copytree(self.place / REPLACED, directory)
        directory.mkdir(parents=True, exist_ok=True)
        return self.disk.run(name, directory, fault)

    def directory(self, name: str, number: int | str) -> Path:
        """Return where a program writes."""
        return self.place / name / str(number)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The disk, with one undisturbed run of each program behind it."""
    if (reason := refuse_platform()) is not None:
        pytest.skip(reason)
    place = tmp_path_factory.mktemp("faulty")
    (place / "convert").mkdir()
    make_dataset(place / "convert" / SOURCE_NAME)
    prepare_replacement(place / REPLACED)
    with FaultyDisk() as disk:
        bench = Bench(disk, place)
        for name in PROGRAMS:
            outcome = bench.run(name, "undisturbed")
            if outcome.end == "refused":
                pytest.skip(outcome.message)
            assert outcome.end == "done", outcome.message
            bench.calls[name] = outcome.calls
            bench.files[name] = read_files(bench.directory(name, "undisturbed"))
        bench.files[REPLACED] = read_files(place / REPLACED)
        yield bench


def read_files(directory: Path) -> dict[str, bytes]:
    """Return all files by name, hidden ones too."""
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


def list_faults(calls: list[Call]) -> list[Fault]:
    """Return faults of all the calls, first one of each action for each kind of call and file."""
    faults = []
    for number, call in enumerate(calls):
        actions = ACTIONS[call.kind]
        if call.kind == "write" and len(calls) > MANY_CALLS:
            actions = ("kill", actions[number % (len(actions) - 1)])
        if call.size < 2:
            actions = tuple(action for action in actions if action not in ("short", "torn"))
        faults += [Fault(number, action) for action in actions]
    random.Random(SEED).shuffle(faults)
    seen: Counter[tuple[str, str, str]] = Counter()
    ranks = []
    for fault in faults:
        call = calls[fault.call]
        group = (call.kind, fault.action, Path(call.path.removesuffix(".partial")).suffix)
        ranks.append(seen[group])
        seen[group] += 1
    order = sorted(range(len(faults)), key=ranks.__getitem__)
    return [faults[index] for index in order]


def examine(bench: Bench, name: str) -> dict[str, list[str]]:
    """Try a program's faults, once for all tests; return what is wrong, by claim."""
    if name not in bench.findings:
        wrong: dict[str, list[str]] = {}
        n_cases = count_cases(SUITE_CASES[name], full=FULL_CASES[name])
        faults = list_faults(bench.calls[name])[:n_cases]
        for number, fault in enumerate(faults):
            call = bench.calls[name][fault.call]
            for claim, text in try_fault(bench, name, number, fault):
                case = f"{name}, call {fault.call} ({call.kind} {call.path}), {fault.action}: "
                wrong.setdefault(claim, []).append(case + text)
        say_count(f"{len(faults)} disk faults, {name}: {len(bench.calls[name])} calls, seed {SEED}")
        bench.findings[name] = wrong
    return bench.findings[name]


def try_fault(bench: Bench, name: str, number: int, fault: Fault) -> Iterator[tuple[str, str]]:
    """Run a program with a fault, then without; yield claims that do not hold, and why."""
    directory = bench.directory(name, number)
    outcome = bench.run(name, number, fault)
    yield from (("end", text) for text in check_end(outcome, fault))
    yield from (("name", text) for text in check_name(outcome, fault))
    yield from (("whole", text) for text in check_whole(bench, name, directory))
    partial = list(map(str, directory.rglob("*.partial")))
    # A file that cannot be removed stays.
    if partial and fault.action not in (*KILLS, "read-only"):
        yield "tidy", f"leaves {partial}"
    again = bench.run(name, number)
    yield from (("next", text) for text in check_complete(bench, name, directory, again))
    shutil.rmtree(directory)


def check_end(outcome: Outcome, fault: Fault) -> Iterator[str]:
    """Yield what is wrong with how a program ended on a fault."""
    call = outcome.calls[fault.call]
    if fault.action in KILLS:
        allowed = ["signal 9"]
    elif fault.action == "short":
        allowed = ["done"]
    else:
        # A directory that is there need not be made, reports that nobody reads may stay, and
        # filelock opens the file of a lock in another way when the first is refused.
        may_go_on = call.kind == "mkdir" or call.path.startswith(UNSEEN[0])
        may_go_on |= call.kind == "unlink" and call.path.startswith(STAGE)
        may_go_on |= call.path.endswith(".lock")
        allowed = ["error", "done"] if may_go_on and fault.action not in LASTING else ["error"]
    if outcome.end not in allowed:
        yield f"ends with {outcome.end}: {outcome.message}{outcome.stderr}"
    if outcome.end == "error" and (outcome.stderr or len(outcome.message.splitlines()) != 1):
        yield f"is not one line: {outcome.message!r}, {outcome.stderr!r}"


def check_name(outcome: Outcome, fault: Fault) -> Iterator[str]:
    """Yield what an error does not say: what is wrong, and with which file."""
    if outcome.end != "error":
        return
    reason = os.strerror(LASTING.get(fault.action) or getattr(errno, fault.action))
    hit = outcome.calls[fault.call :] if fault.action in LASTING else [outcome.calls[fault.call]]
    if hit[0].kind == "fsync" and fault.call:
        # A directory is synced for the sake of the file that has just got its name.
        hit = [*hit, outcome.calls[fault.call - 1]]
    names = {Path(call.path).name.removesuffix(".partial") for call in hit}
    if reason not in outcome.message or not any(name in outcome.message for name in names):
        yield f"is said to be {outcome.message!r}"


def check_whole(bench: Bench, name: str, directory: Path) -> Iterator[str]:
    """Yield the final names that do not stand for what an undisturbed run writes."""
    files = read_files(directory)
    if name == "replace" and "manifest.json" in files:
        kinds = [bench.files[name], bench.files[REPLACED]]
        if list_visible(files) not in map(list_visible, kinds):
            yield "a manifest lies beside files of which some are not of its dataset"
    for file, data in files.items():
        expected = bench.files[name].get(file.removeprefix(f"{STAGE}/"), b"")
        if file.endswith(".partial"):
            continue
        if name == "ledger":
            is_right = expected.startswith(data)
        elif file.startswith(".") and file.endswith(".json"):
            # It may be of an earlier moment, but it has its last line.
            is_right = data.endswith(b"\n}\n")
        elif name == "replace":
            is_right = data in (expected, bench.files[REPLACED].get(file))
        else:
            is_right = data == expected
        if not is_right:
            yield f"{file} holds {len(data)} bytes, not the {len(expected)} that are right"


def list_visible(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files that a reader sees."""
    return {
        name: data
        for name, data in files.items()
        if not name.startswith(".") and not name.endswith(".partial")
    }


def check_complete(bench: Bench, name: str, directory: Path, outcome: Outcome) -> Iterator[str]:
    """Yield what is wrong after a run that nothing disturbed."""
    if outcome.end != "done" or outcome.stderr:
        yield f"the next run ends with {outcome.end}: {outcome.message}{outcome.stderr}"
    files, expected = read_files(directory), bench.files[name]
    others = [file for file in files | expected if files.get(file) != expected.get(file)]
    names = [file for file in others if not file.startswith(UNSEEN)]
    if names:
        yield f"the next run leaves other files than one alone: {names}"


def claim(bench: Bench, name: str, claim: str) -> None:
    """Fail with every case in which a claim does not hold."""
    wrong = examine(bench, name).get(claim, [])
    assert not wrong, "\n".join([f"{len(wrong)} cases", *wrong])


every_program = pytest.mark.parametrize("name", PROGRAMS)


@every_program
def test_a_fault_ends_in_one_line(bench: Bench, name: str) -> None:
    """A call that fails ends the program with one line on stderr, and a short write is gone on."""
    claim(bench, name, "end")


@every_program
def test_the_line_says_what_and_which_file(bench: Bench, name: str) -> None:
    """The line holds the system's words and the name of the file that could not be written."""
    claim(bench, name, "name")


@pytest.mark.parametrize("suffix", [".csv", ".json", ".md", ".parquet", ".tar"])
def test_of_several_open_files_the_right_one_is_named(bench: Bench, suffix: str) -> None:
    """A tar and two tables are open when a write fails; the line names the file of that write."""
    calls = bench.calls["assemble"]
    writes = [number for number, call in enumerate(calls) if call.kind == "write"]
    numbers = [number for number in writes if calls[number].path.endswith(f"{suffix}.partial")]
    for number in (numbers[0], numbers[-1]):
        fault = Fault(number, "EIO")
        outcome = bench.run("assemble", f"write{number}", fault)
        assert list(check_name(outcome, fault)) == [], calls[number]


@every_program
def test_no_final_name_stands_for_a_piece(bench: Bench, name: str) -> None:
    """After any fault, a file under its final name has the bytes of an undisturbed run."""
    claim(bench, name, "whole")


@every_program
def test_a_failed_run_removes_its_partial_files(bench: Bench, name: str) -> None:
    """A process that is not killed leaves no `.partial` behind."""
    claim(bench, name, "tidy")


@every_program
def test_the_next_run_completes_the_directory(bench: Bench, name: str) -> None:
    """After any fault, one run leaves every byte as if there had been none."""
    claim(bench, name, "next")


@every_program
def test_fault_upon_fault(bench: Bench, name: str) -> None:
    """Runs that each meet a fault of their own, on what the last one left, do no harm either."""
    n_storms = count_cases(SUITE_STORMS, full=FULL_STORMS)
    for seed in range(SEED, SEED + n_storms):
        rng = random.Random(seed)
        directory = bench.directory(name, f"storm{seed}")
        faults = rng.sample(list_faults(bench.calls[name]), RUNS_IN_A_STORM)
        for fault in faults:
            outcome = bench.run(name, directory.name, fault)
            assert outcome.end in ("done", "error", "signal 9"), (seed, faults, outcome)
            wrong = list(check_whole(bench, name, directory))
            assert not wrong, (seed, faults, fault, wrong)
        again = bench.run(name, directory.name)
        wrong = list(check_complete(bench, name, directory, again))
        assert not wrong, (seed, faults, wrong)
        shutil.rmtree(directory)
    say_count(f"{n_storms} times {RUNS_IN_A_STORM} disk faults in a row, {name}, seeds {SEED}...")


def find_rename(calls: list[Call]) -> int:
    """Return the index of the first rename, or the number of calls."""
    return next((n for n, call in enumerate(calls) if call.kind == "rename"), len(calls))


def is_staged(calls: list[Call], path: str) -> bool:
    """Tell whether calls have written a file where a dataset is staged, from where it is moved."""
    return any(call.path == f"{STAGE}/{path}.partial" for call in calls)


@every_program
def test_what_has_its_name_is_on_the_disk(bench: Bench, name: str) -> None:
    """Every file is synced after its last write and before its rename, its directory after that."""
    calls = bench.calls[name]
    for number, call in enumerate(calls):
        where = f"call {number} of {name}: {call}"
        if call.kind == "write":
            later = [other.kind for other in calls[number + 1 :] if other.path == call.path]
            assert "fsync" in later, where
        if call.kind == "rename":
            place = str(Path(call.path).parent)
            if is_staged(calls[:number], call.path):
                # It is moved with others, all of which are on the disk before the manifest is.
                last = Call("rename", "manifest.json", 0)
                end = len(calls) if call == last else calls.index(last, number)
                assert Call("fsync", place, 0) in calls[number:end], where
                continue
            earlier = [c.kind for c in calls[:number] if c.path == f"{call.path}.partial"]
            assert earlier[-1] == "fsync", where
            # Another thread may write to a file of its own meanwhile.
            after = [c for c in calls[number + 1 :] if place in (c.path, str(Path(c.path).parent))]
            assert Call("fsync", place, 0) in after[: find_rename(after)], where
