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


class Problems:
    """Collects faults; those of many samples become one problem that names the first of them."""

    def __init__(self) -> None:
        # By file and message: the first of the samples and how many; None for a fault of the file.
        self._found: dict[str, dict[str, tuple[int, int] | None]] = {}

    def add(self, file: str, message: str) -> None:
        """Add a fault of a whole file."""
        self._found.setdefault(file, {}).setdefault(message, None)

    def add_samples(self, file: str, message: str, numbers: Sequence[int]) -> None:
        """Add a fault of some samples, given by their numbers in the dataset; none is no fault."""
        if numbers:
            faults = self._found.setdefault(file, {})
            first, count = faults.get(message) or (numbers[0], 0)
            faults[message] = first, count + len(numbers)

    def found(self) -> list[Problem]:
        """Return what was found."""
        return [
            Problem(make_printable(file), make_printable(describe_fault(message, samples)))
            for file, faults in self._found.items()
            for message, samples in faults.items()
        ]


def describe_fault(message: str, samples: tuple[int, int] | None) -> str:
    """Return the line of one fault."""
    if samples is None:
        return message
    first, count = samples
    more = f" and {count - 1} more" if count > 1 else ""
    return f"sample {KEY_NAME.format(first)}{more}: {message}"
