"""Batches in, embeddings out, several at a time: the encoder's calls run side by side.

On a CPU a lane is one core: single-threaded calls beside each other waste nothing on waiting for
each other, as the threads of one call do, and share the weights. On a GPU two lanes overlap:
while one computes, the other one's batch is copied.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import numpy as np

from builder.cores import count_cores
from builder.types import Encoder, Float32Array, UInt8Array

Result = TypeVar("Result")


class EncoderLanes:
    """An encoder and the threads that call it; use it in a `with` block."""

    def __init__(self, encoder: Encoder, n_lanes: int, *, is_pinned: bool = False) -> None:
        """Take an encoder.

        Args:
            encoder: whose `encode` may be called from several threads.
            n_lanes: how many calls run at a time.
            is_pinned: whether batches lie in memory that a GPU fetches by itself.
        """
        self.n_lanes = n_lanes
        self._is_pinned = is_pinned
        self.width = encoder.width
        self.batch_size = encoder.batch_size
        self._encoder = encoder
        self._threads = ThreadPoolExecutor(
            n_lanes, thread_name_prefix="encode", initializer=use_one_thread
        )

    def __enter__(self) -> "EncoderLanes":
        """Return the lanes themselves."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End after the calls that are running."""
        self._threads.shutdown(cancel_futures=True)

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
        """Encode a batch in the next lane that is free; the batch must not change meanwhile."""
        return self._threads.submit(self._encoder.encode, pixels)


def use_one_thread() -> None:
    """Keep this thread's calls of torch on one core."""
    import torch

    torch.set_num_threads(1)


def share_rows(work: Callable[[int, int], Result], n_rows: int) -> list[Result]:
    """Return what `work(begin, end)` returns of each core's share of the rows, in order.

    Threads that never wait for each other: those within torch's calls do at every call, and stand
    still together as soon as another program takes one core for a moment.
    """
    n_lanes = count_cores()
    ends = [n_rows * lane // n_lanes for lane in range(n_lanes + 1)]
    with ThreadPoolExecutor(n_lanes, initializer=use_one_thread) as lanes:
        return list(lanes.map(work, ends[:-1], ends[1:]))
