"""Frames of clips in, encoded clips out: the packing of frames into batches.

Every call of the encoder has one fixed batch shape, filled across clips, so that neighbours
and cuts of the work leave no trace in a bit; the last batch is padded. While batches are on their
way through the encoder the next ones are filled.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType

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
)


class EncoderThreads:
    """An encoder and the threads that call it; use it in a `with` block."""

    def __init__(self, encoder: Encoder, n_threads: int, *, is_pinned: bool = False) -> None:
        """Take an encoder.

        Args:
            encoder: whose `encode` may be called from several threads.
            n_threads: how many calls run at a time.
            is_pinned: whether batches lie in memory that a GPU fetches by itself.
        """
        self.n_threads = n_threads
        self._is_pinned = is_pinned
        self.width = encoder.width
        self.batch_size = encoder.batch_size
        self._encoder = encoder
        self._executor = ThreadPoolExecutor(
            n_threads, thread_name_prefix="encode", initializer=use_one_thread
        )

    def __enter__(self) -> "EncoderThreads":
        """Return the threads themselves."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End after the calls that are running."""
        self._executor.shutdown(cancel_futures=True)

    def make_batch(self, frame_shape: tuple[int, ...]) -> UInt8Array:
        """Return (batch_size, *frame_shape) uint8 zeros."""
        shape = (self.batch_size, *frame_shape)
        if not self._is_pinned:
            return np.zeros(shape, np.uint8)
        import torch

        # torch keeps pinned memory for the next batch: pinning anew would cost milliseconds.
        batch: UInt8Array = torch.zeros(shape, dtype=torch.uint8, pin_memory=True).numpy()
        return batch

    def submit(self, pixels: UInt8Array) -> "Future[Float32Array]":
        """Encode a batch in the next thread that is free; the batch must not change meanwhile."""
        return self._executor.submit(self._encoder.encode, pixels)


@dataclass(slots=True, eq=False)
class _Pending:
    """A clip whose frames are on their way through the encoder."""

    frames: Frames
    embeddings: Float16Array
    timestamps: Float32Array
    n_encoded: int = 0
    failure: Failure | None = None

    def result(self) -> EncodedClip | Failure | None:
        """Return what the clip became, or None while frames are missing."""
        if self.failure is not None:
            return self.failure
        if self.n_encoded < self.frames.info.n_frames:
            return None
        return EncodedClip(self.frames.row, self.embeddings, self.timestamps, self.frames.info)


Slots = list[tuple[_Pending, int]]
"""Whose frame stands in each row of a batch: the clip, and the frame's index in it."""


@dataclass(slots=True, eq=False)
class _Packer:
    """Fills fixed batches with frames of consecutive clips and hands the rows back."""

    threads: EncoderThreads
    waiting: "deque[_Pending | Failure]" = field(default_factory=deque)
    batch: UInt8Array | None = None
    slots: Slots = field(default_factory=list)
    running: "deque[tuple[Future[Float32Array], Slots]]" = field(default_factory=deque)
    """Batches in the encoder, the oldest first."""

    def add(self, frames: Frames) -> None:
        pending = self.waiting[-1] if self.waiting else None
        if not isinstance(pending, _Pending) or pending.frames.row != frames.row:
            n_frames = frames.info.n_frames
            embeddings = np.empty((n_frames, self.threads.width), np.float16)
            pending = _Pending(frames, embeddings, np.empty(n_frames, np.float32))
            self.waiting.append(pending)
        stop = frames.first + len(frames.pixels)
        pending.timestamps[frames.first : stop] = frames.timestamps
        for offset, pixels in enumerate(frames.pixels):
            if self.batch is None:
                self.batch = self.threads.make_batch(pixels.shape)
            self.batch[len(self.slots)] = pixels
            self.slots.append((pending, frames.first + offset))
            if len(self.slots) == self.threads.batch_size:
                self.submit()

    def fail(self, failure: Failure) -> None:
        """Record a failure; it takes the place of frames of the same clip that came before."""
        pending = self.waiting[-1] if self.waiting else None
        if isinstance(pending, _Pending) and pending.frames.row == failure.row:
            pending.failure = failure
        else:
            self.waiting.append(failure)

    def submit(self) -> None:
        """Hand the batch over; one waits behind those that run, so that no thread idles."""
        if self.batch is None:
            return
        self.running.append((self.threads.submit(self.batch), self.slots))
        self.batch, self.slots = None, []
        while len(self.running) > self.threads.n_threads + 1:
            self.take()

    def take(self) -> None:
        """Wait for the oldest batch and hand its rows back."""
        future, slots = self.running.popleft()
        try:
            embeddings = future.result()
        except BuildError as error:
            raise EncoderError(slots[0][0].frames.row, str(error)) from error
        # Values beyond float16's range become infinite here and are refused by the part.
        for (pending, index), row in zip(slots, to_float16(embeddings), strict=False):
            pending.embeddings[index] = row
            pending.n_encoded += 1

    def finish(self) -> None:
        """Encode what is left, padded."""
        self.submit()
        while self.running:
            self.take()

    def finished(self) -> Iterator[EncodedClip | Failure]:
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
    """Encode clips in the order they come; frames of one clip come one after another.

    A Failure after some frames of the same clip discards those: a clip is whole or fails.

    Raises:
        EncoderError: the encoder failed; tells at which clip.
    """
    packer = _Packer(threads)
    for item in decoded:
        if isinstance(item, Failure):
            packer.fail(item)
        else:
            packer.add(item)
        yield from packer.finished()
    packer.finish()
    yield from packer.finished()
