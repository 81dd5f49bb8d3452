"""The encoder is called as often at a time as there are threads, and no call is lost."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from clip_kinetics700_builder.encode.batches import EncoderThreads
from clip_kinetics700_builder.types import BuildError, Float32Array, Frames, UInt8Array
from tests.support.datasets.encoders import CountingEncoder, encode_all, make_frames


class MeetingEncoder(CountingEncoder):
    """Answers only once as many calls are running as there are threads."""

    def __init__(self, n_threads: int) -> None:
        super().__init__(1)
        self.meeting = threading.Barrier(n_threads, timeout=30)
        self.n_threads: set[int] = set()

    def encode(self, pixels: UInt8Array) -> Float32Array:
        """Wait for the others."""
        self.meeting.wait()
        self.n_threads.add(torch.get_num_threads())
        return super().encode(pixels)


def test_as_many_calls_run_as_there_are_threads() -> None:
    """Three threads are three calls at the same time, each of one thread of torch."""
    encoder = MeetingEncoder(3)
    frames = [make_frames(row, 0, 1, 1) for row in range(9)]
    results = list(encode_all(frames, encoder, n_threads=3))
    assert [result.row for result in results] == list(range(9))
    assert encoder.n_threads == {1}


def test_the_callers_threads_stay_as_they_are() -> None:
    """The encoder's threads do not change how many threads the rest of the process uses."""
    before = torch.get_num_threads()
    list(encode_all([make_frames(0, 0, 1, 1)], CountingEncoder(1)))
    assert torch.get_num_threads() == before


def test_batches_are_filled_while_others_run() -> None:
    """Frames are taken for further batches while the encoder has not answered the first."""
    n_taken = 0
    go_on = threading.Event()

    class Slow(CountingEncoder):
        def encode(self, pixels: UInt8Array) -> Float32Array:
            assert go_on.wait(30)
            return super().encode(pixels)

    def decode() -> Iterator[Frames]:
        nonlocal n_taken
        for row in range(8):
            n_taken += 1
            if n_taken == 3:
                go_on.set()
            yield make_frames(row, 0, 1, 1)

    assert len(list(encode_all(decode(), Slow(1)))) == 8


def test_an_error_of_a_thread_reaches_the_caller() -> None:
    """What the encoder raises in its thread ends the run, with the first clip of the batch."""

    class Broken(CountingEncoder):
        def encode(self, pixels: UInt8Array) -> Float32Array:
            raise BuildError("out of memory")

    with pytest.raises(BuildError, match="out of memory") as caught:
        list(encode_all([make_frames(5, 0, 1, 1)], Broken(1)))
    assert getattr(caught.value, "row", None) == 5


def test_a_batch_starts_as_zeros() -> None:
    """What pads a batch is black, whatever was in the memory."""
    with EncoderThreads(CountingEncoder(3), 1) as threads:
        batch = threads.make_batch((2, 2, 3))
    assert batch.shape == (3, 2, 2, 3)
    assert batch.dtype == np.uint8
    assert not batch.any()
