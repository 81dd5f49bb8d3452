"""The reference prints every command and option as Markdown; `docs/cli.md` is its output."""

from collections.abc import Iterator, Sequence
from inspect import cleandoc

import click

from clip_kinetics700_builder.cli.app import cli

NAME = "clip-kinetics700"
HEADER = f"""# Commands

Every command of `{NAME}` and every option. This page is made of the options themselves:
`python -m clip_kinetics700_builder.cli.reference > docs/cli.md`.

Every command has `--help` too. Exit codes: 0 done, 1 the run failed, 2 misuse or bad input."""


def render_reference() -> str:
    """Return the page: a table of the commands, then a section for each."""
    table, sections = ["| command | does |", "|---|---|"], []
    for words, command, context in list_commands(cli, click.Context(cli), ()):
        title, arguments = " ".join(words), command.collect_usage_pieces(context)[1:]
        first, _, rest = cleandoc(command.help or "").partition("\n\n")
        table.append(f"| [`{title}`](#{'-'.join(words)}) | {join_lines(first)} |")
        usage = f"`{' '.join([NAME, *words, *arguments, '[OPTIONS]'])}`"
        lines = ["| option | default | meaning |", "|---|---|---|"]
        for option in command.params:
            if isinstance(option, click.Option):
                cells = map(join_lines, describe_option(option, context))
                lines.append(f"| {' | '.join(cells)} |")
        texts = (f"## {title}", usage, join_lines(first), rest, "\n".join(lines))
        sections.append("\n\n".join(text for text in texts if text))
    return "\n\n".join([HEADER, "\n".join(table), *sections]) + "\n"


def list_commands(
    group: click.Group, context: click.Context, words: Sequence[str]
) -> Iterator[tuple[Sequence[str], click.Command, click.Context]]:
    """Yield each command, those of groups too, with its words and its context."""
    for name, command in group.commands.items():
        inner = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from list_commands(command, inner, (*words, name))
        else:
            yield (*words, name), command, inner


def describe_option(option: click.Option, context: click.Context) -> tuple[str, str, str]:
    """Return how an option is spelled, with what it takes, its default and its help."""
    # GitHub and the site disagree what a `|` in the code of a table is.
    takes = "" if option.is_flag else f" {option.make_metavar(context)}".replace("|", ", ")
    limits = option.type
    if isinstance(limits, click.IntRange | click.FloatRange):
        least = "" if limits.min is None else f", {'above ' * limits.min_open}{limits.min:,}"
        most = "" if limits.max is None else f" to {limits.max:,}"
        takes = f" N{least}{most or ' or more' * bool(least)}"
    default, usual = "required" if option.required else "", option.to_info_dict()["default"]
    if option.secondary_opts:  # a flag's default is a word that nobody can give
        default = f"`{(option.opts if option.default else option.secondary_opts)[0]}`"
    elif not option.is_flag and usual not in (None, (), ""):
        default = f"`{usual}`"
    words = " / ".join([*option.opts, *option.secondary_opts])
    return f"`{words}{takes}`", default, option.help or ""


def join_lines(text: str) -> str:
    """Return text as one line, as a cell of a table is."""
    return " ".join(text.split())


if __name__ == "__main__":
    click.echo(render_reference(), nl=False)
