"""`Problems` collects what verification finds: one line a file and kind of fault."""

from collections.abc import Sequence
from dataclasses import dataclass

from clip_kinetics700.schema import KEY_NAME
from clip_kinetics700_builder.system.files import make_printable


class DamagedFileError(ValueError):
    """A file cannot be read on: one line that says why, without the file's name."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with one file of a dataset."""

    file: str
    """Its name relative to the dataset's directory."""
    message: str
    """One line: what is wrong with it."""


@dataclass(slots=True)
class _Rows:
    """How often one fault was met, and where first."""

    first: int | None = None
    count: int = 0


class Problems:
    """Collects faults; those of many samples become one problem that names the first of them."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, _Rows]] = {}

    def add(self, file: str, message: str) -> None:
        """Add a fault of a whole file."""
        self._found.setdefault(file, {}).setdefault(message, _Rows())

    def add_samples(self, file: str, message: str, numbers: Sequence[int]) -> None:
        """Add a fault of some samples, given by their numbers in the dataset; none is no fault."""
        if not numbers:
            return
        rows = self._found.setdefault(file, {}).setdefault(message, _Rows())
        rows.first = numbers[0] if rows.first is None else rows.first
        rows.count += len(numbers)

    def found(self) -> list[Problem]:
        """Return what was found."""
        return [
            Problem(make_printable(file), make_printable(describe_fault(message, rows)))
            for file, faults in self._found.items()
            for message, rows in faults.items()
        ]


def describe_fault(message: str, rows: _Rows) -> str:
    """Return the line of one fault."""
    if rows.first is None:
        return message
    more = f" and {rows.count - 1} more" if rows.count > 1 else ""
    return f"sample {KEY_NAME.format(rows.first)}{more}: {message}"
