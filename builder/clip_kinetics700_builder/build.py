"""A build joins the stages: encode writes the parts, assemble makes the dataset of them."""

import logging
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from clip_kinetics700_builder.assemble.assemble import assemble_directory, refuse_other_assembly
from clip_kinetics700_builder.config import AssembleConfig, EncodeConfig
from clip_kinetics700_builder.dataset.layout import WORK_NAME, refuse_foreign
from clip_kinetics700_builder.dataset.manifest import Manifest
from clip_kinetics700_builder.decode.video import check_decoder
from clip_kinetics700_builder.encode.devices import resolve_decoder
from clip_kinetics700_builder.engines.cluster import make_portable
from clip_kinetics700_builder.engines.local import (
    EncodeParts,
    LocalEngine,
    count_clips,
    start_engine,
)
from clip_kinetics700_builder.engines.prepare import Job, plan_job, prepare_engine, refuse_missing
from clip_kinetics700_builder.parts.part import PartReport, is_done
from clip_kinetics700_builder.parts.part_reader import remove_damaged
from clip_kinetics700_builder.parts.retries import plan_retries
from clip_kinetics700_builder.parts.work import parts_directory
from clip_kinetics700_builder.system.files import check_directory
from clip_kinetics700_builder.system.locks import hold_lock
from clip_kinetics700_builder.system.progress import Progress, no_progress
from clip_kinetics700_builder.types import Part

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


def encode(config: EncodeConfig, *, progress: Progress = no_progress) -> EncodeSummary:
    """Encode this rank's parts that are not finished, or that are damaged.

    Raises:
        InputError: an option, a file or the model cannot be used; nothing was written.
        BuildError: the encoder failed.
    """
    check_decoder(resolve_decoder(config.model))
    if config.run.engine == "ray":
        config = make_portable(config)
    job = plan_job(config, needs_videos=config.run.retry_errors is not None)
    parts = parts_directory(config.work)
    remove_damaged(parts, {part.name for part in job.own_parts}, progress)
    if job.list_unfinished(config.work):
        if job.videos is None and config.clips.videos is not None:
            # A part was damaged.
            job = plan_job(config)
        refuse_missing(config, job)
    reports: list[PartReport] = []
    seconds = 0.0
    with open_engine(config, job, progress=progress) as encode_parts:
        todo = list_todo(config, job)
        if todo:
            with lock_rank(config, job):
                reports, seconds = encode_parts(todo)
    # A network disk may show late what another machine has finished.
    finished = {report.name for report in reports}
    return EncodeSummary(
        n_clips=sum(len(report.rows) for report in reports),
        n_parts=len(reports),
        n_parts_left=sum(
            part.name not in finished and not is_done(parts, part.name) for part in job.parts
        ),
        seconds=seconds,
    )


def open_engine(
    config: EncodeConfig, job: Job, *, progress: Progress
) -> AbstractContextManager[EncodeParts]:
    """Open what the options name: this machine, or a Ray cluster."""
    if config.run.engine == "ray":
        from clip_kinetics700_builder.engines.ray import open_cluster

        return open_cluster(config, job, progress=progress)
    return nullcontext(partial(run_parts, config, prepare_engine(config, job), progress=progress))


def list_todo(config: EncodeConfig, job: Job) -> list[Part]:
    """Return this rank's parts that are not finished, and those that try again what failed."""
    todo = job.list_unfinished(config.work)
    if len(todo) < len(job.own_parts):
        n_done = len(job.own_parts) - len(todo)
        log.info("%d of %d parts were done before", n_done, len(job.own_parts))
    if config.run.retry_errors is not None:
        todo += plan_retries(parts_directory(config.work), job.own_parts, config.run.retry_errors)
    return todo


def run_parts(
    config: EncodeConfig, engine: LocalEngine, parts: list[Part], *, progress: Progress
) -> tuple[list[PartReport], float]:
    """Encode parts on this machine, as `EncodeParts` says."""
    n_clips = count_clips(parts, len(engine.archive_rows))
    with start_engine(config, engine) as started:
        begin = time.monotonic()
        with progress("encode", n_clips, "clips") as advance:
            reports = list(engine.encode_parts(parts, replace(started, advance=advance)))
        return reports, time.monotonic() - begin


def lock_rank(config: EncodeConfig, job: Job) -> AbstractContextManager[object]:
    """Take this rank's lock until the block or the process ends; refuse where another has it."""
    rank = f"rank {job.rank} of {job.world_size}"
    taken = (
        f"{config.work}: another process is encoding {rank} there; "
        "wait for it, or give this one another --rank"
    )
    return hold_lock(config.work / f"{rank.replace(' ', '-')}.lock", taken)


def build(
    encode_config: EncodeConfig,
    assemble_config: AssembleConfig,
    *,
    progress: Progress = no_progress,
) -> tuple[EncodeSummary, Manifest | None]:
    """Encode, then assemble once every rank's parts are there.

    Returns:
        What encoding did, and the manifest; None while other ranks are not finished.
    """
    output = assemble_config.output
    encode_config = replace(encode_config, work=output / WORK_NAME)
    check_directory("--output", output)
    refuse_foreign(output)
    refuse_other_assembly(assemble_config)
    summary = encode(encode_config, progress=progress)
    if summary.n_parts_left:
        return summary, None
    # What orders and numbers the rows is in the plan.
    source = replace(assemble_config, source=output, seed=None, class_list=None)
    return summary, assemble_directory(source, progress=progress, waits=True)
