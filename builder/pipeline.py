"""The stages joined: encode (annotations and videos -> parts), assemble (parts -> dataset).

In: one configuration of options. Out: what was done, in numbers.
"""

import logging
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from builder.assemble import (
    assemble,
    check_output,
    describe_assembly,
    refuse_other_assembly,
    resolve_date,
)
from builder.cluster import make_portable
from builder.config import AssembleConfig, EncodeConfig
from builder.decode import check_ffmpeg
from builder.engines import LocalEngine
from builder.locks import lock_dataset, take_lock
from builder.manifest import read_manifest
from builder.output import WORK_NAME, check_directory, is_complete, refuse_foreign
from builder.part_rows import PartRows
from builder.parts import PartReport, is_done
from builder.prepare import Plan, plan_encode, prepare_engine
from builder.processed_rows import ProcessedRows, is_processed_dataset
from builder.progress import track_progress
from builder.retries import plan_retries
from builder.runs import RunParts, count_clips, open_run
from builder.types import InputError, Part
from builder.work import is_work_directory, parts_directory
from clip_kinetics700.schema import MANIFEST_NAME

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncodeSummary:
    """What one run of `encode` did and left."""

    n_clips: int
    """Clips encoded or failed in this run."""
    n_parts: int
    """Parts finished in this run."""
    n_parts_left: int
    """Parts of the whole plan that are not finished, other ranks' included."""
    seconds: float
    """Wall time of decoding and encoding, without start-up."""


def encode(config: EncodeConfig, *, quiet: bool = False) -> EncodeSummary:
    """Encode this rank's parts that are not finished.

    Raises:
        InputError: an option, a file or the model cannot be used; nothing was written.
        BuildError: the encoder failed.
    """
    check_ffmpeg()
    if config.engine == "ray":
        config = make_portable(config)
    plan = plan_encode(config)
    reports: list[PartReport] = []
    seconds = 0.0
    with open_engine(config, plan, quiet=quiet) as run:
        todo = list_todo(config, plan)
        if todo:
            with lock_rank(config, plan):
                reports, seconds = run(todo)
    # A network disk may show late what another machine has finished.
    finished = {report.name for report in reports}
    parts = parts_directory(config.work)
    return EncodeSummary(
        n_clips=sum(len(report.rows) for report in reports),
        n_parts=len(reports),
        n_parts_left=sum(
            part.name not in finished and not is_done(parts, part.name) for part in plan.parts
        ),
        seconds=seconds,
    )


def open_engine(
    config: EncodeConfig, plan: Plan, *, quiet: bool
) -> AbstractContextManager[RunParts]:
    """Open what the options name: this machine, or a Ray cluster.

    Raises:
        InputError: what is stored in the work directory was begun otherwise, the model cannot be
            used, or there is no such cluster.
    """
    if config.engine == "ray":
        from builder.ray_engine import open_cluster

        return open_cluster(config, plan, quiet=quiet)
    return nullcontext(partial(run_parts, config, prepare_engine(config, plan), quiet=quiet))


def list_todo(config: EncodeConfig, plan: Plan) -> list[Part]:
    """Return this rank's parts that are not finished, and those that try again what failed."""
    parts = parts_directory(config.work)
    todo = [part for part in plan.own_parts if not is_done(parts, part.name)]
    if len(todo) < len(plan.own_parts):
        n_done = len(plan.own_parts) - len(todo)
        log.info("%d of %d parts were done before", n_done, len(plan.own_parts))
    if config.retry_errors is not None:
        todo += plan_retries(parts, plan.own_parts, config.retry_errors)
    return todo


def run_parts(
    config: EncodeConfig, engine: LocalEngine, parts: list[Part], *, quiet: bool
) -> tuple[list[PartReport], float]:
    """Encode parts on this machine, as `RunParts` says."""
    n_clips = count_clips(parts, len(engine.archive_rows))
    with open_run(config, engine) as run:
        begin = time.monotonic()
        with track_progress("encode", n_clips, unit="clips", quiet=quiet) as advance:
            reports = list(engine.run(parts, replace(run, advance=advance)))
        return reports, time.monotonic() - begin


def lock_rank(config: EncodeConfig, plan: Plan) -> AbstractContextManager[object]:
    """Take the lock of this rank, released by the block or the end of the process.

    Raises:
        InputError: another process runs the same rank on the same directory.
    """
    rank = f"rank {plan.rank} of {plan.world_size}"
    taken = (
        f"{config.work}: another process is encoding {rank} there; "
        "wait for it, or give this one another --rank"
    )
    return take_lock(config.work / f"{rank.replace(' ', '-')}.lock", taken)


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


def build(
    encode_config: EncodeConfig, assemble_config: AssembleConfig, *, quiet: bool = False
) -> tuple[EncodeSummary, dict[str, Any] | None]:
    """Encode, then assemble once every rank's parts are there.

    Returns:
        What encoding did, and the manifest; None while other ranks are not finished.
    """
    output = assemble_config.output
    encode_config = replace(encode_config, work=output / WORK_NAME)
    check_directory("--output", output)
    refuse_foreign(output)
    refuse_other_assembly(assemble_config)
    summary = encode(encode_config, quiet=quiet)
    if summary.n_parts_left:
        return summary, None
    # What orders and numbers the rows is in the plan.
    source = replace(assemble_config, source=output, seed=None, class_list=None)
    return summary, assemble_directory(source, quiet=quiet, waits=True)
