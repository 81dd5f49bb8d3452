"""Encoded clips in plan order in, the published layout out: pure I/O in constant memory.

Shards hold exactly `samples_per_shard` samples whatever failed and however parts were cut,
because their order and their cuts come from the plan alone.
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

from clip_kinetics700.features import FAILURES_SCHEMA, INDEX_SCHEMA, data_schema
from clip_kinetics700.schema import (
    FAILURES_NAME,
    INDEX_NAME,
    MANIFEST_NAME,
    SPLITS,
    SPLITS_CSV_NAME,
    SPLITS_CSV_WORD,
    TAR_NAME,
    Sample,
)
from clip_kinetics700_builder.assemble.part_rows import PartRows
from clip_kinetics700_builder.assemble.processed_rows import ProcessedRows, is_processed_dataset
from clip_kinetics700_builder.assemble.rows import Rows, number_results
from clip_kinetics700_builder.assemble.shard_files import TableFile, open_table_file, splits_csv
from clip_kinetics700_builder.assemble.shard_reports import Shard, ShardReports
from clip_kinetics700_builder.assemble.shards import SampleIndex, ShardLine, open_shard_line
from clip_kinetics700_builder.card.figures import require_drawing, write_figures
from clip_kinetics700_builder.card.render import render_card
from clip_kinetics700_builder.config import AssembleConfig
from clip_kinetics700_builder.dataset.layout import (
    README_NAME,
    SHARDS_NAME,
    WORK_NAME,
    is_complete,
    lock_dataset,
    refuse_foreign,
    remove_stale_files,
)
from clip_kinetics700_builder.dataset.manifest import (
    Totals,
    build_manifest,
    describe_file,
    read_manifest,
    write_manifest,
)
from clip_kinetics700_builder.parts.canary import describe_canary
from clip_kinetics700_builder.parts.work import is_work_directory, refuse_differences
from clip_kinetics700_builder.system.files import check_directory, write_text
from clip_kinetics700_builder.system.progress import track_progress
from clip_kinetics700_builder.types import InputError

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Layout:
    """State of one assembly: what was numbered and written so far."""

    rows: Rows
    config: AssembleConfig
    advance: Callable[[int], None]
    index: SampleIndex
    failures: TableFile
    reports: ShardReports
    line: ShardLine
    label_ids: Mapping[str, int]
    files: dict[str, dict[str, Any]]
    """The manifest's entry of each file that is finished."""
    n_samples: int = 0
    n_kept: int = 0
    """Shards that an earlier run had finished."""
    tars: list[tuple[str, str]] = field(default_factory=list)


def assemble(
    rows: Rows, config: AssembleConfig, *, advance: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Write the published layout and return its manifest, which is written last.

    Raises:
        InputError: the output holds a dataset of another configuration.
    """
    if config.figures:
        require_drawing()
    configuration = describe_assembly(rows, config)
    check_output(config.output, configuration, rows.class_names)
    date = resolve_date(config)
    config.output.mkdir(parents=True, exist_ok=True)
    (config.output / MANIFEST_NAME).unlink(missing_ok=True)
    schema = data_schema(rows.width, rows.class_names)
    place = config.output / WORK_NAME / SHARDS_NAME
    reports = ShardReports(place, output=config.output, schema=schema)
    files, totals = write_files(rows, config, reports, advance)
    if config.figures:
        files |= write_figures(config.output, totals, rows.class_names)
    remove_stale_files(config.output, files)
    manifest = build_manifest(
        configuration=configuration,
        class_names=rows.class_names,
        totals=totals,
        files=files,
        canary=describe_canary(rows.canary),
        date=date,
    )
    write_text(config.output / README_NAME, render_card(manifest))
    write_manifest(config.output, manifest)
    reports.clear()
    return manifest


def describe_assembly(rows: Rows, config: AssembleConfig) -> dict[str, Any]:
    """Return what the manifest will say was the configuration."""
    return {**rows.configuration, **describe_options(config)}


def describe_options(config: AssembleConfig) -> dict[str, Any]:
    """Return what of the configuration follows from the options of assembly alone."""
    return {"samples_per_shard": config.samples_per_shard, "formats": list(config.formats)}


def check_output(
    output: Path, configuration: Mapping[str, Any], class_names: list[str] | None
) -> None:
    """Refuse an output that holds a dataset of another configuration."""
    manifest = read_manifest(output)
    if manifest is not None:
        stored = {**manifest["configuration"], "class_names": manifest["class_names"]}
        refuse_differences(output, stored, {**configuration, "class_names": class_names})


def refuse_other_assembly(config: AssembleConfig) -> None:
    """Refuse early, before hours of encoding, what assembly would refuse at the end."""
    resolve_date(config)
    if config.figures:
        require_drawing()
    manifest = read_manifest(config.output)
    if manifest is not None:
        now = describe_options(config)
        before = {name: manifest["configuration"].get(name) for name in now}
        refuse_differences(config.output, before, now)


def resolve_date(config: AssembleConfig) -> str | None:
    """Return the date of --date or SOURCE_DATE_EPOCH, the only clocks that reach an output."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if config.date is not None or not epoch:
        return config.date
    try:
        return datetime.fromtimestamp(int(epoch), timezone.utc).date().isoformat()
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(
            f"SOURCE_DATE_EPOCH is {epoch!r}; seconds since 1970 are needed"
        ) from error


def write_files(
    rows: Rows, config: AssembleConfig, reports: ShardReports, advance: Callable[[int], None]
) -> tuple[dict[str, dict[str, Any]], dict[str, Totals]]:
    """Write all the data; return the manifest's entry of each file, and the counts of splits."""
    output = config.output
    files: dict[str, dict[str, Any]] = {}

    def keep(shard: Shard, samples_sha256: str, entries: dict[str, dict[str, Any]]) -> None:
        reports.write(shard, samples_sha256, entries)
        files.update(entries)

    schema = data_schema(rows.width, rows.class_names)
    with (
        open_table_file(output / INDEX_NAME, INDEX_SCHEMA) as index_table,
        open_table_file(output / FAILURES_NAME, FAILURES_SCHEMA) as failures,
        open_shard_line(output, schema, keep) as line,
    ):
        layout = _Layout(
            rows=rows,
            config=config,
            advance=advance,
            index=SampleIndex(index_table, rows.class_names),
            failures=failures,
            reports=reports,
            line=line,
            label_ids={name: index for index, name in enumerate(rows.class_names or [])},
            files=files,
        )
        for split in SPLITS:
            if split in rows.totals:
                write_split(layout, split)
    if layout.n_kept:
        log.info("%d shards were finished before", layout.n_kept)
    n_failures = sum(counts.failures for counts in rows.totals.values())
    files[INDEX_NAME] = describe_file(output / INDEX_NAME, layout.n_samples)
    files[FAILURES_NAME] = describe_file(output / FAILURES_NAME, n_failures)
    if "webdataset" in config.formats:
        write_text(output / SPLITS_CSV_NAME, splits_csv(layout.tars))
        files[SPLITS_CSV_NAME] = describe_file(output / SPLITS_CSV_NAME, len(layout.tars))
    return files, layout.index.complete(rows.totals)


def write_split(layout: _Layout, split: str) -> None:
    """Write the shards of one split; failed rows go to their table as they come."""
    first, per_shard = layout.n_samples, layout.config.samples_per_shard
    n_shards = -(-layout.rows.totals[split].samples // per_shard)
    samples = take_samples(layout, split)
    for number in range(n_shards):
        shard = name_shard(layout, split, number, n_shards)
        finish_shard(layout, shard, islice(samples, per_shard), first)
        if shard.tar is not None:
            layout.tars.append((shard.tar.removesuffix(".tar"), SPLITS_CSV_WORD[split]))
    # What follows the last sample can only be failures.
    deque(samples, maxlen=0)


def name_shard(layout: _Layout, split: str, number: int, n_shards: int) -> Shard:
    """Return the next shard, with the names of its files."""
    formats = layout.config.formats
    parquet = f"data/{split}-{number:05d}-of-{n_shards:05d}.parquet"
    return Shard(
        split=split,
        number=number,
        tar=TAR_NAME.format(len(layout.tars)) if "webdataset" in formats else None,
        parquet=parquet if "parquet" in formats else None,
    )


def take_samples(layout: _Layout, split: str) -> Iterator[Sample]:
    """Yield the samples of a split under their keys, and put its failures into their table."""
    first = layout.n_samples
    for row in number_results(layout.rows, split, first=first, label_ids=layout.label_ids):
        layout.advance(1)
        if isinstance(row, Sample):
            layout.n_samples += 1
            yield row
        else:
            layout.failures.add(row)


def finish_shard(layout: _Layout, shard: Shard, samples: Iterator[Sample], first: int) -> None:
    """Write a shard, or keep it where its report tells that it holds these very samples.

    Args:
        layout: the assembly.
        shard: what is to be finished.
        samples: those of the shard.
        first: number of the split's first sample.
    """
    report = layout.reports.find(shard)
    if report is None:
        layout.line.write(shard, samples, layout.index)
    elif report.samples_sha256 == layout.line.digest(shard, samples, layout.index):
        layout.files |= report.files
        layout.n_kept += 1
    else:
        layout.reports.drop_from(shard)
        layout.line.write(shard, read_again(layout, shard, first), None)


def read_again(layout: _Layout, shard: Shard, first: int) -> Iterator[Sample]:
    """Yield the samples of one shard from the source anew: no shard is held in memory."""
    rows = number_results(layout.rows, shard.split, first=first, label_ids=layout.label_ids)
    samples = (row for row in rows if isinstance(row, Sample))
    begin = shard.number * layout.config.samples_per_shard
    return islice(samples, begin, begin + layout.config.samples_per_shard)


def assemble_directory(
    config: AssembleConfig, *, quiet: bool = False, waits: bool = False
) -> dict[str, Any]:
    """Assemble a work directory or a processed dataset; return the manifest.

    Args:
        config: its options.
        quiet: no progress bar.
        waits: for another process that is assembling there, to find its work; ranks of a build
            may well finish at the same moment.

    Raises:
        InputError: the source is neither, is not finished, or the output is in the way.
    """
    if not config.source.is_dir():
        raise InputError(f"{config.source}: no such directory")
    check_directory("--output", config.output)
    refuse_foreign(config.output)
    rows = open_rows(config)
    check_output(config.output, describe_assembly(rows, config), rows.class_names)
    n_rows = sum(totals.rows for totals in rows.totals.values())
    with lock_dataset(config.output, waits=waits):
        manifest = find_current(rows, config)
        if manifest is not None:
            log.info("%s: is complete, nothing to do; `verify` checks its bytes", config.output)
            return manifest
        with track_progress("assemble", n_rows, unit="rows", quiet=quiet) as advance:
            return assemble(rows, config, advance=advance)


def open_rows(config: AssembleConfig) -> PartRows | ProcessedRows:
    """Open what is to be assembled."""
    for work in (config.source, config.source / WORK_NAME):
        if is_work_directory(work):
            if config.seed is not None or config.class_list is not None:
                raise InputError(
                    "--seed and --class-list are for a processed dataset; "
                    f"{config.source} holds parts, whose plan has both already"
                )
            return PartRows(work)
    if is_processed_dataset(config.source):
        return ProcessedRows(
            config.source, seed=config.seed or 0, class_list=config.class_list or "auto"
        )
    raise InputError(
        f"{config.source}: holds neither the parts of `clip-kinetics700 encode` nor a "
        "processed dataset (directories train, val, test with NAME.npy files)"
    )


def find_current(rows: PartRows | ProcessedRows, config: AssembleConfig) -> dict[str, Any] | None:
    """Return the manifest of the output if it is complete and these very parts made it."""
    manifest = read_manifest(config.output)
    if manifest is None or isinstance(rows, ProcessedRows):
        return None
    written_ns = (config.output / MANIFEST_NAME).stat().st_mtime_ns
    is_current = rows.newest_report_ns <= written_ns and manifest["date"] == resolve_date(config)
    return manifest if is_current and is_complete(config.output, manifest) else None
