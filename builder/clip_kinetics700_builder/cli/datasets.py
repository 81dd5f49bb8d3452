"""The commands of a dataset: each reads its options, makes one call and prints what came of it."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from clip_kinetics700_builder.config import (
    AssembleConfig,
    ConvertConfig,
    EncodeConfig,
    PushConfig,
    SourceConfig,
)
from clip_kinetics700_builder.option import make_config

if TYPE_CHECKING:
    from clip_kinetics700_builder.build import EncodeSummary
    from clip_kinetics700_builder.dataset.manifest import Manifest
    from clip_kinetics700_builder.dataset.problems import Problem

log = logging.getLogger(__name__)

output_option = click.option("--output", type=PATH, required=True, help="Directory of the dataset.")


@click.command("build")
@output_option
@options_of(EncodeConfig, AssembleConfig)
@dry_run_option
@general_options
def build_command(
    output: Path, *, max_failures: float, dry_run: bool, quiet: bool, **options: Any
) -> int:
    """Encode videos and assemble the dataset: encode and assemble in one."""
    if dry_run:
        from clip_kinetics700_builder.dataset.layout import WORK_NAME

        return print_dry_run(output / WORK_NAME, options, options["formats"])
    encoded, manifest = api.build(output, progress=not quiet, max_failures=max_failures, **options)
    if manifest is None:
        n_left = encoded.n_parts_left
        log.info("%d parts are left for other ranks; the last one to finish assembles", n_left)
        return 0
    return print_assembled(manifest, output, max_failures, encoded, quiet=quiet)


@click.command("encode")
@click.option("--output", type=PATH, required=True, help="Directory of the parts.")
@options_of(EncodeConfig)
@dry_run_option
@general_options
def encode_command(output: Path, *, dry_run: bool, quiet: bool, **options: Any) -> int:
    """Encode annotations and videos into parts."""
    if dry_run:
        return print_dry_run(output, options, ())
    encoded = api.encode(output, progress=not quiet, **options)
    if not quiet:
        from clip_kinetics700_builder.cli import tables

        tables.print_encoded(encoded, output)
    return 0


@click.command("assemble")
@click.argument("source", type=PATH)
@output_option
@options_of(AssembleConfig)
@general_options
def assemble_command(
    source: Path, output: Path, *, max_failures: float, quiet: bool, **options: Any
) -> int:
    """Assemble SOURCE, parts or a processed dataset, into the published layout.

    --seed and --class-list are for a processed dataset; the plan of parts has both already.
    """
    manifest = api.assemble(source, output, progress=not quiet, **options)
    return print_assembled(manifest, output, max_failures, quiet=quiet)


@click.command("verify")
@click.argument("source")
@options_of(SourceConfig, only=("revision",))
@click.option(
    "--force-download", is_flag=True, help="Fetch again what is damaged in the Hub's cache."
)
@general_options
def verify_command(source: str, *, revision: str | None, force_download: bool, quiet: bool) -> int:
    """Check every file of SOURCE against its manifest and the others.

    SOURCE is a directory, or a repository of the Hub, which is fetched into the Hub's cache.
    """
    from clip_kinetics700_builder.dataset.manifest import require_manifest

    progress = api.choose_progress(not quiet)
    problems, snapshot = api.verify_source(
        source, revision, force_download=force_download, progress=progress
    )
    title = source if snapshot is None else snapshot.repository.title
    if problems:
        print_problems(title, problems)
    elif not quiet:
        manifest = require_manifest(Path(source) if snapshot is None else snapshot.directory)
        totals = manifest.totals
        counts = f"{totals.samples:,} samples, {totals.failures:,} failures"
        say(f"{title}: {len(manifest.files)} files are as the manifest says, {counts}")
    if snapshot is not None and (
        damaged := snapshot.find_damaged({problem.file for problem in problems})
    ):
        say(
            f"{title}: {len(damaged)} of its files are damaged in the Hub's cache, and are not in "
            "the repository; --force-download fetches them again",
            err=True,
        )
    return 1 if problems else 0


@click.command("convert")
@click.argument("source")
@click.argument("output", metavar="DIR", type=PATH)
@options_of(ConvertConfig, leave_out=("seed",))
@dry_run_option
@general_options
def convert_command(
    source: str,
    output: Path,
    *,
    max_failures: float,
    dry_run: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Rewrite SOURCE, a dataset of any dialect, into the published layout in DIR.

    SOURCE is a directory, a repository of the Hub, any fsspec URL, or a tar.
    """
    from clip_kinetics700_builder.cli import tables
    from clip_kinetics700_builder.convert import convert

    config = api.make_convert_config(source, output, options)
    if dry_run:
        tables.print_conversion(convert.describe_plan(config), source, output)
        return 0
    manifest, problems = convert.convert(config, progress=api.choose_progress(not quiet))
    code = print_assembled(manifest, output, max_failures, quiet=quiet)
    return print_problems(output, problems) if problems else code


@click.command("index")
@click.argument("source")
@click.option("--output", metavar="FILE", type=PATH, help="Default: SOURCE/index.parquet.")
@options_of(SourceConfig, leave_out=("index",))
@general_options
def index_command(source: str, output: Path | None, *, quiet: bool, **options: Any) -> int:
    """Write the index of SOURCE, so that readers find its samples without reading all of it."""
    from clip_kinetics700_builder.read.index import index_source

    config = make_config(SourceConfig, options, source=source)
    path, counts = index_source(config, output, progress=api.choose_progress(not quiet))
    if not quiet:
        numbers = ", ".join(f"{count:,} {split}" for split, count in counts.items())
        say(f"{path}: {numbers} samples")
    return 0


@click.command("info")
@click.argument("source")
@json_option
@options_of(SourceConfig)
@general_options
def info_command(source: str, *, as_json: bool, quiet: bool, **options: Any) -> int:
    """Read SOURCE once and print what is in it, and what is odd about it."""
    from clip_kinetics700_builder.cli.tables import print_info
    from clip_kinetics700_builder.read.info import describe_source

    config = make_config(SourceConfig, options, source=source)
    info = describe_source(config, progress=api.choose_progress(not quiet))
    if as_json:
        say(json.dumps(info, indent=2))
    else:
        print_info(info)
    return 0


@click.command("push")
@click.argument("directory", metavar="DIR", type=PATH)
@click.argument("repository", metavar="REPO_ID")
@options_of(PushConfig)
@general_options
def push_command(directory: Path, repository: str, *, quiet: bool, **options: Any) -> int:
    """Publish the dataset in DIR as REPO_ID on the Hub, in one commit.

    What was sent before is not sent again, so after any interruption the same command goes on.
    """
    published = api.push(directory, repository, progress=not quiet, **options)
    if quiet:
        return 0
    change, commit = published.change, published.commit
    counts = (
        f"{len(change.added)} files of {change.n_bytes / 1e6:,.1f} MB added, "
        f"{len(change.deleted)} deleted, {change.n_same} there already"
    )
    if commit is None:
        say(f"{repository}: {counts}, if this were no dry run")
        for name in change.deleted:
            say(f"would delete {name}")
    else:
        say(f"{repository}: {counts}; all as the manifest says\n{commit.url}")
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
def card_command(directory: Path, evaluations: tuple[Path, ...], *, quiet: bool) -> int:
    """Write README.md of the dataset in DIR again, with the results of evaluations.

    Everything else on it is of the dataset's manifest.
    """
    path = api.write_card(directory, evaluations=evaluations)
    if not quiet:
        say(f"{path}: {len(evaluations)} evaluations")
    return 0


def print_dry_run(work: Path, options: Mapping[str, Any], formats: Sequence[str]) -> int:
    """Print what a run would do and take; a model that cannot be had costs only the times."""
    from clip_kinetics700_builder.cli import tables
    from clip_kinetics700_builder.engines import cost, prepare
    from clip_kinetics700_builder.types import InputError

    config = make_config(EncodeConfig, options, work=work)
    job = prepare.plan_job(config)
    tables.print_plan(job, config)
    try:
        model = cost.measure_cost(config, job)
    except InputError as error:
        say(f"what it would take is not known: {error}")
        return 0
    n_clips = cost.count_clips(job, config)
    tables.print_cost(model, cost.predict_cost(model, n_clips, formats))
    return 0


def print_problems(title: str | Path, problems: Sequence["Problem"]) -> int:
    """Print what verification found, file by file; return exit code 1."""
    for problem in problems:
        say(f"{problem.file}: {problem.message}", err=True)
    say(f"{title}: {len(problems)} problems", err=True)
    return 1


def print_assembled(
    manifest: "Manifest",
    output: Path,
    max_failures: float,
    encoded: "EncodeSummary | None" = None,
    *,
    quiet: bool,
) -> int:
    """Print the counts of a dataset; return exit code 1 where more clips failed than is allowed."""
    if not quiet:
        from clip_kinetics700_builder.cli import tables

        tables.print_manifest(manifest, output, encoded)
    totals = manifest.totals
    share = totals.failures / totals.rows
    if share <= max_failures:
        return 0
    say(
        f"clip-kinetics700: {totals.failures} of {totals.rows} clips failed "
        f"({share:.0%}), more than --max-failures {max_failures:g}; everything was written, "
        "the reasons are in failures.parquet",
        err=True,
    )
    return 1
