"""Encodes parts on this machine, as one rank of `world_size`.

Ranks take every world_size-th part and share the parts directory. There is no coordinator: a rank
can end, or start again, at any time.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path

from filelock import Timeout

from clip_kinetics700.schema import find_not_finite
from clip_kinetics700_builder.config import FRAMES_PER_TASK, EncodeConfig
from clip_kinetics700_builder.decode.pool import DecodePool
from clip_kinetics700_builder.decode.video import DecodeTask, Decoding, make_task
from clip_kinetics700_builder.encode.batches import EncoderThreads, encode_frames
from clip_kinetics700_builder.encode.tower import ClipVisionEncoder
from clip_kinetics700_builder.engines.archive_stream import ArchiveStream
from clip_kinetics700_builder.engines.breaker import Breaker
from clip_kinetics700_builder.engines.test_video import encode_canary
from clip_kinetics700_builder.parts.canary import is_same_encoder
from clip_kinetics700_builder.parts.part import (
    PartReport,
    finish_part,
    is_done,
    read_report,
    write_results,
)
from clip_kinetics700_builder.parts.work import SPOOL_NAME, list_reports, parts_directory
from clip_kinetics700_builder.sources.directory import VideoIndex, find_clip
from clip_kinetics700_builder.sources.ledger import ARCHIVE_PAUSES_SECONDS, FetchError, try_again
from clip_kinetics700_builder.system.locks import acquire_lock
from clip_kinetics700_builder.system.machine import count_cores
from clip_kinetics700_builder.system.outage import NO_PATIENCE, Patience
from clip_kinetics700_builder.types import (
    Archive,
    BuildError,
    Clip,
    EncodedClip,
    EncoderError,
    Failure,
    Float32Array,
    OutageError,
    Part,
)

log = logging.getLogger(__name__)

EncodeParts = Callable[[list[Part]], tuple[list[PartReport], float]]
"""Encodes parts; returns their reports and the seconds it took once all was started."""

# One thread computes while the batch of the other one is on its way.
THREADS_OF_A_GPU = 2


@dataclass(frozen=True, slots=True)
class Started:
    """What an engine has started: it ends once all parts are encoded."""

    pool: DecodePool
    threads: EncoderThreads
    """They call the engine's encoder."""
    canary: Float32Array
    """(width,) float32 embedding of the package's test video."""
    advance: Callable[[int], None]
    """Takes the number of clips just finished."""


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """Encodes parts; it holds what all parts of a build share."""

    clips: Sequence[Clip]
    """The whole plan, in order."""
    videos: VideoIndex | None
    """The videos directory; None where all clips are in archives."""
    archive_rows: Mapping[str, int]
    """Plan row by name, `ID_START_END`, of the clips that archives are to give."""
    encoder: ClipVisionEncoder
    decoding: Decoding
    """How frames are chosen and made."""
    work: Path
    """The work directory."""
    patience: Patience = NO_PATIENCE
    """How long an outage may last."""
    breaker: Breaker = field(default_factory=lambda: Breaker(1.0))
    """Ends a run in which too much fails."""

    @property
    def parts_directory(self) -> Path:
        """The directory of the finished parts."""
        return parts_directory(self.work)

    def encode_parts(self, parts: Iterable[Part], started: Started) -> Iterator[PartReport]:
        """Encode, in order, the parts that no other process is encoding."""
        for is_archive, group in groupby(parts, lambda part: part.archive is not None):
            yield from (self.encode_archives if is_archive else self.encode_videos)(group, started)

    def encode_videos(self, parts: Iterable[Part], started: Started) -> Iterator[PartReport]:
        """Encode parts of the videos directory as one stream of clips.

        While the end of a part is encoded the next one is decoded, and batches hold frames of both.
        """
        # A part is claimed once the decoder asks for its clips, and given up when it is finished.
        claimed: deque[tuple[Part, ExitStack]] = deque()
        begin = time.monotonic()
        with ExitStack() as claims:

            def list_claimed() -> Iterator[DecodeTask | Failure]:
                for part in parts:
                    claim = claims.enter_context(ExitStack())
                    if not claim.enter_context(self.claim(part, started)):
                        claim.close()
                        continue
                    claimed.append((part, claim))
                    yield from self.list_tasks(part)

            results = self.encode(list_claimed(), started)
            for first in results:
                part, claim = claimed.popleft()
                rest = islice(results, len(part.rows or ()) - 1)
                report = self.write(part, chain([first], rest), started)
                now = time.monotonic()
                yield finish_part(self.parts_directory, report, seconds=round(now - begin, 3))
                claim.close()
                begin = now

    def encode_archives(self, parts: Iterable[Part], started: Started) -> Iterator[PartReport]:
        """Encode parts of archives, one archive after another.

        One that cannot be read is put on record once another one was, or all have been tried and
        no server refuses it.

        Raises:
            OutageError: too many in a row cannot be read, or the last ones are refused.
        """
        waiting: list[PartReport] = []
        errors: list[list[str]] = []
        for part in parts:
            with self.claim(part, started) as is_ours:
                if not is_ours or part.archive is None:
                    continue
                begin = time.monotonic()
                report = self.encode_archive(part, part.archive, started)
                waiting.append(replace(report, seconds=round(time.monotonic() - begin, 3)))
                if report.error is None:
                    yield from self.finish_parts(waiting)
            errors = [report.error for report in waiting if report.error]
            self.breaker.check_archives(errors)
        self.breaker.check_archives(errors, is_end=True)
        yield from self.finish_parts(waiting)

    def finish_parts(self, waiting: list[PartReport]) -> Iterator[PartReport]:
        """Put parts on record, and forget them."""
        while waiting:
            report = waiting.pop(0)
            yield finish_part(self.parts_directory, report, seconds=report.seconds)

    @contextmanager
    def claim(self, part: Part, started: Started) -> Iterator[bool]:
        """Yield whether this process encodes a part; no other process does meanwhile."""
        file, is_ours = self.parts_directory / f"{part.name}.lock", False
        with ExitStack() as held:
            try:
                held.callback(acquire_lock(file, 0).release)
                is_ours = not is_done(self.parts_directory, part.name)
            except Timeout:
                log.info("part %s is being encoded by another process", part.name)
            if not is_ours:
                started.advance(len(part.rows or ()))
            yield is_ours
            if is_ours:
                # A process that has opened the lock meanwhile finds the part done.
                file.unlink(missing_ok=True)

    def encode_archive(self, part: Part, archive: Archive, started: Started) -> PartReport:
        """Encode the clips of an archive while it is read, anew if it is not read to its end."""
        rows = self.archive_rows
        if part.rows is not None:
            tried = set(part.rows)
            rows = {name: row for name, row in rows.items() if row in tried}
        stream = ArchiveStream(archive, self.work / SPOOL_NAME / part.name, rows)

        def encode_once() -> PartReport:
            try:
                with stream.open_tasks(partial(make_task, self.decoding)) as tasks:
                    return self.write(part, self.encode(tasks, started, stream.drop), started)
            except (FetchError, OutageError):
                started.advance(-stream.n_done)
                raise

        try:
            report = self.patience.outlast(partial(try_again, encode_once, ARCHIVE_PAUSES_SECONDS))
        except FetchError as error:
            log.warning("%s", error)
            report = replace(self.write(part, [], started), error=[error.reason, str(error)])
        seen = stream.report
        return replace(report, n_clips_seen=seen.n_clips, refusals=seen.refusals)

    def encode(
        self,
        tasks: Iterable[DecodeTask | Failure],
        started: Started,
        done: Callable[[int], None] = lambda _: None,
    ) -> Iterator[EncodedClip | Failure]:
        """Decode and encode clips; call `done` with the row of each."""
        try:
            for result in encode_frames(started.pool.decode(tasks), started.threads):
                # A value that is no number is an error of the encoder, not the clip's.
                if isinstance(result, EncodedClip) and find_not_finite(result.embeddings).size:
                    raise BuildError(
                        f"clip {self.clips[result.row].identity}: the encoder gave values that are "
                        f"not finite in float16 (computed in {self.encoder.dtype}); "
                        "try --dtype float32 in a new output directory"
                    )
                self.breaker.note(result if isinstance(result, Failure) else None)
                started.advance(1)
                done(result.row)
                yield result
        except EncoderError as error:
            raise BuildError(f"clip {self.clips[error.row].identity}: {error}") from error

    def write(
        self, part: Part, results: Iterable[EncodedClip | Failure], started: Started
    ) -> PartReport:
        """Write the results of a part."""
        return write_results(
            self.parts_directory, part, results, width=self.encoder.width, canary=started.canary
        )

    def list_tasks(self, part: Part) -> Iterator[DecodeTask | Failure]:
        """Look up the file of each clip of a part."""
        for row in part.rows or ():
            found = self.patience.outlast(partial(find_clip, self.videos, self.clips[row], row))
            yield found if isinstance(found, Failure) else make_task(self.decoding, row, found)


def count_clips(parts: Sequence[Part], n_archive_rows: int) -> int:
    """Return the greatest number of clips in parts, of archives all that these together must give.

    What an archive holds shows when it is read.
    """
    n_clips = sum(len(part.rows) for part in parts if part.rows is not None)
    return n_clips + n_archive_rows * any(part.rows is None for part in parts)


@contextmanager
def start_engine(config: EncodeConfig, engine: LocalEngine) -> Iterator[Started]:
    """Start what decodes and what encodes, and send the test video through both.

    Raises:
        BuildError: its embedding is wrong, or not that of the parts that are there.
    """
    with open_pool(config, engine) as pool, open_encoder_threads(config, engine.encoder) as threads:
        canary = encode_canary(pool, threads, engine.decoding, dtype=engine.encoder.dtype)
        refuse_changed_encoder(engine, canary)
        yield Started(pool, threads, canary, advance=lambda _: None)


def refuse_changed_encoder(engine: LocalEngine, canary: Float32Array) -> None:
    """Raise BuildError if a finished part has another encoder: assembly would, days later."""
    done = next(iter(list_reports(engine.work)), None)
    if done is not None and not is_same_encoder(
        canary.tolist(), read_report(engine.parts_directory, done).canary
    ):
        raise BuildError(
            f"{engine.work}: the encoder gives another embedding of the package's test video than "
            f"when part {done} was made (another driver, model file or library?); "
            "use what made it, or another output directory"
        )


def open_pool(config: EncodeConfig, engine: LocalEngine) -> DecodePool:
    """Start the processes that decode, one for each core; they pause once enough is decoded."""
    return DecodePool(
        config.run.decode_workers or count_cores(),
        config.run.task_timeout_seconds,
        memory_mib=config.run.worker_memory_mib,
        result_bytes=FRAMES_PER_TASK * math.prod(engine.decoding.preprocessing.final_size) * 3,
        patience=engine.patience,
    )


def open_encoder_threads(config: EncodeConfig, encoder: ClipVisionEncoder) -> EncoderThreads:
    """Start the threads that call the encoder: one for each core, or two for a GPU."""
    on_gpu = encoder.device.type == "cuda"
    n_threads = config.run.encode_lanes or (THREADS_OF_A_GPU if on_gpu else count_cores())
    return EncoderThreads(encoder, n_threads, is_pinned=on_gpu)
