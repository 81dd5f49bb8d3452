"""Parts of a plan in, finished parts out, on this machine: one rank of `world_size`.

Ranks take every world_size-th part and share the directory; there is no coordinator.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from builder.decode import DecodeTask, Decoding
from builder.lanes import EncoderLanes
from builder.ledger import FetchError, is_passing
from builder.packing import encode_frames
from builder.parts import PartReport, finish_part, is_done, write_results
from builder.pool import DecodePool
from builder.sources import VideoIndex, find_clip
from builder.streaming import ArchiveStream
from builder.tower import ClipVisionEncoder
from builder.types import (
    Archive,
    BuildError,
    Clip,
    EncodedClip,
    EncoderError,
    Failure,
    Float32Array,
    Part,
)
from builder.work import SPOOL_NAME, parts_directory

log = logging.getLogger(__name__)

# Of reading an archive to its end; each of its byte ranges has attempts of its own.
ARCHIVE_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Run:
    """What lasts for one run of an engine."""

    pool: DecodePool
    lanes: EncoderLanes
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
    def parts(self) -> Path:
        """Directory of the finished parts."""
        return parts_directory(self.work)

    def run(self, parts: Iterable[Part], run: Run) -> Iterator[PartReport]:
        """Encode parts in their order, those that no other process has."""
        for is_archive, group in groupby(parts, lambda part: part.archive is not None):
            yield from (self.run_archives if is_archive else self.run_videos)(group, run)

    def run_videos(self, parts: Iterable[Part], run: Run) -> Iterator[PartReport]:
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
                    if not claim.enter_context(self.claim(part, run)):
                        claim.close()
                        continue
                    claimed.append((part, claim))
                    yield from self.list_tasks(part)

            results = self.encode(list_claimed(), run)
            for first in results:
                part, claim = claimed.popleft()
                rest = islice(results, len(part.rows or ()) - 1)
                report = self.write(part, chain([first], rest), run)
                now = time.monotonic()
                yield finish_part(self.parts, report, seconds=round(now - begin, 3))
                claim.close()
                begin = now

    def run_archives(self, parts: Iterable[Part], run: Run) -> Iterator[PartReport]:
        """Encode parts of archives, one archive after another."""
        for part in parts:
            with self.claim(part, run) as is_ours:
                if is_ours and part.archive is not None:
                    begin = time.monotonic()
                    report, facts = self.run_archive(part, part.archive, run)
                    facts["seconds"] = round(time.monotonic() - begin, 3)
                    yield finish_part(self.parts, report, **facts)

    @contextmanager
    def claim(self, part: Part, run: Run) -> Iterator[bool]:
        """Yield whether this process is to encode a part, which no other one then does."""
        lock = FileLock(self.parts / f"{part.name}.lock")
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            log.info("part %s is being encoded by another process", part.name)
            run.advance(len(part.rows or ()))
            yield False
            return
        with held:
            if is_done(self.parts, part.name):
                run.advance(len(part.rows or ()))
                yield False
                return
            yield True
            # Whoever opened it meanwhile finds the part done.
            Path(lock.lock_file).unlink(missing_ok=True)

    def run_archive(
        self, part: Part, archive: Archive, run: Run
    ) -> tuple[PartReport, dict[str, Any]]:
        """Encode the clips of an archive while it is read, anew if it is not read to its end.

        Returns:
            The report, and what it is to say of the archive.
        """
        rows = self.archive_rows
        if part.rows is not None:
            tried = set(part.rows)
            rows = {name: row for name, row in rows.items() if row in tried}
        attempt = 0
        while True:
            attempt += 1
            stream = ArchiveStream(archive, self.work / SPOOL_NAME / part.name, rows)
            try:
                with stream:
                    results = self.encode(stream.tasks(self.decode_task), run, stream.drop)
                    report = self.write(part, results, run)
            except FetchError as error:
                log.warning("%s (attempt %d)", error, attempt)
                run.advance(-stream.n_done)
                if attempt < ARCHIVE_ATTEMPTS and is_passing(error):
                    continue
                report = self.write(part, [], run)
                return report, {**stream.facts, "error": [error.reason, str(error)]}
            return report, stream.facts

    def encode(
        self,
        tasks: Iterable[DecodeTask | Failure],
        run: Run,
        done: Callable[[int], None] = lambda _: None,
    ) -> Iterator[EncodedClip | Failure]:
        """Decode and encode clips; `done` is told of the row of each."""
        decoded = run.pool.decode(tasks)
        try:
            for result in self.check_results(encode_frames(decoded, run.lanes), run.advance):
                done(result.row)
                yield result
        except EncoderError as error:
            raise BuildError(f"clip {self.clips[error.row].identity}: {error}") from error

    def write(self, part: Part, results: Iterable[EncodedClip | Failure], run: Run) -> PartReport:
        """Write the results of a part."""
        return write_results(self.parts, part, results, width=self.encoder.width, canary=run.canary)

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
            if isinstance(result, EncodedClip) and not np.isfinite(result.embeddings).all():
                raise BuildError(
                    f"clip {self.clips[result.row].identity}: the encoder gave values that are "
                    f"not finite in float16 (computed in {self.encoder.dtype}); "
                    "try --dtype float32 in a new output directory"
                )
            advance(1)
            yield result


def make_task(decoding: Decoding, row: int, path: Path) -> DecodeTask:
    """Return the task that decodes the first frames of the clip in a row of the plan."""
    # FFmpeg takes what stands before a colon in a relative path for a protocol.
    return DecodeTask(row=row, path=str(path.absolute()), first=0, decoding=decoding)
