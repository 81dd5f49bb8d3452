"""An `Option` says how users spell a field of a configuration, and what they may give for it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from datetime import date
from typing import Any, TypeVar, get_type_hints

from clip_kinetics700.schema import normalize_split
from clip_kinetics700_builder.types import FORMATS

Config = TypeVar("Config")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """How users spell a field."""

    text: str
    name: str | None = None
    """What users call it; None is the field's name."""
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


def list_options(kind: type[Any]) -> "Iterator[tuple[Field[Any], Any]]":
    """Yield field and type of every option of a configuration, those within it included."""
    types = get_type_hints(kind)
    for item in fields(kind):
        if is_dataclass(types[item.name]):
            yield from list_options(types[item.name])
        elif "option" in item.metadata:
            yield item, types[item.name]


def name_option(item: "Field[Any]") -> str:
    """Return what users call the option of a field, with underscores."""
    option: Option = item.metadata["option"]
    return option.name or item.name


def make_config(kind: type[Config], options: Mapping[str, Any], **more: Any) -> Config:
    """Return the configuration that takes its fields, those within it too, from options."""
    types, values = get_type_hints(kind), dict(more)
    for item in fields(kind):  # type: ignore[arg-type]
        inner = types[item.name]
        if item.name in more:
            continue
        if is_dataclass(inner):
            values[item.name] = make_config(inner, options)  # type: ignore[arg-type]
        elif item.name in options:
            values[item.name] = options[item.name]
    return kind(**values)


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
