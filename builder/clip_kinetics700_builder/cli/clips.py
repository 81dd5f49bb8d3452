"""The commands of clips: what annotations say of them, how they are fetched, what came of that."""

import json
from pathlib import Path
from typing import Any

import click

from clip_kinetics700_builder import api
from clip_kinetics700_builder.cli.options import (
    PATH,
    dry_run_option,
    general_options,
    json_option,
    options_of,
)
from clip_kinetics700_builder.cli.terminal import say
from clip_kinetics700_builder.config import VERSIONS, AnnotationsConfig, DownloadConfig
from clip_kinetics700_builder.option import make_config


@click.command("annotations")
@click.argument("files", nargs=-1, required=True)
@click.option("--output", metavar="FILE", type=PATH, help="Write the table as Parquet.")
@json_option
@options_of(AnnotationsConfig, only=("base_url", "annotations_url", "cache"))
@general_options
def annotations_command(
    files: tuple[str, ...], *, output: Path | None, as_json: bool, quiet: bool, **options: Any
) -> int:
    """Read FILES, annotations of any release, and say what is in them, twice, or leaks.

    FILES are files, directories, VERSION=FILE, or versions (400, 600, 700, 700-2020), which are
    fetched once.
    """
    from clip_kinetics700_builder.cli import tables
    from clip_kinetics700_builder.clips import compare

    paths = [path for word in files for path in find_paths(word, options)]
    table = compare.read_release_files(compare.list_release_files(paths))
    if output is not None:
        compare.write_table(output, table)
    description = compare.describe_table(table)
    if as_json:
        say(json.dumps(description, indent=2))
    elif not quiet:
        tables.print_annotations(description)
    return 0


def find_paths(word: str, options: dict[str, Any]) -> list[tuple[Path, str | None]]:
    """Return the paths that a word of the command line stands for, with their release if named."""
    from clip_kinetics700_builder.sources.annotation_cache import find_annotations

    if word in VERSIONS and not Path(word).exists():
        config = make_config(AnnotationsConfig, options, version=word)
        return [(path, word) for path in find_annotations(config)]
    version, equals, path = word.partition("=")
    if equals and version in VERSIONS:
        return [(Path(path), version)]
    return [(Path(word), None)]


@click.command("download")
@click.option("--output", type=PATH, required=True, help="Directory of the clips.")
@options_of(DownloadConfig)
@dry_run_option
@general_options
def download_command(output: Path, *, dry_run: bool, quiet: bool, **options: Any) -> int:
    """Get clips of Kinetics into a directory: what is there first, then --source in order."""
    from clip_kinetics700_builder.cli import tables

    if dry_run:
        from clip_kinetics700_builder.download.download import plan_download

        config = make_config(DownloadConfig, options, output=output)
        tables.print_download_plan(plan_download(config), output)
        return 0
    summary = api.download(output, progress=not quiet, **options)
    if not quiet:
        tables.print_download(summary, output)
    return 0


@click.command("status")
@click.argument("directory", type=PATH)
@json_option
@general_options
def status_command(directory: Path, *, as_json: bool, **_: Any) -> int:
    """Say what came of the clips in DIRECTORY, a download or a build, and why some are missing."""
    from clip_kinetics700_builder.cli.tables import print_status
    from clip_kinetics700_builder.status import read_status

    status = read_status(directory)
    if as_json:
        say(json.dumps(status.document(), indent=2))
    else:
        print_status(status, directory)
    return 0
