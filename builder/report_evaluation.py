"""What a person sees at the end of an evaluation or a search: tables of at most 80 columns."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from builder.problems import make_printable
from builder.report import COLUMNS

if TYPE_CHECKING:  # it imports torch
    from builder.search import Hit

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
