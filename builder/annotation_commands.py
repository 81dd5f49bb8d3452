"""The command of annotations: files of any release in, a table over all of them out."""

import json
from pathlib import Path
from typing import Any

import click

from builder.clip_options import PATH, source_of_annotations
from builder.options import general_options
from builder.releases import VERSIONS


@click.command("annotations")
@click.argument("files", nargs=-1, required=True)
@click.option("--output", metavar="FILE", type=PATH, help="Write the table as Parquet.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")
@source_of_annotations
@general_options
def annotations_command(
    files: tuple[str, ...], *, output: Path | None, as_json: bool, **options: Any
) -> int:
    """Read FILES, annotations of any release, and say what is in them, twice, or leaks.

    FILES are files, directories, VERSION=FILE, or versions (400, 600, 700, 700-2020), which are
    fetched once.
    """
    from builder import annotation_table, report_annotations

    paths = [path for word in files for path in find_paths(word, options)]
    table = annotation_table.read_sources(annotation_table.list_sources(paths))
    if output is not None:
        annotation_table.write_table(output, table)
    description = annotation_table.describe_table(table)
    if as_json:
        click.echo(json.dumps(description, indent=2))
    elif not options["quiet"]:
        report_annotations.print_annotations(description)
    return 0


def find_paths(word: str, options: dict[str, Any]) -> list[tuple[Path, str | None]]:
    """Return the paths that a word of the command line stands for, with their release if named."""
    from builder.annotation_cache import fetch_annotations

    if word in VERSIONS and not Path(word).exists():
        fetched = fetch_annotations(
            word,
            cache=options["cache"],
            base_url=options["base_url"],
            annotations_url=options["annotations_url"],
        )
        return [(path, word) for path in fetched]
    version, equals, path = word.partition("=")
    if equals and version in VERSIONS:
        return [(Path(path), version)]
    return [(Path(word), None)]
