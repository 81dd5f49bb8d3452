"""The commands that say what a dataset is worth: evaluate, embed-classes, search."""

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clip_kinetics700_builder import api
from clip_kinetics700_builder.cli.options import (
    PATH,
    add_options,
    general_options,
    json_option,
    options_of,
)
from clip_kinetics700_builder.cli.terminal import say
from clip_kinetics700_builder.config import (
    AttentiveProbeConfig,
    LinearProbeConfig,
    SearchConfig,
    TextConfig,
    ZeroShotConfig,
)
from clip_kinetics700_builder.types import InputError

if TYPE_CHECKING:
    from clip_kinetics700_builder.evaluate.results import Evaluation

# What imports it, for each extra library.
MODULE_OF_OPTION = {"card": "sklearn", "mean-pooled": "scipy", "figure": "matplotlib"}

result_options = add_options(
    click.option("--json", "result_file", metavar="FILE", type=PATH, help="Write the result."),
    click.option("--figure", metavar="FILE", type=PATH, help="Draw the worst confusions, as PNG."),
    general_options,
)


@click.group("evaluate")
def evaluate_command() -> None:
    """Say how well the embeddings of a dataset tell its classes apart."""


@evaluate_command.command("zero-shot")
@click.argument("source")
@options_of(ZeroShotConfig)
@result_options
def zero_shot_command(
    source: str, *, result_file: Path | None, figure: Path | None, quiet: bool, **options: Any
) -> int:
    """Take for each clip the class whose text is nearest."""
    check_outputs(result_file, figure)
    evaluation = api.evaluate_zero_shot(source, progress=not quiet, **options)
    return finish(evaluation, result_file, figure, quiet=quiet)


@evaluate_command.command("linear-probe")
@click.argument("source")
@options_of(LinearProbeConfig)
@result_options
def linear_probe_command(
    source: str, *, result_file: Path | None, figure: Path | None, quiet: bool, **options: Any
) -> int:
    """Train a linear classifier on the frames of train, and count on another split."""
    check_outputs(result_file, figure)
    check_library(options["protocol"])
    evaluation = api.evaluate_linear_probe(source, progress=not quiet, **options)
    return finish(evaluation, result_file, figure, quiet=quiet)


@evaluate_command.command("attentive-probe")
@click.argument("source")
@options_of(AttentiveProbeConfig)
@result_options
def attentive_probe_command(
    source: str, *, result_file: Path | None, figure: Path | None, quiet: bool, **options: Any
) -> int:
    """Train attention over the frames of train, and count on another split."""
    check_outputs(result_file, figure)
    evaluation = api.evaluate_attentive_probe(source, progress=not quiet, **options)
    return finish(evaluation, result_file, figure, quiet=quiet)


@click.command("embed-classes")
@click.argument("directory", type=PATH)
@options_of(TextConfig)
@general_options
def embed_classes_command(directory: Path, *, quiet: bool, **options: Any) -> int:
    """Write the text embeddings of the classes into the dataset in DIRECTORY."""
    texts = api.embed_classes(directory, progress=not quiet, **options)
    if not quiet:
        say(
            f"{directory}: {len(texts.names):,} classes, {len(texts.prompts)} prompts, "
            f"{texts.model} ({texts.family})"
        )
    return 0


@click.command("search")
@click.argument("source")
@click.argument("texts", nargs=-1, required=True)
@json_option
@options_of(SearchConfig, leave_out=("prompts",))
@general_options
def search_command(
    source: str, texts: tuple[str, ...], *, as_json: bool, quiet: bool, **options: Any
) -> int:
    """Find the clips of SOURCE that have the frame nearest to each of TEXTS."""
    found = api.search(source, texts, progress=not quiet, **options)
    if as_json:
        document = {
            text: [asdict(hit) for hit in hits] for text, hits in zip(texts, found, strict=True)
        }
        say(json.dumps(document, indent=2))
    else:
        from clip_kinetics700_builder.cli.tables import print_hits

        print_hits(texts, found)
    return 0


def check_outputs(result_file: Path | None, figure: Path | None) -> None:
    """Refuse, before hours of work, what could not be written at their end."""
    for name, file in (("--json", result_file), ("--figure", figure)):
        if file is not None and not file.parent.is_dir():
            raise InputError(f"{name} {file}: there is no directory {file.parent}")
    if figure is not None:
        check_library("figure")


def check_library(use: str) -> None:
    """Refuse to begin without a library."""
    module = MODULE_OF_OPTION[use]
    if find_spec(module) is None:
        raise InputError(f"{module} is not installed: pip install 'clip-kinetics700[eval]'")


def finish(
    evaluation: "Evaluation", result_file: Path | None, figure: Path | None, *, quiet: bool
) -> int:
    """Write the result and draw it where that was asked for, and print it."""
    from clip_kinetics700_builder.cli.tables import print_result
    from clip_kinetics700_builder.system.files import write_json

    result = evaluation.result
    # Written first: a pipe that breaks while the table is printed ends the process.
    if result_file is not None:
        write_json(result_file, result.document())
    if figure is not None:
        from clip_kinetics700_builder.evaluate.confusion import draw_confusion

        title = f"{result.task}, {result.protocol}, {result.split}"
        draw_confusion(figure, evaluation.outcomes, evaluation.names, title)
    if not quiet:
        print_result(result)
    return 0
