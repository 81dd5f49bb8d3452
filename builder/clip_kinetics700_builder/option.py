"""An `Option` says how users spell a field of a configuration, and what they may give for it."""

import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from datetime import date
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from clip_kinetics700.schema import normalize_split
from clip_kinetics700_builder.types import FORMATS, InputError

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


def option(text: str, *, default: Any = None, **more: Any) -> Any:
    """Return a field that is an option with this help; `more` are other fields of `Option`."""
    return field(default=default, metadata={"option": Option(text=text, **more)})


def list_options(
    *kinds: type[Any], only: Collection[str] = (), leave_out: Collection[str] = ()
) -> "dict[str, tuple[Field[Any], Any]]":
    """Return field and type of every option of configurations, those within them included.

    Of options of one name the first one counts; `only` and `leave_out` are names of options.
    """
    found: dict[str, tuple[Field[Any], Any]] = {}
    for item, hint in (pair for kind in kinds for pair in _walk(kind)):
        name = name_option(item)
        if name in only if only else name not in leave_out:
            found.setdefault(name, (item, hint))
    return found


def _walk(kind: type[Any]) -> "Iterator[tuple[Field[Any], Any]]":
    types = get_type_hints(kind)
    for item in fields(kind):
        if is_dataclass(types[item.name]):
            yield from _walk(types[item.name])
        elif "option" in item.metadata:
            yield item, types[item.name]


def name_option(item: "Field[Any]") -> str:
    """Return what users call the option of a field, with underscores."""
    option: Option = item.metadata["option"]
    return option.name or item.name


def make_config(kind: type[Config], options: Mapping[str, Any], **more: Any) -> Config:
    """Return the configuration whose fields, those within it too, have the values of options.

    These are by the option's name, or the field's where it is no option; `more` are of fields.
    """
    types, values = get_type_hints(kind), dict(more)
    for item in fields(kind):  # type: ignore[arg-type]
        inner = types[item.name]
        name = name_option(item) if "option" in item.metadata else item.name
        if item.name in more:
            continue
        if is_dataclass(inner):
            values[item.name] = make_config(inner, options)  # type: ignore[arg-type]
        elif name in options:
            values[item.name] = options[name]
    return kind(**values)


def read_value(item: "Field[Any]", hint: Any, value: Any) -> Any:
    """Return a value that Python gives for an option, checked as the command line checks it.

    Raises:
        InputError: it is not among the choices, out of the range, or cannot be read.
    """
    option: Option = item.metadata["option"]
    name, kinds = name_option(item), (hint, *get_args(hint))
    is_list = any(get_origin(kind) is tuple for kind in kinds)
    if value is None and item.default is None:
        return None
    if hint is bool:
        if not isinstance(value, bool):
            raise InputError(f"{name}: {value!r}; True or False is needed")
        return value
    if not {int, float}.isdisjoint(kinds):
        return read_number(item, value, int if int in kinds else float)
    try:
        texts = [os.fspath(word) for word in (list_values(value) if is_list else [value])]
    except TypeError:
        texts = [b""]
    if not all(isinstance(text, str) and (text or option.bare == "") for text in texts):
        raise InputError(f"{name}: {value!r}; text is needed")
    if option.parse is not None:
        try:
            return option.parse(",".join(texts))
        except ValueError as error:
            raise InputError(f"{name}: {error}") from error
    if option.choices and texts[0] not in option.choices:
        raise InputError(f"{name}: {value!r}; allowed are {', '.join(option.choices)}")
    read = Path if {Path, tuple[Path, ...]} & {*kinds} else str
    return tuple(map(read, texts)) if is_list else read(texts[0])


def list_values(values: Any) -> list[Any]:
    """Return several values as a list, and one text or path as a list of it."""
    return [values] if isinstance(values, str | os.PathLike) else list(values)


def read_number(item: "Field[Any]", value: Any, kind: type) -> Any:
    """Return a number of this kind, numpy's too, that lies within the range of an option."""
    option: Option = item.metadata["option"]
    low, high = option.low, option.high
    is_number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if is_number and math.isfinite(value):
        is_low = low is not None and (value <= low if option.is_open else value < low)
        if not is_low and (high is None or value <= high):
            return kind(value)
    over = "" if low is None else f" {'over' if option.is_open else 'from'} {low:g}"
    up_to = "" if high is None else f" up to {high:g}"
    what = "a whole number" if kind is int else "a number"
    raise InputError(f"{name_option(item)}: {value!r}; {what}{over}{up_to} is needed")


def parse_words(text: str) -> tuple[str, ...]:
    """Read `yoga,clean and jerk`: no class of Kinetics has a comma in its name."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def parse_splits(text: str) -> tuple[str, ...]:
    """Read `train,val` as names of splits."""
    return tuple(dict.fromkeys(normalize_split(word) for word in text.split(",") if text))


def parse_formats(text: str) -> tuple[str, ...]:
    """Read `parquet,webdataset`, in any order."""
    words = {word.strip() for word in text.split(",")}
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
