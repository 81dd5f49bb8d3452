"""Parts of a plan in, finished parts out, on this machine: one rank of `world_size`.

Ranks take every world_size-th part and share the directory; there is no coordinator.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clip_kinetics700.schema import find_not_finite
from clip_kinetics700_builder.config import FRAMES_PER_TASK, EncodeConfig
from clip_kinetics700_builder.decode.pool import DecodePool
from clip_kinetics700_builder.decode.video import DecodeTask, Decoding, make_task
from clip_kinetics700_builder.encode.batches import EncoderThreads, encode_frames
from clip_kinetics700_builder.encode.tower import ClipVisionEncoder
from clip_kinetics700_builder.engines.archive_stream import ArchiveStream
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
from clip_kinetics700_builder.system.machine import count_cores
from clip_kinetics700_builder.types import (
    Archive,
    BuildError,
    Clip,
    EncodedClip,
    EncoderError,
    Failure,
    Float32Array,
    Part,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Started:
    """What lasts for one run of an engine."""

    pool: DecodePool
    threads: EncoderThreads
    """Of the engine's encoder."""
    canary: Float32Array
    advance: Callable[[int], None]
    """Is told of every finished clip."""


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """What every part of a build shares: the clips, where they are, and what encodes them."""

    clips: Sequence[Clip]
    """The whole plan, in order."""
    videos: VideoIndex | None
    """The videos directory; None where all clips are in archives."""
    archive_rows: Mapping[str, int]
    """Plan row by name, `ID_START_END`, of the clips that archives are to give."""
    encoder: ClipVisionEncoder
    decoding: Decoding
    """How their frames are chosen and made."""
    work: Path
    """The work directory."""

    @property
    def parts_directory(self) -> Path:
        """Directory of the finished parts."""
        return parts_directory(self.work)

    def encode_parts(self, parts: Iterable[Part], started: Started) -> Iterator[PartReport]:
        """Encode parts in their order, those that no other process has."""
        for is_archive, group in groupby(parts, lambda part: part.archive is not None):
            yield from (self.run_archives if is_archive else self.run_videos)(group, started)

    def run_videos(self, parts: Iterable[Part], started: Started) -> Iterator[PartReport]:
        """Encode parts of the videos directory.

        They are one stream of clips: while the end of a part is encoded the next one is decoded,
        and batches hold frames of both.
        """
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

    def run_archives(self, parts: Iterable[Part], started: Started) -> Iterator[PartReport]:
        """Encode parts of archives, one archive after another."""
        for part in parts:
            with self.claim(part, started) as is_ours:
                if is_ours and part.archive is not None:
                    begin = time.monotonic()
                    report, facts = self.run_archive(part, part.archive, started)
                    facts["seconds"] = round(time.monotonic() - begin, 3)
                    yield finish_part(self.parts_directory, report, **facts)

    @contextmanager
    def claim(self, part: Part, started: Started) -> Iterator[bool]:
        """Yield whether this process is to encode a part, which no other one then does."""
        lock = FileLock(self.parts_directory / f"{part.name}.lock")
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            log.info("part %s is being encoded by another process", part.name)
            started.advance(len(part.rows or ()))
            yield False
            return
        with held:
            if is_done(self.parts_directory, part.name):
                started.advance(len(part.rows or ()))
                yield False
                return
            yield True
            # Whoever opened it meanwhile finds the part done.
            Path(lock.lock_file).unlink(missing_ok=True)

    def run_archive(
        self, part: Part, archive: Archive, started: Started
    ) -> tuple[PartReport, dict[str, Any]]:
        """Encode the clips of an archive while it is read, anew if it is not read to its end.

        Returns:
            The report, and what it is to say of the archive.
        """
        rows = self.archive_rows
        if part.rows is not None:
            tried = set(part.rows)
            rows = {name: row for name, row in rows.items() if row in tried}
        stream = ArchiveStream(archive, self.work / SPOOL_NAME / part.name, rows)

        def encode_archive() -> PartReport:
            nonlocal stream
            stream = ArchiveStream(archive, self.work / SPOOL_NAME / part.name, rows)
            try:
                with stream:
                    results = self.encode(stream.tasks(self.decode_task), started, stream.drop)
                    return self.write(part, results, started)
            except FetchError:
                started.advance(-stream.n_done)
                raise

        try:
            return try_again(encode_archive, ARCHIVE_PAUSES_SECONDS), stream.facts
        except FetchError as error:
            log.warning("%s", error)
            report = self.write(part, [], started)
            return report, {**stream.facts, "error": [error.reason, str(error)]}

    def encode(
        self,
        tasks: Iterable[DecodeTask | Failure],
        started: Started,
        done: Callable[[int], None] = lambda _: None,
    ) -> Iterator[EncodedClip | Failure]:
        """Decode and encode clips; `done` is told of the row of each."""
        decoded = started.pool.decode(tasks)
        try:
            for result in self.check_results(
                encode_frames(decoded, started.threads), started.advance
            ):
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
            found = find_clip(self.videos, self.clips[row], row)
            yield found if isinstance(found, Failure) else self.decode_task(row, found)

    def decode_task(self, row: int, path: Path) -> DecodeTask:
        """Return the task that decodes a clip's first frames."""
        return make_task(self.decoding, row, path)

    def check_results(
        self, results: Iterable[EncodedClip | Failure], advance: Callable[[int], None]
    ) -> Iterator[EncodedClip | Failure]:
        """Pass results on; a value that is no number is an error of the encoder, not the clip's."""
        for result in results:
            if isinstance(result, EncodedClip) and find_not_finite(result.embeddings).size:
                raise BuildError(
                    f"clip {self.clips[result.row].identity}: the encoder gave values that are "
                    f"not finite in float16 (computed in {self.encoder.dtype}); "
                    "try --dtype float32 in a new output directory"
                )
            advance(1)
            yield result


EncodeParts = Callable[[list[Part]], tuple[list[PartReport], float]]
"""Encodes parts; returns their reports and the seconds it took once all was started."""

# One computes while the other one's batch is on its way.
THREADS_OF_A_GPU = 2


def count_clips(parts: Sequence[Part], n_archive_rows: int) -> int:
    """Return how many clips parts hold, at most: an archive shows what it holds when it is read.

    Args:
        parts: of videos and of archives.
        n_archive_rows: how many clips all archives are to give.
    """
    n_clips = sum(len(part.rows) for part in parts if part.rows is not None)
    return n_clips + n_archive_rows * any(part.rows is None for part in parts)


@contextmanager
def start_engine(config: EncodeConfig, engine: LocalEngine) -> Iterator[Started]:
    """Start what decodes and what encodes, and send the test video through both.

    Raises:
        BuildError: it does not come out as it should, or as it did before.
    """
    with open_pool(config, engine) as pool, open_encoder_threads(config, engine.encoder) as threads:
        canary = encode_canary(pool, threads, engine.decode_task, dtype=engine.encoder.dtype)
        refuse_changed_encoder(engine, canary)
        yield Started(pool, threads, canary, advance=lambda _: None)


def refuse_changed_encoder(engine: LocalEngine, canary: Float32Array) -> None:
    """Refuse to go on, for days, with another encoder than that of a part that is there.

    Raises:
        BuildError: assembly would refuse what this run makes.
    """
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
    """Start the processes that decode: as many as there are cores.

    Beside an encoder on the same cores they stop as soon as enough is decoded.
    """
    return DecodePool(
        config.decode_workers or count_cores(),
        config.task_timeout_seconds,
        memory_mib=config.worker_memory_mib,
        result_bytes=FRAMES_PER_TASK * math.prod(engine.decoding.preprocessing.final_size) * 3,
    )


def open_encoder_threads(config: EncodeConfig, encoder: ClipVisionEncoder) -> EncoderThreads:
    """Start the threads that call the encoder: one a core, or two on a GPU."""
    on_gpu = encoder.device.type == "cuda"
    n_threads = config.encode_lanes or (THREADS_OF_A_GPU if on_gpu else count_cores())
    return EncoderThreads(encoder, n_threads, is_pinned=on_gpu)
