"""An `Option` says how the command line spells a field of a configuration, and reads its words."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from clip_kinetics700.schema import normalize_split
from clip_kinetics700_builder.types import FORMATS


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """How the command line spells a field."""

    text: str
    flag: str | None = None
    """None is the field's name with dashes."""
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    is_open: bool = False
    """`low` itself is not allowed."""
    metavar: str | None = None
    parse: Callable[[str], Any] | None = None
    """Reads the value; raises a ValueError that says what came and what is allowed."""
    bare: str | None = None
    """What the option means without a value; None for one that must have one."""


def option(text: str, *, default: Any, **more: Any) -> Any:
    """Return a field that is an option with this help; `more` are other fields of `Option`."""
    return field(default=default, metadata={"option": Option(text=text, **more)})


def parse_words(text: str) -> tuple[str, ...]:
    """Read `yoga,clean and jerk`: no class of Kinetics has a comma in its name."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def parse_splits(text: str) -> tuple[str, ...]:
    """Read `train,val` as names of splits."""
    return tuple(dict.fromkeys(normalize_split(word) for word in text.split(",") if text))


def parse_formats(text: str) -> tuple[str, ...]:
    """Read `parquet,webdataset`, in any order."""
    words = set(text.split(","))
    if words - set(FORMATS):
        raise ValueError(f"{text!r}: allowed are {', '.join(FORMATS)}")
    return tuple(name for name in FORMATS if name in words)


def parse_device(text: str) -> str:
    """Read `auto`, `cpu`, `cuda` or `cuda:N`."""
    index = text.removeprefix("cuda:")
    if text in ("auto", "cpu", "cuda") or (text != index and index.isdecimal()):
        return text
    raise ValueError(f"{text!r}: allowed are auto, cpu, cuda, cuda:N")


def parse_date(text: str) -> str:
    """Read a date like 2026-01-31."""
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise ValueError(f"{text!r}: a date like 2026-01-31") from error
