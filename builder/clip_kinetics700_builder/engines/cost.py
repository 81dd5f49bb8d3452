"""Predicts how long a build would take on this machine, and how many bytes.

A few of the plan's clips are decoded and a few batches encoded; the rest is arithmetic.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import mean

from clip_kinetics700_builder.config import EncodeConfig
from clip_kinetics700_builder.decode.pool import DecodePool
from clip_kinetics700_builder.decode.video import DecodeTask, Decoding, make_task
from clip_kinetics700_builder.encode.batches import EncoderThreads
from clip_kinetics700_builder.encode.model_files import find_model
from clip_kinetics700_builder.encode.tower import EncoderShape
from clip_kinetics700_builder.encode.vision import load_encoder, read_preprocessing
from clip_kinetics700_builder.engines.local import open_encoder_threads
from clip_kinetics700_builder.engines.prepare import (
    FOUND,
    Job,
    choose_shape,
    make_decoding,
    resolve_own_device,
)
from clip_kinetics700_builder.parts.work import read_work_config
from clip_kinetics700_builder.sources.directory import find_clip
from clip_kinetics700_builder.system.machine import count_cores
from clip_kinetics700_builder.types import Failure, Frames

CLIPS_TO_MEASURE = 8
ENCODE_SECONDS = 2.0
# Stand for clips where there are none: ten seconds of H.264 at 340x256 and 30 frames a second, as
# Kinetics is mostly stored, on a core of 2023 (`make bench`).
USUAL_DECODE_SECONDS = 0.07
USUAL_CLIP_SECONDS = 10.0
# Bytes of a row of Parquet or of a part besides its embeddings, and of an index row, as measured.
PARQUET_ROW_BYTES, INDEX_ROW_BYTES, PART_ROW_BYTES = 150, 24, 190
TAR_BLOCK = 512
NPY_HEADER_BYTES = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """What one clip takes."""

    decode_seconds: float
    """Time that one core takes for a clip."""
    n_frames: float
    """Frames kept of a clip, on average."""
    frame_seconds: float
    """Time between two frames out of the encoder, when it does nothing else."""
    n_cores: int
    on_gpu: bool
    """Whether the encoder leaves the cores to the decoder; else they share them."""
    width: int
    """Columns of the embeddings."""
    n_decoded: int
    """Clips that were decoded to know it; 0 means that usual values were taken."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a build takes."""

    n_clips: int
    seconds: float
    dataset_bytes: int
    """Bytes of the published files, at most: a clip that fails takes nothing."""
    work_bytes: int
    """Bytes of the parts."""


def predict_cost(model: CostModel, n_clips: int, formats: Sequence[str]) -> Cost:
    """Return what so many clips take."""
    decode = model.decode_seconds / model.n_cores
    encode = model.n_frames * model.frame_seconds
    seconds = max(decode, encode) if model.on_gpu else decode + encode
    array = round(model.n_frames * model.width * 2)
    # Blocks of a tar: three headers, the caption, the json, and those that the array fills.
    tar = TAR_BLOCK * (5 + -(-(array + NPY_HEADER_BYTES) // TAR_BLOCK))
    sizes = {"parquet": array + PARQUET_ROW_BYTES, "webdataset": tar}
    sample = INDEX_ROW_BYTES + sum(sizes[name] for name in formats)
    return Cost(n_clips, n_clips * seconds, n_clips * sample, n_clips * (array + PART_ROW_BYTES))


def measure_cost(config: EncodeConfig, job: Job) -> CostModel:
    """Decode a few clips of the plan and encode a few batches.

    Raises:
        InputError: the model cannot be used.
        BuildError: no process that decodes stays alive.
    """
    files = find_model(config.model.name, config.model.revision)
    preprocessing = read_preprocessing(files)
    device = resolve_own_device(config, job)
    decoding = make_decoding(config, preprocessing, device)
    seconds, lengths = measure_decoding(config, [*pick_tasks(job, decoding)])
    stored = read_work_config(config.work)
    chosen = {} if stored is None else stored.configuration
    shape = choose_shape(config, job, device.split(":")[0], chosen)
    # Compiling makes the model a tenth faster, but would take longer than all else here.
    eager = EncoderShape(dtype=shape.dtype, batch_size=shape.batch_size, compiled=False)
    encoder = load_encoder(files, preprocessing, eager, device=device)
    with open_encoder_threads(config, encoder) as threads:
        frame_seconds = measure_encoding(threads, (*preprocessing.final_size, 3))
    return CostModel(
        decode_seconds=mean(seconds) if seconds else USUAL_DECODE_SECONDS,
        n_frames=mean(lengths) if lengths else USUAL_CLIP_SECONDS * config.clips.frames_per_second,
        frame_seconds=frame_seconds,
        n_cores=count_cores(),
        on_gpu=encoder.device.type == "cuda",
        width=encoder.width,
        n_decoded=len(seconds),
    )


def pick_tasks(job: Job, decoding: Decoding) -> Iterator[DecodeTask]:
    """Yield tasks for a few clips with a file, from all over the plan."""
    step = max(1, len(job.clips) // CLIPS_TO_MEASURE)
    for row in range(0, len(job.clips), step):
        found = find_clip(job.videos, job.clips[row], row)
        if not isinstance(found, Failure):
            yield make_task(decoding, row, found)


def measure_decoding(
    config: EncodeConfig, tasks: Sequence[DecodeTask]
) -> tuple[list[float], list[int]]:
    """Return seconds and kept frames of each clip that decodes, one after another."""
    seconds, lengths = list[float](), list[int]()
    if not tasks:
        return seconds, lengths
    run = config.run
    with DecodePool(1, run.task_timeout_seconds, memory_mib=run.worker_memory_mib) as pool:
        # The first task waits for imports.
        list(islice(pool.decode(tasks[:1]), 1))
        for task in tasks:
            begin = time.perf_counter()
            pieces = list(pool.decode([task]))
            last = pieces[-1]
            if isinstance(last, Frames):
                seconds.append(time.perf_counter() - begin)
                lengths.append(last.info.n_frames)
    return seconds, lengths


def measure_encoding(threads: EncoderThreads, frame_shape: tuple[int, ...]) -> float:
    """Return the seconds that a frame takes while all threads are busy."""
    batches = [threads.make_batch(frame_shape) for _ in range(threads.n_threads)]
    n_frames, seconds = 0, 0.0
    for turn in range(1_000):
        begin = time.perf_counter()
        for future in [threads.submit(batch) for batch in batches]:
            future.result()
        # The first turn allocates.
        if turn > 0:
            n_frames += threads.n_threads * threads.batch_size
            seconds += time.perf_counter() - begin
        if seconds > ENCODE_SECONDS:
            break
    return seconds / n_frames


def count_clips(job: Job, config: EncodeConfig) -> int:
    """Return how many clips this rank would decode: those with a file, or perhaps in an archive."""
    todo = job.list_unfinished(config.work)
    rows = (row for part in todo for row in part.rows or ())
    n_found = sum(job.outcomes[row] == FOUND for row in rows)
    n_archives = sum(part.archive is not None for part in todo)
    share = n_archives / len(job.archives) if job.archives else 0.0
    return n_found + round(share * len(job.list_archive_rows()))
