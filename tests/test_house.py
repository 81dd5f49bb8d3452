"""The house rules that no linter holds are held here: sizes, names and faces of the rooms."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes.checkout import PROJECT

PRODUCT = ("builder", "clip_kinetics700")
BUILDER = PROJECT / "builder" / "clip_kinetics700_builder"
ROOMS = sorted(path.parent for path in BUILDER.glob("*/__init__.py"))
MAX_LINES, MAX_FILES, MAX_MEDIAN = 400, 25, 200
# A Hub of the tests' own is one program in one file.
PROGRAMS = {"minihub.py"}


def list_modules(*places: str) -> list[Path]:
    """Return the modules in some directories of the checkout."""
    return sorted(path for place in places for path in (PROJECT / place).rglob("*.py"))


def read_classes(path: Path) -> Iterator[str]:
    """Yield the names of the public classes of a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name


def count_lines(path: Path) -> int:
    """Count the lines of a module."""
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_two_classes_have_one_name() -> None:
    """A public class's name is one noun in the whole product, so it can be looked up."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in list_modules(*PRODUCT):
        for name in read_classes(path):
            places[name].append(path.name)
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_modules_are_short() -> None:
    """No module has more than 400 lines, and half of the product's have fewer than 200."""
    modules = list_modules(*PRODUCT, "tests", "benchmarks", "examples")
    lengths = {str(p): count_lines(p) for p in modules if p.name not in PROGRAMS}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}
    product = sorted(count_lines(path) for path in list_modules(*PRODUCT))
    assert product[len(product) // 2] < MAX_MEDIAN


def test_no_clock_decides() -> None:
    """The builder asks neither what time it is nor when a file was written, but in one place.

    There a time tells a video from another one of the same name; which is later does not matter.
    """
    clocks = ("time.time(", ".now(", "st_mtime", "st_ctime", "st_atime", "getmtime")
    asking = [
        path.name
        for path in list_modules("builder")
        if any(clock in path.read_text(encoding="utf-8") for clock in clocks)
    ]
    assert asking == ["video.py"]


def test_folders_are_small() -> None:
    """No folder holds more than 25 Python files."""
    folders: dict[Path, int] = defaultdict(int)
    for path in list_modules(*PRODUCT, "tests", "benchmarks", "examples"):
        folders[path.parent] += 1
    assert {str(path): n for path, n in folders.items() if n > MAX_FILES} == {}


def test_no_module_is_a_drawer() -> None:
    """Nothing is called utils, helpers or common: such a name says nothing of what is in it."""
    names = {path.stem for path in list_modules(*PRODUCT, "tests", "benchmarks")}
    names |= {path.parent.name for path in list_modules(*PRODUCT, "tests", "benchmarks")}
    assert names & {"utils", "util", "helpers", "helper", "common", "misc"} == set()


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_has_a_face(room: Path) -> None:
    """A room's `__init__` says what it is for and which names others use, and imports nothing."""
    tree = ast.parse((room / "__init__.py").read_text(encoding="utf-8"))
    assert len(ast.get_docstring(tree) or "") > 200
    assert len(tree.body) == 1


def test_module_docstrings_are_sentences() -> None:
    """No module opens with the formula `X in, Y out`."""
    opened = {}
    for path in list_modules(*PRODUCT, "benchmarks", "tests"):
        if path.name == "__init__.py":
            continue  # a room's face says what comes in and what goes out
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first = docstring.split("\n\n")[0]
        if (" in, " in first and " out" in first) or "\nIn: " in docstring:
            opened[str(path.relative_to(PROJECT))] = first
    assert opened == {}


def test_every_test_module_lies_in_the_room_it_tests() -> None:
    """`tests/ROOM/test_MODULE*.py` is about `ROOM/MODULE.py`."""
    strays = []
    for room in ROOMS:
        modules = sorted((path.stem for path in room.glob("*.py")), key=len, reverse=True)
        for path in (PROJECT / "tests" / room.name).glob("test_*.py"):
            stem = path.stem.removeprefix("test_")
            if not any(stem == name or stem.startswith(f"{name}_") for name in modules):
                strays.append(str(path.relative_to(PROJECT)))
    assert strays == []


def list_calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Yield the calls of a module, each with what is called, in its own words."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_no_model_brings_code() -> None:
    """Every call that makes what a model's files name refuses code that lies beside them."""
    calls = [
        call
        for path in list_modules(*PRODUCT, "examples")
        for name, call in list_calls(path)
        if re.search(r"\bAuto[A-Z]\w+\.from_\w+$", name)
    ]
    assert len(calls) >= 3
    for call in calls:
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert options.get("trust_remote_code") == "False", ast.unparse(call)


# Text of others is cleaned in two places; the bar of progress and the reference have none.
EXITS = {
    "click.echo": {"cli/terminal.py", "cli/reference.py"},
    "CleanConsole": {"cli/tables.py"},
    "Console": {"system/progress.py"},
    "print": set[str](),
}


@pytest.mark.parametrize("name", EXITS)
def test_text_reaches_a_terminal_where_it_is_cleaned(name: str) -> None:
    """Nothing else in the builder writes to one; the reader prints nothing."""
    calls = {
        path.relative_to(BUILDER).as_posix()
        for path in list_modules("builder")
        for called, _ in list_calls(path)
        if called == name
    }
    assert calls == EXITS[name]
