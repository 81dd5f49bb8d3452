"""The commands of a dataset: each reads its options, makes one call and prints what came of it."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clip_kinetics700_builder.cli.options import (
    PATH,
    choose_progress,
    dry_run_option,
    general_options,
    json_option,
    options_of,
)
from clip_kinetics700_builder.config import (
    AssembleConfig,
    ConvertConfig,
    EncodeConfig,
    PushConfig,
    SourceConfig,
)
from clip_kinetics700_builder.option import make_config

if TYPE_CHECKING:
    from clip_kinetics700_builder.dataset.manifest import Manifest
    from clip_kinetics700_builder.dataset.problems import Problem

log = logging.getLogger(__name__)

output_option = click.option("--output", type=PATH, required=True, help="Directory of the dataset.")


@click.command("build")
@options_of(EncodeConfig)
@output_option
@options_of(AssembleConfig, leave_out=("seed", "class_list"))
@dry_run_option
@general_options
def build_command(output: Path, **options: Any) -> int:
    """Encode videos and assemble the dataset: encode and assemble in one."""
    from clip_kinetics700_builder.build import build
    from clip_kinetics700_builder.cli import tables
    from clip_kinetics700_builder.dataset.layout import WORK_NAME

    encode_config = make_config(EncodeConfig, options, work=output / WORK_NAME)
    # What orders and numbers the rows is in the plan.
    assemble_config = make_config(
        AssembleConfig, options, source=output, output=output, seed=None, class_list=None
    )
    if options["dry_run"]:
        dry_run(encode_config, assemble_config.formats)
        return 0
    progress = choose_progress(options)
    summary, manifest = build(encode_config, assemble_config, progress=progress)
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
@options_of(EncodeConfig)
@click.option("--output", "work", type=PATH, required=True, help="Directory of the parts.")
@dry_run_option
@general_options
def encode_command(**options: Any) -> int:
    """Encode annotations and videos into parts."""
    from clip_kinetics700_builder.build import encode
    from clip_kinetics700_builder.cli import tables

    config = make_config(EncodeConfig, options)
    if options["dry_run"]:
        dry_run(config, ())
        return 0
    summary = encode(config, progress=choose_progress(options))
    if not options["quiet"]:
        tables.print_encoded(summary, config)
    return 0


@click.command("assemble")
@click.argument("source", type=PATH)
@output_option
@options_of(AssembleConfig)
@general_options
def assemble_command(**options: Any) -> int:
    """Assemble SOURCE, parts or a processed dataset, into the published layout.

    --seed and --class-list are for a processed dataset; the plan of parts has both already.
    """
    from clip_kinetics700_builder.assemble.assemble import assemble_directory
    from clip_kinetics700_builder.cli import tables

    config = make_config(AssembleConfig, options)
    manifest = assemble_directory(config, progress=choose_progress(options))
    if not options["quiet"]:
        tables.print_manifest(manifest, config.output, None)
    return check_failures(manifest, config.max_failures)


@click.command("verify")
@click.argument("source")
@options_of(SourceConfig, only=("revision",))
@click.option(
    "--force-download", is_flag=True, help="Fetch again what is damaged in the Hub's cache."
)
@general_options
def verify_command(
    source: str, *, revision: str | None, force_download: bool, **options: Any
) -> int:
    """Check every file of SOURCE against its manifest and the others.

    SOURCE is a directory, or a repository of the Hub, which is fetched into the Hub's cache.
    """
    from clip_kinetics700_builder.hub.snapshot import fetch_snapshot, find_repository
    from clip_kinetics700_builder.verify.dataset import verify_dataset

    progress = choose_progress(options)
    place = find_repository(source, revision, repairs=force_download)
    if place is None:
        problems = verify_dataset(Path(source), progress=progress)
        return print_verified(source, Path(source), problems, quiet=options["quiet"])
    snapshot = fetch_snapshot(place, repairs=force_download, progress=progress)
    title, directory = snapshot.repository.title, snapshot.directory
    names = sorted(snapshot.repository.files)
    problems = verify_dataset(directory, names=names, progress=progress)
    code = print_verified(title, directory, problems, quiet=options["quiet"])
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
@options_of(ConvertConfig, leave_out=("seed",))
@dry_run_option
@general_options
def convert_command(source: str, **options: Any) -> int:
    """Rewrite SOURCE, a dataset of any dialect, into the published layout in DIR.

    SOURCE is a directory, a repository of the Hub, any fsspec URL, or a tar.
    """
    from clip_kinetics700_builder.cli import tables
    from clip_kinetics700_builder.convert import convert

    reads = make_config(SourceConfig, options, source=source)
    assembly = make_config(AssembleConfig, options, source=Path(source))
    config = ConvertConfig(source=reads, assembly=assembly)
    if options["dry_run"]:
        tables.print_conversion(convert.describe_plan(config), source, assembly.output)
        return 0
    manifest, problems = convert.convert(config, progress=choose_progress(options))
    if not options["quiet"]:
        tables.print_manifest(manifest, assembly.output, None)
    if problems:
        return print_problems(assembly.output, problems)
    return check_failures(manifest, assembly.max_failures)


@click.command("index")
@click.argument("source")
@click.option("--output", metavar="FILE", type=PATH, help="Default: SOURCE/index.parquet.")
@options_of(SourceConfig, leave_out=("index",))
@general_options
def index_command(output: Path | None, **options: Any) -> int:
    """Write the index of SOURCE, so that readers find its samples without reading all of it."""
    from clip_kinetics700_builder.read.index import index_source

    config = make_config(SourceConfig, options)
    path, counts = index_source(config, output, progress=choose_progress(options))
    if not options["quiet"]:
        numbers = ", ".join(f"{count:,} {split}" for split, count in counts.items())
        click.echo(f"{path}: {numbers} samples")
    return 0


@click.command("info")
@click.argument("source")
@json_option
@options_of(SourceConfig)
@general_options
def info_command(*, as_json: bool, **options: Any) -> int:
    """Read SOURCE once and print what is in it, and what is odd about it."""
    from clip_kinetics700_builder.cli.tables import print_info
    from clip_kinetics700_builder.read.info import describe_source

    config = make_config(SourceConfig, options)
    info = describe_source(config, progress=choose_progress(options))
    if as_json:
        click.echo(json.dumps(info, indent=2))
    else:
        print_info(info)
    return 0


@click.command("push")
@click.argument("directory", metavar="DIR", type=PATH)
@click.argument("repository", metavar="REPO_ID")
@options_of(PushConfig)
@general_options
def push_command(**options: Any) -> int:
    """Publish the dataset in DIR as REPO_ID on the Hub, in one commit.

    What was sent before is not sent again, so after any interruption the same command goes on.
    """
    from clip_kinetics700_builder.hub.push import push

    config = make_config(PushConfig, options)
    published = push(config, progress=choose_progress(options))
    if options["quiet"]:
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
def card_command(directory: Path, evaluations: tuple[Path, ...], **options: Any) -> int:
    """Write README.md of the dataset in DIR again, with the results of evaluations.

    Everything else on it is of the dataset's manifest.
    """
    from clip_kinetics700_builder.card.render import write_card

    path = write_card(directory, evaluations)
    if not options["quiet"]:
        click.echo(f"{path}: {len(evaluations)} evaluations")
    return 0


def dry_run(config: EncodeConfig, formats: Sequence[str]) -> None:
    """Print what a run would do and take; a model that cannot be had costs only the times."""
    from clip_kinetics700_builder.cli import tables
    from clip_kinetics700_builder.engines import cost, prepare
    from clip_kinetics700_builder.types import InputError

    job = prepare.plan_job(config)
    tables.print_plan(job, config)
    try:
        model = cost.measure_cost(config, job)
    except InputError as error:
        click.echo(f"what it would take is not known: {error}")
        return
    n_clips = cost.count_clips(job, config)
    tables.print_cost(model, cost.predict_cost(model, n_clips, formats))


def print_verified(
    title: str, directory: Path, problems: Sequence["Problem"], *, quiet: bool
) -> int:
    """Print what verification found, or that all is well; return the exit code."""
    from clip_kinetics700_builder.dataset.manifest import require_manifest

    if problems:
        return print_problems(title, problems)
    if not quiet:
        manifest = require_manifest(directory)
        totals = manifest.totals
        counts = f"{totals.samples:,} samples, {totals.failures:,} failures"
        click.echo(f"{title}: {len(manifest.files)} files are as the manifest says, {counts}")
    return 0


def print_problems(title: str | Path, problems: Sequence["Problem"]) -> int:
    """Print what verification found, file by file; return exit code 1."""
    for problem in problems:
        click.echo(f"{problem.file}: {problem.message}", err=True)
    click.echo(f"{title}: {len(problems)} problems", err=True)
    return 1


def check_failures(manifest: "Manifest", max_failures: float) -> int:
    """Return exit code 1 where a larger share of clips failed than is allowed."""
    totals = manifest.totals
    share = totals.failures / totals.rows
    if share <= max_failures:
        return 0
    click.echo(
        f"clip-kinetics700: {totals.failures} of {totals.rows} clips failed "
        f"({share:.0%}), more than --max-failures {max_failures:g}; everything was written, "
        "the reasons are in failures.parquet",
        err=True,
    )
    return 1
