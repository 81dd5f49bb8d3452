"""Packs the frames of clips into batches, and has these encoded while it fills the next ones.

Every call of the encoder has one fixed batch shape, filled across clips, the last batch padded: so
neither its neighbours nor the way the work is cut change a bit of a clip.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from clip_kinetics700.schema import to_float16
from clip_kinetics700_builder.system.threads import use_one_thread
from clip_kinetics700_builder.types import (
    BuildError,
    EncodedClip,
    Encoder,
    EncoderError,
    Failure,
    Float16Array,
    Float32Array,
    Frames,
    UInt8Array,
    VideoInfo,
)


class EncoderThreads(ExitStack):
    """Calls an encoder in threads of its own, which end with the `with` block."""

    def __init__(self, encoder: Encoder, n_threads: int, *, is_pinned: bool = False) -> None:
        """Take an encoder that several threads may call, and how many do.

        Pinned batches lie in memory that a GPU fetches by itself.
        """
        super().__init__()
        self.n_threads = n_threads
        self._is_pinned = is_pinned
        self.width = encoder.width
        self.batch_size = encoder.batch_size
        self._encoder = encoder
        self._executor = ThreadPoolExecutor(
            n_threads, thread_name_prefix="encode", initializer=use_one_thread
        )
        self.callback(self._executor.shutdown, cancel_futures=True)

    def make_batch(self, frame_shape: tuple[int, ...]) -> UInt8Array:
        """Return (batch_size, *frame_shape) uint8 zeros."""
        shape = (self.batch_size, *frame_shape)
        if not self._is_pinned:
            return np.zeros(shape, np.uint8)
        import torch

        # torch keeps pinned memory for the next batch; pinning anew would cost milliseconds.
        batch: UInt8Array = torch.zeros(shape, dtype=torch.uint8, pin_memory=True).numpy()
        return batch

    def submit(self, pixels: UInt8Array) -> "Future[Float32Array]":
        """Encode a batch, (batch_size, height, width, 3) uint8, to (batch_size, width) float32.

        It must not change meanwhile.
        """
        return self._executor.submit(self._encoder.encode, pixels)


@dataclass(slots=True, eq=False)
class _Pending:
    """A clip whose frames are on their way through the encoder."""

    row: int
    info: VideoInfo
    embeddings: Float16Array
    """(n_frames, width) float16, filled as batches come back."""
    timestamps: Float32Array
    """(n_frames,) float32, filled as frames come."""
    damaged: tuple[int, ...] = ()
    n_encoded: int = 0
    failure: Failure | None = None

    def result(self) -> EncodedClip | Failure | None:
        """Return what the clip became, or None while frames are missing."""
        if self.failure is not None or self.n_encoded < self.info.n_frames:
            return self.failure
        return EncodedClip(self.row, self.embeddings, self.timestamps, self.info, self.damaged)


Slots = list[tuple[_Pending, int]]
"""The frame in each row of a batch: its clip, and its index in the clip."""


@dataclass(slots=True, eq=False)
class _Packer:
    """Fills batches with the frames of consecutive clips, and gives each clip its rows back."""

    threads: EncoderThreads
    waiting: "deque[_Pending | Failure]" = field(default_factory=deque)
    batch: UInt8Array | None = None
    slots: Slots = field(default_factory=list)
    running: "deque[tuple[Future[Float32Array], Slots]]" = field(default_factory=deque)
    """Batches in the encoder, the oldest first."""

    def find_last(self, row: int) -> _Pending | None:
        """Return the clip that came last, if it is that of a row of the plan."""
        last = self.waiting[-1] if self.waiting else None
        return last if isinstance(last, _Pending) and last.row == row else None

    def add(self, frames: Frames) -> None:
        """Put frames into batches, and submit each batch that is full."""
        pending = self.find_last(frames.row)
        if pending is None:
            n_frames = frames.info.n_frames
            embeddings = np.empty((n_frames, self.threads.width), np.float16)
            timestamps = np.empty(n_frames, np.float32)
            pending = _Pending(frames.row, frames.info, embeddings, timestamps)
            self.waiting.append(pending)
        stop = frames.first + len(frames.pixels)
        pending.timestamps[frames.first : stop] = frames.timestamps
        pending.damaged += frames.damaged
        for offset, pixels in enumerate(frames.pixels):
            if self.batch is None:
                self.batch = self.threads.make_batch(pixels.shape)
            self.batch[len(self.slots)] = pixels
            self.slots.append((pending, frames.first + offset))
            if len(self.slots) == self.threads.batch_size:
                self.submit()

    def fail(self, failure: Failure) -> None:
        """Record a failure; it takes the place of frames of the same clip that came before."""
        pending = self.find_last(failure.row)
        if pending is None:
            self.waiting.append(failure)
        else:
            pending.failure = failure

    def submit(self) -> None:
        """Have the batch encoded; one more than run at a time may wait, so that no thread idles."""
        if self.batch is None:
            return
        self.running.append((self.threads.submit(self.batch), self.slots))
        # A thread reads this batch now: the next one needs memory of its own.
        self.batch, self.slots = None, []
        while len(self.running) > self.threads.n_threads + 1:
            self.take()

    def take(self) -> None:
        """Wait for the oldest batch and give its rows to their clips."""
        future, slots = self.running.popleft()
        try:
            embeddings = future.result()
        except BuildError as error:
            raise EncoderError(slots[0][0].row, str(error)) from error
        # Values beyond float16's range become infinite here; the engine refuses them.
        # Rows of padding have no slot.
        for (pending, index), row in zip(slots, to_float16(embeddings), strict=False):
            pending.embeddings[index] = row
            pending.n_encoded += 1

    def finished(self) -> Iterator[EncodedClip | Failure]:
        """Yield the clips that are finished, in the order in which they came."""
        while self.waiting:
            head = self.waiting[0]
            result = head if isinstance(head, Failure) else head.result()
            if result is None:
                return
            self.waiting.popleft()
            yield result


def encode_frames(
    decoded: Iterable[Frames | Failure], threads: EncoderThreads
) -> Iterator[EncodedClip | Failure]:
    """Encode clips in the order in which they come, all frames of a clip one after another.

    A Failure after some frames of the same clip discards those: a clip is whole or fails.

    Raises:
        EncoderError: the encoder failed; it names the clip's row.
    """
    packer = _Packer(threads)
    for item in decoded:
        if isinstance(item, Failure):
            packer.fail(item)
        else:
            packer.add(item)
        yield from packer.finished()
    packer.submit()
    while packer.running:
        packer.take()
    yield from packer.finished()
