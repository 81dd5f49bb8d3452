"""What lasts for one run of an engine: the processes that decode, the threads that encode.

In: options and an engine. Out: a `Run`, once the package's test video came through as it should.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from builder.canary import is_same_encoder
from builder.canary_video import encode_canary
from builder.config import FRAMES_PER_TASK, EncodeConfig
from builder.cores import count_cores
from builder.engines import LocalEngine, Run
from builder.lanes import EncoderLanes
from builder.parts import PartReport, read_report
from builder.pool import DecodePool
from builder.tower import ClipVisionEncoder
from builder.types import BuildError, Float32Array, Part
from builder.work import list_reports

RunParts = Callable[[list[Part]], tuple[list[PartReport], float]]
"""Encodes parts; returns their reports and the seconds it took once all was started."""

# One computes while the other one's batch is on its way.
LANES_OF_A_GPU = 2


def count_clips(parts: Sequence[Part], n_archive_rows: int) -> int:
    """Return how many clips parts hold, at most: an archive shows what it holds when it is read.

    Args:
        parts: of videos and of archives.
        n_archive_rows: how many clips all archives are to give.
    """
    n_clips = sum(len(part.rows) for part in parts if part.rows is not None)
    return n_clips + n_archive_rows * any(part.rows is None for part in parts)


@contextmanager
def open_run(config: EncodeConfig, engine: LocalEngine) -> Iterator[Run]:
    """Start what decodes and what encodes, and send the test video through both.

    Raises:
        BuildError: it does not come out as it should, or as it did before.
    """
    with open_pool(config, engine) as pool, open_lanes(config, engine.encoder) as lanes:
        canary = encode_canary(pool, lanes, engine.decode_task, dtype=engine.encoder.dtype)
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


def open_pool(config: EncodeConfig, engine: LocalEngine) -> DecodePool:
    """Start the processes that decode: as many as there are cores.

    Beside an encoder on the same cores they stop as soon as enough is decoded.
    """
    return DecodePool(
        config.decode_workers or count_cores(),
        config.task_timeout_seconds,
        memory_mib=config.worker_memory_mib,
        result_bytes=FRAMES_PER_TASK * math.prod(engine.decoding.preprocessing.final_size) * 3,
    )


def open_lanes(config: EncodeConfig, encoder: ClipVisionEncoder) -> EncoderLanes:
    """Start the threads that call the encoder: one a core, or two on a GPU."""
    on_gpu = encoder.device.type == "cuda"
    n_lanes = config.encode_lanes or (LANES_OF_A_GPU if on_gpu else count_cores())
    return EncoderLanes(encoder, n_lanes, is_pinned=on_gpu)
