"""What a person sees of annotations: rows of each release, duplicates, leakage."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = 100
RELEASES = {
    "version": "version",
    "split": "split",
    "rows": "rows",
    "classes": "classes",
    "without_label": "no label",
    "other_length": "not 10 s",
    "is_cc": "CC",
    "is_cc_unknown": "CC unknown",
}
LEAKAGE = {
    "version": "version",
    "split": "split",
    "clips": "clips",
    "in_train_of": "in train of",
    "same_segment": "same clips",
    "overlapping": "overlapping",
}


def print_annotations(description: Mapping[str, Any]) -> None:
    """Print what `annotation_table.describe_table` returns."""
    console = Console(width=COLUMNS, markup=False, highlight=False)
    console.print(tabulate("", RELEASES, description["releases"]))
    for version, counts in description["duplicates"].items():
        console.print(
            f"{version}: {counts['segments']:,} clips are there several times, "
            f"{counts['ids_with_several_segments']:,} ids have several segments"
        )
    if description["leakage"]:
        title = "held-out clips in a training split"
        console.print(tabulate(title, LEAKAGE, description["leakage"]))


def tabulate(title: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return rows as a table."""
    table = Table(title=title or None, title_justify="left")
    for name, heading in columns.items():
        is_text = name in ("version", "split", "in_train_of")
        table.add_column(heading, justify="left" if is_text else "right")
    for row in rows:
        cells = [row[name] for name in columns]
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells))
    return table
