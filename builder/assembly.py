"""A directory of parts or of a processed dataset in, the published layout out.

It does without torch, which alone takes as much memory as all of assembly.
"""

import logging
from typing import Any

from builder.assemble import assemble, check_output, describe_assembly, resolve_date
from builder.config import AssembleConfig
from builder.locks import lock_dataset
from builder.manifest import read_manifest
from builder.output import WORK_NAME, check_directory, is_complete, refuse_foreign
from builder.part_rows import PartRows
from builder.processed_rows import ProcessedRows, is_processed_dataset
from builder.progress import track_progress
from builder.types import InputError
from builder.work import is_work_directory
from clip_kinetics700.schema import MANIFEST_NAME

log = logging.getLogger(__name__)


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
