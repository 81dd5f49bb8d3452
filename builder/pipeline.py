"""The stages joined: encode (annotations and videos -> parts), assemble (parts -> dataset).

In: one configuration of options. Out: what was done, in numbers.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from builder.assemble import refuse_other_assembly
from builder.assembly import assemble_directory
from builder.canary import is_same_encoder
from builder.canary_video import encode_canary
from builder.config import AssembleConfig, EncodeConfig
from builder.cores import count_cores
from builder.decode import check_ffmpeg, count_result_bytes
from builder.engines import LocalEngine, Run
from builder.lanes import EncoderLanes
from builder.locks import take_lock
from builder.output import WORK_NAME, check_directory, refuse_foreign
from builder.parts import PartReport, is_done, read_report
from builder.pool import DecodePool
from builder.prepare import Plan, plan_encode, prepare_engine
from builder.progress import track_progress
from builder.retries import plan_retries
from builder.tower import ClipVisionEncoder
from builder.types import BuildError, Float32Array, Part
from builder.work import list_reports

log = logging.getLogger(__name__)

# One computes while the other one's batch is on its way.
LANES_OF_A_GPU = 2


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
    plan = plan_encode(config)
    engine = prepare_engine(config, plan)
    todo = [part for part in plan.own_parts if not is_done(engine.parts, part.name)]
    if len(todo) < len(plan.own_parts):
        n_done = len(plan.own_parts) - len(todo)
        log.info("%d of %d parts were done before", n_done, len(plan.own_parts))
    if config.retry_errors is not None:
        todo += plan_retries(engine.parts, plan.own_parts, config.retry_errors)
    reports: list[PartReport] = []
    seconds = 0.0
    if todo:
        with lock_rank(config, plan):
            reports, seconds = run_parts(config, engine, todo, quiet=quiet)
    return EncodeSummary(
        n_clips=sum(len(report.rows) for report in reports),
        n_parts=len(reports),
        n_parts_left=sum(not is_done(engine.parts, part.name) for part in plan.parts),
        seconds=seconds,
    )


def run_parts(
    config: EncodeConfig, engine: LocalEngine, parts: list[Part], *, quiet: bool
) -> tuple[list[PartReport], float]:
    """Encode parts; return their reports and the seconds it took once all was started."""
    n_clips = sum(len(part.rows) for part in parts if part.rows is not None)
    if any(part.rows is None for part in parts):
        # Which clips an archive holds shows only when it is read: at most all that are wanted.
        n_clips += len(engine.archive_rows)
    with open_run(config, engine) as run:
        begin = time.monotonic()
        with track_progress("encode", n_clips, unit="clips", quiet=quiet) as advance:
            reports = list(engine.run(parts, replace(run, advance=advance)))
        return reports, time.monotonic() - begin


@contextmanager
def open_run(config: EncodeConfig, engine: LocalEngine) -> Iterator[Run]:
    """Start what decodes and what encodes, and send the test video through both.

    Raises:
        BuildError: it does not come out as it should, or as it did before.
    """
    with open_pool(config, engine) as pool, open_lanes(config, engine.encoder) as lanes:
        canary = encode_canary(pool, lanes, engine.decode_task)
        refuse_changed_encoder(engine, canary)
        yield Run(pool, lanes, canary, advance=lambda _: None)


def refuse_changed_encoder(engine: LocalEngine, canary: Float32Array) -> None:
    """Refuse to go on, for days, with another encoder than that of a part that is there.

    Raises:
        BuildError: assembly would refuse what this run makes.
    """
    done = next(iter(list_reports(engine.work)), None)
    if done is not None and not is_same_encoder(
        canary.tolist(), read_report(engine.parts, done).canary
    ):
        raise BuildError(
            f"{engine.work}: the encoder gives another embedding of the package's test video than "
            f"when part {done} was made (another driver, model file or library?); "
            "use what made it, or another output directory"
        )


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


def open_pool(config: EncodeConfig, engine: LocalEngine) -> DecodePool:
    """Start the processes that decode: as many as there are cores.

    Beside an encoder on the same cores they stop as soon as enough is decoded.
    """
    return DecodePool(
        config.decode_workers or count_cores(),
        config.task_timeout_seconds,
        memory_mib=config.worker_memory_mib,
        result_bytes=count_result_bytes(engine.decoding.preprocessing),
    )


def open_lanes(config: EncodeConfig, encoder: ClipVisionEncoder) -> EncoderLanes:
    """Start the threads that call the encoder: one a core, or two on a GPU."""
    on_gpu = encoder.device.type == "cuda"
    n_lanes = config.encode_lanes or (LANES_OF_A_GPU if on_gpu else count_cores())
    return EncoderLanes(encoder, n_lanes, is_pinned=on_gpu)


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
