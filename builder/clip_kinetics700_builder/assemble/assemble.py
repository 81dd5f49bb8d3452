"""Assembly writes encoded clips, in the order of their plan, as the published layout.

It is pure I/O in constant memory. Shards hold exactly `samples_per_shard` samples whatever failed
and however parts were cut, because their order and their cuts come from the plan alone.
"""

import logging
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from clip_kinetics700 import __version__
from clip_kinetics700.features import FAILURES_SCHEMA, INDEX_SCHEMA
from clip_kinetics700.schema import FAILURES_NAME, INDEX_NAME, SPLITS_CSV_NAME
from clip_kinetics700_builder.assemble.part_rows import PartRows
from clip_kinetics700_builder.assemble.processed_rows import ProcessedRows, is_processed_dataset
from clip_kinetics700_builder.assemble.rows import Rows
from clip_kinetics700_builder.assemble.shards import (
    SampleWriter,
    ShardReports,
    make_ahead,
    write_parquet,
)
from clip_kinetics700_builder.assemble.tables import open_table_file
from clip_kinetics700_builder.card.figures import require_drawing, write_figures
from clip_kinetics700_builder.card.render import render_card
from clip_kinetics700_builder.config import AssembleConfig
from clip_kinetics700_builder.dataset.layout import (
    ASSEMBLY_NAME,
    README_NAME,
    WORK_NAME,
    read_state,
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
from clip_kinetics700_builder.dataset.shards import plan_shards, splits_csv
from clip_kinetics700_builder.dataset.staging import choose_stage, lock_dataset, put_in_place
from clip_kinetics700_builder.dataset.totals import Totals
from clip_kinetics700_builder.parts.canary import describe_canary
from clip_kinetics700_builder.parts.work import is_work_directory, refuse_differences
from clip_kinetics700_builder.system.files import (
    check_directory,
    hash_json,
    write_json,
    write_text,
)
from clip_kinetics700_builder.system.progress import Advance, Progress, no_progress
from clip_kinetics700_builder.types import InputError

log = logging.getLogger(__name__)


def assemble(rows: Rows, config: AssembleConfig, *, advance: Advance = lambda _: None) -> Manifest:
    """Write the published layout and return its manifest, which is written last.

    Where a dataset is there, the new one is written beside it and replaces it when it is whole.

    Raises:
        InputError: the output holds a dataset of another configuration.
    """
    if config.figures:
        require_drawing()
    configuration = describe_assembly(rows, config)
    check_output(config.output, configuration, rows.class_names)
    made_of, shards_made_of = digest_inputs(rows, config)
    stage = choose_stage(config.output)
    for directory in (stage, config.output / WORK_NAME):
        directory.mkdir(parents=True, exist_ok=True)
    reports = ShardReports(stage, shards_made_of)
    files, totals = write_files(rows, replace(config, output=stage), reports, advance)
    if config.figures:
        files |= write_figures(stage, totals, rows.class_names)
    remove_stale_files(stage, files)
    manifest = make_manifest(
        configuration=configuration,
        class_names=rows.class_names,
        splits=totals,
        files=files,
        canary=rows.canary,
        date=resolve_date(config),
    )
    write_text(stage / README_NAME, render_card(manifest))
    state = {"made_of": made_of, "manifest": manifest.self_sha256}
    write_json(config.output / WORK_NAME / ASSEMBLY_NAME, state)
    write_manifest(stage, manifest)
    if stage != config.output:
        put_in_place(config.output)
    reports.clear()
    return manifest


def digest_inputs(rows: Rows, config: AssembleConfig) -> tuple[str, str]:
    """Return digests of all that a dataset is made of, and of that of it which is in its shards.

    No clock is in them: what was made again of the same is the same.
    """
    configuration = describe_assembly(rows, config)
    in_shards = [__version__, pa.__version__, configuration, rows.class_names, rows.fingerprint]
    others = [describe_canary(rows.canary), resolve_date(config), config.figures]
    return hash_json([*in_shards, *others]), hash_json(in_shards)


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
    counts = {split: totals.samples for split, totals in rows.totals.items()}
    shards = [
        *plan_shards(counts, samples_per_shard=config.samples_per_shard, formats=config.formats)
    ]
    kept = reports.keep(shards)
    if kept:
        log.info("%d shards were finished before", len(kept))
    files = {name: entry for entries in kept.values() for name, entry in entries.items()}
    with (
        open_table_file(output / INDEX_NAME, INDEX_SCHEMA) as index,
        open_table_file(output / FAILURES_NAME, FAILURES_SCHEMA) as failures,
    ):
        writer = SampleWriter(rows, output, index=index, failures=failures, advance=advance)
        with make_ahead(writer.make_groups(shards, kept)) as groups:
            for shard in shards:
                of_shard = iter(partial(next, groups), None)
                if shard in kept:
                    deque(of_shard, maxlen=0)
                else:
                    entries = write_parquet(output, shard, of_shard, writer.schema)
                    entries |= writer.tars.get(shard, {})
                    reports.write(shard, entries)
                    files |= entries
            # The last rows may be failures.
            deque(groups, maxlen=0)
    n_failures = sum(totals.failures for totals in rows.totals.values())
    files[INDEX_NAME] = describe_file(output / INDEX_NAME, sum(counts.values()))
    files[FAILURES_NAME] = describe_file(output / FAILURES_NAME, n_failures)
    if "webdataset" in config.formats:
        write_text(output / SPLITS_CSV_NAME, splits_csv(shards))
        files[SPLITS_CSV_NAME] = describe_file(output / SPLITS_CSV_NAME, len(shards))
    return files, writer.complete(rows.totals)


def assemble_directory(
    config: AssembleConfig, *, progress: Progress = no_progress, waits: bool = False
) -> Manifest:
    """Assemble a work directory or a processed dataset; return the manifest.

    Where another process assembles there, `waits` finds its work: ranks of a build may well finish
    at the same moment.

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


def find_current(rows: Rows, config: AssembleConfig) -> Manifest | None:
    """Return the manifest of the output if it is complete and was made of these very rows."""
    manifest = read_manifest(config.output)
    if manifest is None or not manifest.is_complete(config.output):
        return None
    state = {"made_of": digest_inputs(rows, config)[0], "manifest": manifest.self_sha256}
    if read_state(config.output, ASSEMBLY_NAME) == state:
        return manifest
    log.info("%s: nothing says that it is of these very rows; a new one replaces it", config.output)
    return None
