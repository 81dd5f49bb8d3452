"""Parts of a plan in, finished parts out, on this machine: one rank of `world_size`.

Ranks take every world_size-th part and share the directory; there is no coordinator.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from builder.decode import DecodeTask
from builder.encode import ClipVisionEncoder
from builder.ledger import FetchError, is_passing
from builder.packing import encode_frames
from builder.parts import PartReport, finish_part, is_done, write_results
from builder.pool import DecodePool
from builder.sources import VideoIndex, find_clip
from builder.streaming import ArchiveStream
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
    frames_per_second: float
    work: Path
    """The work directory."""

    @property
    def parts(self) -> Path:
        """Directory of the finished parts."""
        return parts_directory(self.work)

    def run(self, parts: Iterable[Part], run: Run) -> Iterator[PartReport]:
        """Encode parts one after another."""
        for part in parts:
            lock = FileLock(self.parts / f"{part.name}.lock")
            try:
                held = lock.acquire(timeout=0)
            except Timeout:
                log.info("part %s is being encoded by another process", part.name)
                run.advance(len(part.rows or ()))
                continue
            with held:
                if is_done(self.parts, part.name):
                    run.advance(len(part.rows or ()))
                    continue
                yield self.run_part(part, run)
                # Whoever opened it meanwhile finds the part done.
                Path(lock.lock_file).unlink(missing_ok=True)

    def run_part(self, part: Part, run: Run) -> PartReport:
        """Decode, encode and write one part."""
        begin = time.monotonic()
        facts: dict[str, Any] = {}
        if part.archive is None:
            results = self.encode(self.list_tasks(part), run)
            report = self.write(part, results, run)
        else:
            report, facts = self.run_archive(part, part.archive, run)
        return finish_part(self.parts, report, seconds=round(time.monotonic() - begin, 3), **facts)

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
            for result in self.check_results(encode_frames(decoded, self.encoder), run.advance):
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
        return DecodeTask(
            row=row,
            # FFmpeg takes what stands before a colon in a relative path for a protocol.
            path=str(path.absolute()),
            first=0,
            frames_per_second=self.frames_per_second,
            preprocessing=self.encoder.preprocessing,
        )

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
