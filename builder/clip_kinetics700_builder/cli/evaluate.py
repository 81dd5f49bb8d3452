"""The commands that say what a dataset is worth: evaluate, embed-classes, search."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from clip_kinetics700.schema import normalize_split
from clip_kinetics700.texts import PROTOCOLS
from clip_kinetics700_builder.cli.options import (
    COUNT,
    PATH,
    FiniteRange,
    add_options,
    general_options,
    index_option,
    source_options,
)
from clip_kinetics700_builder.cli.tables import COLUMNS
from clip_kinetics700_builder.config import (
    PROBE_PROTOCOLS,
    EvaluationConfig,
    ProbeConfig,
    SearchConfig,
    SourceConfig,
    TextConfig,
    ZeroShotConfig,
)
from clip_kinetics700_builder.system.files import make_printable
from clip_kinetics700_builder.types import InputError

if TYPE_CHECKING:
    from clip_kinetics700_builder.evaluate.results import Evaluation

SOURCE_DEFAULTS = SourceConfig(source="")
EVALUATION_DEFAULTS = EvaluationConfig(source=SOURCE_DEFAULTS)
ZERO_SHOT_DEFAULTS = ZeroShotConfig(evaluation=EVALUATION_DEFAULTS)
PROBE_DEFAULTS = ProbeConfig(evaluation=EVALUATION_DEFAULTS)
SEARCH_DEFAULTS = SearchConfig(source=SOURCE_DEFAULTS)
TEXT_DEFAULTS = TextConfig()
# What imports it, for each extra library.
MODULE_OF_OPTION = {"card": "sklearn", "mean-pooled": "scipy", "figure": "matplotlib"}


def split_name(_context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Read any word for a split."""
    try:
        return None if value is None else normalize_split(value)
    except ValueError as error:
        raise click.BadParameter(str(error), param=option) from error


text_options = add_options(
    click.option(
        "--model",
        metavar="ID_OR_DIR",
        default=TEXT_DEFAULTS.model,
        help="A whole CLIP; default: that of the published class texts, else of the frames.",
    ),
    click.option(
        "--model-revision",
        default=TEXT_DEFAULTS.model_revision,
        help="Branch, tag or commit of a Hub model.",
    ),
    click.option(
        "--force", is_flag=True, help="Take a text model of another family than the frames."
    ),
)
prompts_option = click.option(
    "--prompts",
    metavar="FILE",
    type=PATH,
    default=TEXT_DEFAULTS.prompts,
    help="A prompt a line, {} for the class name; default: OpenAI's 28.",
)
evaluation_options = add_options(
    click.option(
        "--split",
        default=EVALUATION_DEFAULTS.split,
        show_default=True,
        callback=split_name,
        help="Which clips are counted.",
    ),
    click.option(
        "--classes",
        default=EVALUATION_DEFAULTS.classes,
        help="400, 600, 700 or a file; default: the manifest's classes, else 700.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=EVALUATION_DEFAULTS.seed,
        show_default=True,
        help="Of the intervals, and of what is drawn from train.",
    ),
    click.option("--json", "result_file", metavar="FILE", type=PATH, help="Write the result."),
    click.option("--figure", metavar="FILE", type=PATH, help="Draw the worst confusions, as PNG."),
    index_option,
    source_options,
    general_options,
)


@click.group("evaluate")
def evaluate_command() -> None:
    """Say how well the embeddings of a dataset tell its classes apart."""


@evaluate_command.command("zero-shot")
@click.argument("source")
@click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    default=ZERO_SHOT_DEFAULTS.protocol,
    show_default=True,
    help="How the frames of a clip become one answer.",
)
@prompts_option
@text_options
@evaluation_options
def zero_shot_command(source: str, **options: Any) -> int:
    """Take for each clip the class whose text is nearest."""
    check_outputs(options)
    from clip_kinetics700_builder.evaluate.zero_shot import evaluate_zero_shot

    config = ZeroShotConfig(
        evaluation=read_evaluation(source, options),
        text=TextConfig(**take(TextConfig, options)),
        protocol=options["protocol"],
    )
    return finish(options, evaluate_zero_shot(config))


@evaluate_command.command("linear-probe")
@click.argument("source")
@click.option(
    "--protocol",
    type=click.Choice(PROBE_PROTOCOLS),
    default=PROBE_DEFAULTS.protocol,
    show_default=True,
    help="Feature and classifier.",
)
@click.option(
    "--train-fraction",
    type=FiniteRange(min=0, max=1, min_open=True),
    default=PROBE_DEFAULTS.train_fraction,
    show_default=True,
    help="Share of the clips of train that is taken, at random.",
)
@evaluation_options
def linear_probe_command(source: str, **options: Any) -> int:
    """Train a linear classifier on the frames of train, and count on another split."""
    check_outputs(options)
    check_library(options["protocol"])
    from clip_kinetics700_builder.evaluate.linear_probe import evaluate_linear_probe

    config = ProbeConfig(
        evaluation=read_evaluation(source, options),
        protocol=options["protocol"],
        train_fraction=options["train_fraction"],
    )
    return finish(options, evaluate_linear_probe(config))


@click.command("embed-classes")
@click.argument("directory", type=PATH)
@prompts_option
@text_options
@general_options
def embed_classes_command(directory: Path, *, quiet: bool, **options: Any) -> int:
    """Write the text embeddings of the classes into the dataset in DIRECTORY."""
    from clip_kinetics700_builder.evaluate.class_texts import embed_classes

    texts = embed_classes(directory, TextConfig(**take(TextConfig, options)), quiet=quiet)
    if not quiet:
        click.echo(
            f"{directory}: {len(texts.names):,} classes, {len(texts.prompts)} prompts, "
            f"{texts.model} ({texts.family})"
        )
    return 0


@click.command("search")
@click.argument("source")
@click.argument("texts", nargs=-1, required=True)
@click.option(
    "--top", type=COUNT, default=SEARCH_DEFAULTS.top, show_default=True, help="Clips for each text."
)
@click.option(
    "--split", default=SEARCH_DEFAULTS.split, callback=split_name, help="Default: all of them."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")
@text_options
@index_option
@source_options
@general_options
def search_command(source: str, texts: tuple[str, ...], **options: Any) -> int:
    """Find the clips of SOURCE that have the frame nearest to each of TEXTS."""
    from clip_kinetics700_builder.evaluate.search import search

    config = SearchConfig(
        source=SourceConfig(source=source, **take(SourceConfig, options)),
        text=TextConfig(**take(TextConfig, options)),
        split=options["split"],
        top=options["top"],
        quiet=options["quiet"],
    )
    found = search(config, texts)
    if options["as_json"]:
        document = {
            text: [asdict(hit) for hit in hits] for text, hits in zip(texts, found, strict=True)
        }
        click.echo(json.dumps(document, indent=2))
    else:
        print_hits(texts, found)
    return 0


def read_evaluation(source: str, options: Mapping[str, Any]) -> EvaluationConfig:
    """Return what is common to evaluations, from the options of a command."""
    reads = SourceConfig(source=source, **take(SourceConfig, options))
    return EvaluationConfig(source=reads, **take(EvaluationConfig, options))


def take(kind: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are fields of a configuration."""
    names = {field.name for field in fields(kind)} - {"source"}
    return {name: value for name, value in options.items() if name in names}


def check_outputs(options: Mapping[str, Any]) -> None:
    """Refuse, before hours of work, what could not be written at their end.

    Raises:
        InputError: a directory is not there, or the library that draws.
    """
    for name, file in (("--json", options["result_file"]), ("--figure", options["figure"])):
        if file is not None and not file.parent.is_dir():
            raise InputError(f"{name} {file}: there is no directory {file.parent}")
    if options["figure"] is not None:
        check_library("figure")


def check_library(use: str) -> None:
    """Refuse to begin without a library.

    Raises:
        InputError: it is not installed.
    """
    module = MODULE_OF_OPTION[use]
    if find_spec(module) is None:
        raise InputError(f"{module} is not installed: pip install 'clip-kinetics700[eval]'")


def finish(options: Mapping[str, Any], evaluation: "Evaluation") -> int:
    """Print the result, write it and draw it, as the options say."""
    from clip_kinetics700_builder.system.files import write_json

    result = evaluation.result
    # Written first: a pipe that breaks while the table is printed ends the process.
    if options["result_file"] is not None:
        write_json(options["result_file"], result)
    if options["figure"] is not None:
        from clip_kinetics700_builder.evaluate.confusion import draw_confusion

        title = f"{result['task']}, {result['protocol']}, {result['split']}"
        draw_confusion(options["figure"], evaluation.outcomes, evaluation.names, title)
    if not options["quiet"]:
        print_result(result)
    return 0


if TYPE_CHECKING:  # it imports torch
    from clip_kinetics700_builder.evaluate.search import Hit

CLASSES_SHOWN = 10


def print_result(result: Mapping[str, Any]) -> None:
    """Print the metrics with their intervals, the worst classes and the most confused pairs."""
    console = Console(width=COLUMNS, markup=False, highlight=False, emoji=False)
    for table in (tabulate_metrics(result), tabulate_classes(result), tabulate_confused(result)):
        console.print(table)
    dropped = result["clips"]["dropped"]
    if dropped:
        texts = [f"{count:,} {reason}" for reason, count in dropped.items()]
        console.print(f"not counted: {', '.join(texts)}")


def tabulate_metrics(result: Mapping[str, Any]) -> Table:
    """Return top-1, top-5 and their mean."""
    interval = result["interval"]
    clips = f"{result['clips']['counted']:,} clips of {result['split']}"
    table = Table(
        title=f"{result['task']}, protocol {result['protocol']}: {clips}", title_justify="left"
    )
    table.add_column(make_printable(str(result["model"]["id"])), overflow="fold")
    table.add_column("accuracy", justify="right")
    table.add_column(f"{interval['level']:.0%} interval", justify="right")
    for name, text in (("top1", "top-1"), ("top5", "top-5"), ("mean", "mean of the two")):
        low, high = interval[name]
        table.add_row(text, f"{result[name]:.4f}", f"{low:.4f} to {high:.4f}")
    return table


def tabulate_classes(result: Mapping[str, Any]) -> Table:
    """Return the classes with the lowest top-1."""
    worst = sorted(result["per_class"], key=lambda row: (row["top1"], row["top5"], row["name"]))
    table = Table()
    table.add_column(f"the worst of {len(worst):,} classes", overflow="fold")
    for name in ("clips", "top-1", "top-5"):
        table.add_column(name, justify="right")
    for row in worst[:CLASSES_SHOWN]:
        numbers = f"{row['clips']:,}", f"{row['top1']:.3f}", f"{row['top5']:.3f}"
        table.add_row(make_printable(row["name"]), *numbers)
    return table


def tabulate_confused(result: Mapping[str, Any]) -> Table:
    """Return the pairs of classes that are confused most often."""
    table = Table()
    table.add_column("class", overflow="fold")
    table.add_column("taken for", overflow="fold")
    table.add_column("clips", justify="right")
    for pair in result["confused"][:CLASSES_SHOWN]:
        names = make_printable(pair["true"]), make_printable(pair["predicted"])
        table.add_row(*names, f"{pair['clips']:,}")
    return table


def print_hits(texts: Sequence[str], found: Sequence[Sequence["Hit"]]) -> None:
    """Print the clips that were found for each text, the best first: a line each, never cut."""
    console = Console(soft_wrap=True, markup=False, highlight=False, emoji=False)
    for text, hits in zip(texts, found, strict=True):
        console.print(make_printable(text))
        for hit in hits:
            place = hit.link or f"second {hit.seconds:.0f}"
            line = f"{hit.similarity:8.4f}  {place}  {hit.split} {hit.key}  {hit.caption}"
            console.print(make_printable(line))
