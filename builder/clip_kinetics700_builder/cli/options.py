"""click's options are made of the fields in `config.py`, and read back into them.

What a field cannot say by itself is here too: how click reads one value, and which options every
command has.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import Field
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

import click

from clip_kinetics700_builder.option import Option, list_options

Command = TypeVar("Command", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Say what would be done; write nothing."
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document, nothing else."
)


class FiniteRange(click.FloatRange):
    """A range of numbers that are numbers: `nan` and `inf` are refused."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def read_with(parse: Callable[[str], Any]) -> Callable[..., Any]:
    """Return the callback of an option whose words a function of `option.py` reads."""

    def read(_context: click.Context, option: click.Parameter, value: str | None) -> Any:
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error), param=option) from error

    return read


def add_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return one decorator that adds several options in the order given."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def options_of(
    *kinds: type[Any], only: Collection[str] = (), leave_out: Collection[str] = ()
) -> Callable[[Command], Command]:
    """Return the decorator that adds the options which `list_options` finds."""
    options = list_options(*kinds, only=only, leave_out=leave_out)
    return add_options(*(make_option(name, *pair) for name, pair in options.items()))


def make_option(name: str, field: "Field[Any]", hint: Any) -> Callable[[Command], Command]:
    """Return the decorator that adds the option of one field of this type, under this name."""
    option: Option = field.metadata["option"]
    flag = f"--{name.replace('_', '-')}"
    if hint is bool:
        words = f"{flag}/--no-{flag[2:]}" if field.default else flag
        # click would show a flag's default as a word that nobody can give.
        return click.option(words, name, is_flag=True, default=field.default, help=option.text)
    more: dict[str, Any] = {}
    if option.bare is not None:
        more = {"is_flag": False, "flag_value": option.bare}
    default: Any = field.default
    if option.parse is not None:
        more["callback"] = read_with(option.parse)
        default = ",".join(default) if isinstance(default, tuple) else default
    return click.option(
        flag,
        name,
        type=choose_type(option, hint),
        default=default,
        show_default=default not in (None, "", ()),
        multiple=isinstance(default, tuple),
        metavar=option.metavar,
        help=option.text,
        **more,
    )


def choose_type(option: Option, hint: Any) -> Any:
    """Return what reads one value of an option whose field is of this type."""
    if option.parse is not None:
        return str
    if option.choices:
        return click.Choice(option.choices)
    kinds = {*get_args(hint)} if isinstance(hint, UnionType) or get_origin(hint) else {hint}
    if Path in kinds:
        return PATH
    if int in kinds:
        low, high = (None if n is None else int(n) for n in (option.low, option.high))
        return click.IntRange(min=low, max=high)
    if float in kinds:
        return FiniteRange(min=option.low, max=option.high, min_open=option.is_open)
    return str


def spread_values(words: list[str], option: str) -> list[str]:
    """Repeat an option before each of its values: `--annotations a b` as a shell's `*` gives."""
    spread: list[str] = []
    is_value = False
    for word in words:
        if word.startswith("-") and word != "-":
            is_value = word == option
            spread += [] if is_value else [word]
        else:
            spread += [option, word] if is_value else [word]
    # An option without a value is left for click to complain about.
    return spread if option in spread or option not in words else words


general_options = add_options(
    click.option("--quiet", is_flag=True, help="Print errors only."),
    # `app.run` reads it, before there is a command.
    click.option("--debug", is_flag=True, expose_value=False, help="Print tracebacks and details."),
)
