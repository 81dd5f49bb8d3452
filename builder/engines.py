"""Parts of a plan in, finished parts out, on this machine: one rank of `world_size`.

Ranks take every world_size-th part and share the directory; there is no coordinator.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from builder.decode import DecodeTask
from builder.encode import ClipVisionEncoder
from builder.packing import encode_frames
from builder.parts import PartReport, is_done, write_part
from builder.pool import DecodePool
from builder.sources import VideoIndex, find_clip
from builder.types import (
    BuildError,
    Clip,
    EncodedClip,
    Failure,
    Float32Array,
    Part,
    UInt8Array,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """What every part of a run shares: the clips, where they are, and what encodes them."""

    clips: Sequence[Clip]
    """The whole plan, in order."""
    videos: VideoIndex
    encoder: ClipVisionEncoder
    frames_per_second: float
    parts: Path
    """Directory of the finished parts."""

    def run(
        self,
        parts: Iterable[Part],
        *,
        pool: DecodePool,
        canary: Float32Array,
        advance: Callable[[int], None],
    ) -> Iterator[PartReport]:
        """Encode parts one after another; `advance` is told of every finished clip."""
        for part in parts:
            lock = FileLock(self.parts / f"{part.name}.lock")
            try:
                held = lock.acquire(timeout=0)
            except Timeout:
                log.info("part %s is being encoded by another process", part.name)
                advance(len(part.rows))
                continue
            with held:
                if is_done(self.parts, part):
                    advance(len(part.rows))
                    continue
                yield self.run_part(part, pool=pool, canary=canary, advance=advance)
                # Whoever opened it meanwhile finds the part done.
                Path(lock.lock_file).unlink(missing_ok=True)

    def run_part(
        self,
        part: Part,
        *,
        pool: DecodePool,
        canary: Float32Array,
        advance: Callable[[int], None],
    ) -> PartReport:
        """Decode, encode and write one part."""
        decoded = pool.decode(self.list_tasks(part))
        results = self.check_results(encode_frames(decoded, self.encoder), advance)
        return write_part(self.parts, part, results, width=self.encoder.width, canary=canary)

    def list_tasks(self, part: Part) -> Iterator[DecodeTask | Failure]:
        """Look up the file of each clip of a part."""
        for row in part.rows:
            found = find_clip(self.videos, self.clips[row], row)
            yield found if isinstance(found, Failure) else self.decode_task(row, found)

    def decode_task(self, row: int, path: Path) -> DecodeTask:
        """Return the task that decodes a clip's first frames."""
        return DecodeTask(
            row=row,
            path=str(path),
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

    def encode_canary(self, pool: DecodePool) -> Float32Array:
        """Return the embedding of a package video: red on its left half, blue on its right.

        Raises:
            BuildError: it does not decode, or its colours or sides come out swapped.
        """
        with ExitStack() as stack:
            canary = resources.files("builder") / "canary.mp4"
            path = stack.enter_context(resources.as_file(canary))
            frames = next(iter(pool.decode([self.decode_task(0, path)])))
        if isinstance(frames, Failure):
            raise BuildError(f"the package's own test video does not decode: {frames.message}")
        check_canary(frames.pixels[0])
        batch = np.zeros((self.encoder.batch_size, *frames.pixels.shape[1:]), np.uint8)
        batch[0] = frames.pixels[0]
        vector: Float32Array = self.encoder.encode(batch)[0]
        return vector


def check_canary(pixels: UInt8Array) -> None:
    """Refuse a decoder that swaps colours or sides."""
    width = pixels.shape[1]
    left = pixels[:, : width // 4].reshape(-1, 3).mean(axis=0)
    right = pixels[:, -(width // 4) :].reshape(-1, 3).mean(axis=0)
    is_red = left[0] > 200 and left[1:].max() < 60
    is_blue = right[2] > 200 and right[:2].max() < 60
    if not (is_red and is_blue):
        raise BuildError(
            "the decoder gives wrong colours: a frame with a red left and a blue right half "
            f"came out as RGB {left.round().tolist()} and {right.round().tolist()}"
        )
