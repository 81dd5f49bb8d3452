"""Assembly writes encoded clips, in the order of their plan, as the published layout.

It is pure I/O in constant memory. Shards hold exactly `samples_per_shard` samples whatever failed
and however parts were cut, because their order and their cuts come from the plan alone.
"""

import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    Sample,
)
from clip_kinetics700_builder.assemble.part_rows import PartRows
from clip_kinetics700_builder.assemble.processed_rows import ProcessedRows, is_processed_dataset
from clip_kinetics700_builder.assemble.rows import Rows, number_results
from clip_kinetics700_builder.assemble.shard_files import TableFile, open_table_file, splits_csv
from clip_kinetics700_builder.assemble.shard_reports import ShardReports
from clip_kinetics700_builder.assemble.shards import SampleIndex, ShardLine, open_shard_line
from clip_kinetics700_builder.card.figures import require_drawing, write_figures
from clip_kinetics700_builder.card.render import render_card
from clip_kinetics700_builder.config import AssembleConfig
from clip_kinetics700_builder.dataset.layout import (
    README_NAME,
    SHARDS_NAME,
    WORK_NAME,
    lock_dataset,
    refuse_foreign,
    remove_stale_files,
)
from clip_kinetics700_builder.dataset.manifest import (
    FileEntry,
    Manifest,
    describe_file,
    make_manifest,
    read_manifest,
    write_manifest,
)
from clip_kinetics700_builder.dataset.shards import Shard, plan_shards
from clip_kinetics700_builder.dataset.totals import Totals
from clip_kinetics700_builder.parts.work import is_work_directory, refuse_differences
from clip_kinetics700_builder.system.files import check_directory, write_text
from clip_kinetics700_builder.system.progress import Advance, Progress, no_progress
from clip_kinetics700_builder.types import InputError

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Assembly:
    """State of one assembly: what was numbered and written so far."""

    rows: Rows
    config: AssembleConfig
    advance: Advance
    index: SampleIndex
    failures: TableFile
    reports: ShardReports
    line: ShardLine
    label_ids: Mapping[str, int]
    files: dict[str, FileEntry]
    """The manifest's entry of each file that is finished."""
    n_samples: int = 0
    n_kept: int = 0
    """Shards that an earlier run had finished."""


def assemble(rows: Rows, config: AssembleConfig, *, advance: Advance = lambda _: None) -> Manifest:
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
    manifest = make_manifest(
        configuration=configuration,
        class_names=rows.class_names,
        splits=totals,
        files=files,
        canary=rows.canary,
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
        stored = {**manifest.configuration, "class_names": manifest.class_names}
        refuse_differences(output, stored, {**configuration, "class_names": class_names})


def refuse_other_assembly(config: AssembleConfig) -> None:
    """Refuse early, before hours of encoding, what assembly would refuse at the end."""
    resolve_date(config)
    if config.figures:
        require_drawing()
    manifest = read_manifest(config.output)
    if manifest is not None:
        now = describe_options(config)
        before = {name: manifest.configuration.get(name) for name in now}
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
    rows: Rows, config: AssembleConfig, reports: ShardReports, advance: Advance
) -> tuple[dict[str, FileEntry], dict[str, Totals]]:
    """Write all the data; return the manifest's entry of each file, and the counts of splits."""
    output = config.output
    files: dict[str, FileEntry] = {}

    def keep(shard: Shard, samples_sha256: str, entries: dict[str, FileEntry]) -> None:
        reports.write(shard, samples_sha256, entries)
        files.update(entries)

    schema = data_schema(rows.width, rows.class_names)
    shards = [
        *plan_shards(
            {split: totals.samples for split, totals in rows.totals.items()},
            samples_per_shard=config.samples_per_shard,
            formats=config.formats,
        )
    ]
    with (
        open_table_file(output / INDEX_NAME, INDEX_SCHEMA) as index_table,
        open_table_file(output / FAILURES_NAME, FAILURES_SCHEMA) as failures,
        open_shard_line(output, schema, keep) as line,
    ):
        assembly = _Assembly(
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
                write_split(assembly, split, [s for s in shards if s.split == split])
    if assembly.n_kept:
        log.info("%d shards were finished before", assembly.n_kept)
    n_failures = sum(counts.failures for counts in rows.totals.values())
    files[INDEX_NAME] = describe_file(output / INDEX_NAME, assembly.n_samples)
    files[FAILURES_NAME] = describe_file(output / FAILURES_NAME, n_failures)
    if "webdataset" in config.formats:
        write_text(output / SPLITS_CSV_NAME, splits_csv(shards))
        files[SPLITS_CSV_NAME] = describe_file(output / SPLITS_CSV_NAME, len(shards))
    return files, assembly.index.complete(rows.totals)


def write_split(assembly: _Assembly, split: str, shards: Sequence[Shard]) -> None:
    """Write the shards of one split; failed rows go to their table as they come."""
    samples = take_samples(assembly, split)
    for shard in shards:
        finish_shard(assembly, shard, islice(samples, shard.n_samples))
    # What follows the last sample can only be failures.
    deque(samples, maxlen=0)


def take_samples(assembly: _Assembly, split: str) -> Iterator[Sample]:
    """Yield the samples of a split under their keys, and put its failures into their table."""
    first = assembly.n_samples
    for row in number_results(assembly.rows, split, first=first, label_ids=assembly.label_ids):
        assembly.advance(1)
        if isinstance(row, Sample):
            assembly.n_samples += 1
            yield row
        else:
            assembly.failures.add(row)


def finish_shard(assembly: _Assembly, shard: Shard, samples: Iterator[Sample]) -> None:
    """Write a shard, or keep it where its report tells that it holds these very samples.

    Args:
        assembly: the state of it.
        shard: what is to be finished.
        samples: those of the shard.
    """
    report = assembly.reports.find(shard)
    if report is None:
        assembly.line.write(shard, samples, assembly.index)
    elif report.samples_sha256 == assembly.line.digest(shard, samples, assembly.index):
        assembly.files |= report.files
        assembly.n_kept += 1
    else:
        assembly.reports.drop_from(shard)
        assembly.line.write(shard, read_again(assembly, shard), None)


def read_again(assembly: _Assembly, shard: Shard) -> Iterator[Sample]:
    """Yield the samples of one shard from the source anew: no shard is held in memory."""
    before = shard.number * assembly.config.samples_per_shard
    first = shard.first - before
    rows = number_results(assembly.rows, shard.split, first=first, label_ids=assembly.label_ids)
    samples = (row for row in rows if isinstance(row, Sample))
    return islice(samples, before, before + shard.n_samples)


def assemble_directory(
    config: AssembleConfig, *, progress: Progress = no_progress, waits: bool = False
) -> Manifest:
    """Assemble a work directory or a processed dataset; return the manifest.

    Args:
        config: its options.
        progress: shows how many rows are done.
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
        with progress("assemble", n_rows, "rows") as advance:
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


def find_current(rows: PartRows | ProcessedRows, config: AssembleConfig) -> Manifest | None:
    """Return the manifest of the output if it is complete and these very parts made it."""
    manifest = read_manifest(config.output)
    if manifest is None or isinstance(rows, ProcessedRows):
        return None
    written_ns = (config.output / MANIFEST_NAME).stat().st_mtime_ns
    is_current = rows.newest_report_ns <= written_ns and manifest.date == resolve_date(config)
    return manifest if is_current and manifest.is_complete(config.output) else None
