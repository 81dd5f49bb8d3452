"""The commands of a dataset: options in, one call of the pipeline, a table and an exit code out.

`cli.py` names them; what they take stands in `options.py`.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from clip_kinetics700_builder.cli.options import (
    COUNT,
    PATH,
    assemble_options,
    convert_options,
    encode_options,
    general_options,
    index_option,
    processed_options,
    revision_option,
    seed_option,
    source_options,
)
from clip_kinetics700_builder.config import (
    AssembleConfig,
    ConvertConfig,
    DownloadConfig,
    EncodeConfig,
    PushConfig,
    SourceConfig,
)
from clip_kinetics700_builder.dataset.layout import WORK_NAME
from clip_kinetics700_builder.dataset.problems import Problem

log = logging.getLogger(__name__)


@click.command("build")
@encode_options
@click.option("--output", type=PATH, required=True, help="Directory of the dataset.")
@seed_option
@assemble_options
@general_options
def build_command(output: Path, **options: Any) -> int:
    """Encode videos and assemble the dataset: encode and assemble in one."""
    from clip_kinetics700_builder import build
    from clip_kinetics700_builder.cli import tables

    encode_config = make_config(EncodeConfig, options, work=output / WORK_NAME)
    assemble_config = make_config(AssembleConfig, options, source=output, output=output)
    if options["dry_run"]:
        dry_run(encode_config, assemble_config.formats)
        return 0
    summary, manifest = build.build(encode_config, assemble_config, quiet=options["quiet"])
    if manifest is None:
        log.info(
            "%d parts are left for other ranks; the last one to finish assembles",
            summary.n_parts_left,
        )
        return 0
    if not options["quiet"]:
        tables.print_manifest(manifest, output, summary)
    return check_failures(manifest, assemble_config.max_failures)


@click.command("encode")
@encode_options
@click.option("--output", "work", type=PATH, required=True, help="Directory of the parts.")
@seed_option
@general_options
def encode_command(**options: Any) -> int:
    """Encode annotations and videos into parts."""
    from clip_kinetics700_builder import build
    from clip_kinetics700_builder.cli import tables

    config = make_config(EncodeConfig, options)
    if options["dry_run"]:
        dry_run(config, ())
        return 0
    summary = build.encode(config, quiet=options["quiet"])
    if not options["quiet"]:
        tables.print_encoded(summary, config)
    return 0


@click.command("assemble")
@click.argument("source", type=PATH)
@click.option("--output", type=PATH, required=True, help="Directory of the dataset.")
@processed_options
@assemble_options
@general_options
def assemble_command(**options: Any) -> int:
    """Assemble SOURCE, parts or a processed dataset, into the published layout.

    --seed and --class-list are for a processed dataset; the plan of parts has both already.
    """
    from clip_kinetics700_builder.assemble.assemble import assemble_directory
    from clip_kinetics700_builder.cli import tables

    config = make_config(AssembleConfig, options)
    manifest = assemble_directory(config, quiet=options["quiet"])
    if not options["quiet"]:
        tables.print_manifest(manifest, config.output, None)
    return check_failures(manifest, config.max_failures)


@click.command("verify")
@click.argument("source")
@revision_option
@click.option(
    "--force-download", is_flag=True, help="Fetch again what is damaged in the Hub's cache."
)
@general_options
def verify_command(
    source: str, *, revision: str | None, force_download: bool, quiet: bool, debug: bool
) -> int:
    """Check every file of SOURCE against its manifest and the others.

    SOURCE is a directory, or a repository of the Hub, which is fetched into the Hub's cache.
    """
    from clip_kinetics700_builder.hub.snapshot import fetch_snapshot, find_repository
    from clip_kinetics700_builder.system.progress import track_progress
    from clip_kinetics700_builder.verify.dataset import verify_dataset

    del debug
    place = find_repository(source, revision, repairs=force_download)
    track = partial(track_progress, "verify", unit="samples", quiet=quiet)
    if place is None:
        problems = verify_dataset(Path(source), track=track)
        return print_verified(source, Path(source), problems, quiet=quiet)
    fetching = partial(track_progress, "fetch", unit="files", quiet=quiet)
    snapshot = fetch_snapshot(place, repairs=force_download, track=fetching)
    title, directory = snapshot.repository.title, snapshot.directory
    problems = verify_dataset(directory, names=sorted(snapshot.repository.files), track=track)
    code = print_verified(title, directory, problems, quiet=quiet)
    if damaged := snapshot.find_damaged({problem.file for problem in problems}):
        click.echo(
            f"{title}: {len(damaged)} of its files are damaged in the Hub's cache, and are not in "
            "the repository; --force-download fetches them again",
            err=True,
        )
    return code


@click.command("convert")
@click.argument("source")
@click.argument("output", metavar="DIR", type=PATH)
@index_option
@source_options
@convert_options
@assemble_options
@general_options
def convert_command(source: str, *, dry_run: bool, quiet: bool, **options: Any) -> int:
    """Rewrite SOURCE, a dataset of any dialect, into the published layout in DIR.

    SOURCE is a directory, a repository of the Hub, any fsspec URL, or a tar.
    """
    from clip_kinetics700_builder.cli import tables
    from clip_kinetics700_builder.convert import convert

    reads = make_config(SourceConfig, options, source=source)
    config = make_config(ConvertConfig, options, source=reads)
    if dry_run:
        tables.print_conversion(convert.describe_plan(config), source, config.output)
        return 0
    manifest, problems = convert.convert(config, quiet=quiet)
    if not quiet:
        tables.print_manifest(manifest, config.output, None)
    if problems:
        return print_problems(config.output, problems)
    return check_failures(manifest, config.max_failures)


@click.command("index")
@click.argument("source")
@click.option("--output", metavar="FILE", type=PATH, help="Default: SOURCE/index.parquet.")
@source_options
@general_options
def index_command(output: Path | None, *, quiet: bool, **options: Any) -> int:
    """Write the index of SOURCE, so that readers find its samples without reading all of it."""
    from clip_kinetics700_builder.read.index import index_source
    from clip_kinetics700_builder.system.progress import track_progress

    track = partial(track_progress, "index", unit="files", quiet=quiet)
    path, counts = index_source(make_config(SourceConfig, options), output, track=track)
    if not quiet:
        numbers = ", ".join(f"{count:,} {split}" for split, count in counts.items())
        click.echo(f"{path}: {numbers} samples")
    return 0


@click.command("info")
@click.argument("source")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")
@index_option
@source_options
@general_options
def info_command(*, as_json: bool, quiet: bool, **options: Any) -> int:
    """Read SOURCE once and print what is in it, and what is odd about it."""
    from clip_kinetics700_builder.cli.tables import print_info
    from clip_kinetics700_builder.read.info import describe_source
    from clip_kinetics700_builder.system.progress import track_progress

    def track(total: int, unit: str) -> AbstractContextManager[Callable[[int], None]]:
        return track_progress("read", total, unit=unit, quiet=quiet)

    info = describe_source(make_config(SourceConfig, options), track=track)
    if as_json:
        click.echo(json.dumps(info, indent=2))
    else:
        print_info(info)
    return 0


def dry_run(config: EncodeConfig, formats: Sequence[str]) -> None:
    """Print what a run would do and take; a model that cannot be had costs only the times."""
    from clip_kinetics700_builder.cli import tables
    from clip_kinetics700_builder.engines import cost, prepare
    from clip_kinetics700_builder.types import InputError

    plan = prepare.plan_job(config)
    tables.print_plan(plan, config)
    try:
        model = cost.measure_cost(config, plan)
    except InputError as error:
        click.echo(f"what it would take is not known: {error}")
        return
    n_clips = cost.count_clips(plan, config)
    tables.print_cost(model, cost.predict_cost(model, n_clips, formats))


Config = TypeVar(
    "Config", EncodeConfig, AssembleConfig, SourceConfig, ConvertConfig, DownloadConfig, PushConfig
)


def make_config(kind: type[Config], options: Mapping[str, Any], **more: Any) -> Config:
    """Return the configuration that takes its fields from a command's options."""
    names = kind.__dataclass_fields__.keys()
    return kind(**{name: value for name, value in options.items() if name in names}, **more)


def print_verified(title: str, directory: Path, problems: Sequence[Problem], *, quiet: bool) -> int:
    """Print what verification found, or that all is well; return the exit code."""
    from clip_kinetics700_builder.dataset.manifest import read_manifest

    if problems:
        return print_problems(title, problems)
    manifest = read_manifest(directory)
    if manifest is not None and not quiet:
        counts = [f"{manifest['totals'][name]:,} {name}" for name in ("samples", "failures")]
        click.echo(
            f"{title}: {len(manifest['files'])} files are as the manifest says, {', '.join(counts)}"
        )
    return 0


def print_problems(title: str | Path, problems: Sequence[Problem]) -> int:
    """Print what verification found, file by file; return exit code 1."""
    for problem in problems:
        click.echo(f"{problem.file}: {problem.message}", err=True)
    click.echo(f"{title}: {len(problems)} problems", err=True)
    return 1


def check_failures(manifest: Mapping[str, Any], max_failures: float) -> int:
    """Return exit code 1 where a larger share of clips failed than is allowed."""
    totals = manifest["totals"]
    share = totals["failures"] / totals["rows"]
    if share <= max_failures:
        return 0
    click.echo(
        f"clip-kinetics700: {totals['failures']} of {totals['rows']} clips failed "
        f"({share:.0%}), more than --max-failures {max_failures:g}; everything was written, "
        "the reasons are in failures.parquet",
        err=True,
    )
    return 1


PUSH_DEFAULTS = PushConfig(directory=Path(), repository="")


@click.command("push")
@click.argument("directory", metavar="DIR", type=PATH)
@click.argument("repository", metavar="REPO_ID")
@click.option("--private", is_flag=True, help="If the repository is created: for its members only.")
@click.option("--revision", default=PUSH_DEFAULTS.revision, help="Branch; created from main.")
@click.option("--message", default=PUSH_DEFAULTS.message, help="Of the commit.")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead of committing.")
@click.option(
    "--token-file",
    metavar="FILE",
    type=PATH,
    default=PUSH_DEFAULTS.token_file,
    help="Holds a token of the Hub; default: HF_TOKEN, or that of `hf auth login`.",
)
@click.option(
    "--max-workers",
    type=COUNT,
    default=PUSH_DEFAULTS.max_workers,
    show_default=True,
    help="Files that are sent at a time.",
)
@click.option("--keep-extra", is_flag=True, help="Keep files there that are not of the dataset.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@general_options
def push_command(*, quiet: bool, **options: Any) -> int:
    """Publish the dataset in DIR as REPO_ID on the Hub, in one commit.

    What was sent before is not sent again, so after any interruption the same command goes on.
    """
    from clip_kinetics700_builder.hub.push import push
    from clip_kinetics700_builder.system.progress import track_progress

    config = make_config(PushConfig, options)
    published = push(config, track=partial(track_progress, "push", unit="files", quiet=quiet))
    if quiet:
        return 0
    change, commit = published.change, published.commit
    counts = (
        f"{len(change.added)} files of {change.n_bytes / 1e6:,.1f} MB added, "
        f"{len(change.deleted)} deleted, {change.n_same} there already"
    )
    if commit is None:
        click.echo(f"{config.repository}: {counts}, if this were no dry run")
        for name in change.deleted:
            click.echo(f"would delete {name}")
    else:
        click.echo(f"{config.repository}: {counts}; all as the manifest says\n{commit.url}")
    return 0


@click.command("card")
@click.argument("directory", metavar="DIR", type=PATH)
@click.option(
    "--evaluation",
    "evaluations",
    metavar="FILE",
    type=PATH,
    multiple=True,
    help="Result of `evaluate --json` on this dataset; may be given several times.",
)
@general_options
def card_command(
    directory: Path, evaluations: tuple[Path, ...], *, quiet: bool, debug: bool
) -> int:
    """Write README.md of the dataset in DIR again, with the results of evaluations.

    Everything else on it is of the dataset's manifest.
    """
    from clip_kinetics700_builder.card.render import write_card

    del debug
    path = write_card(directory, evaluations)
    if not quiet:
        click.echo(f"{path}: {len(evaluations)} evaluations")
    return 0
