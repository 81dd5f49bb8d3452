"""Packing gives each frame's row back to its clip, whatever the batch shape."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_kinetics700_builder.types import (
    EncodedClip,
    Failure,
    Float32Array,
    Frames,
    UInt8Array,
)
from tests.support.datasets.encoders import CountingEncoder, encode_all, make_frames


@given(
    lengths=st.lists(st.integers(0, 9), max_size=8),
    batch_size=st.integers(1, 7),
    piece=st.integers(1, 4),
    n_threads=st.integers(1, 3),
)
def test_every_frame_comes_back_to_its_clip(
    lengths: list[int], batch_size: int, piece: int, n_threads: int
) -> None:
    """Clips come out in order with their own rows; a length of 0 stands for a failed clip."""

    def decode() -> Iterator[Frames | Failure]:
        for row, length in enumerate(lengths):
            if length == 0:
                yield Failure(row, "decode", "no_frames", "none")
            for first in range(0, length, piece):
                yield make_frames(row, first, min(piece, length - first), length)

    results = list(encode_all(decode(), CountingEncoder(batch_size), n_threads=n_threads))
    assert [result.row for result in results] == list(range(len(lengths)))
    for row, (result, length) in enumerate(zip(results, lengths, strict=True)):
        if isinstance(result, EncodedClip):
            expected = [[row, index] for index in range(length)]
            assert result.embeddings.tolist() == expected
            assert result.timestamps is not None
            assert result.timestamps.tolist() == list(range(length))
        else:
            assert length == 0


def test_every_batch_has_the_one_shape() -> None:
    """Seven frames at batch size three are three calls of three: the last is padded."""
    encoder = CountingEncoder(3)
    list(encode_all([make_frames(0, 0, 5, 5), make_frames(1, 0, 2, 2)], encoder))
    assert encoder.shapes == [(3, 1, 1, 3)] * 3


def test_a_clip_is_whole_or_fails() -> None:
    """A failure after 64 good frames of the same clip leaves one failure and no sample."""
    failure = Failure(0, "decode", "decode_error", "frame 70 does not decode")
    decoded: list[Frames | Failure] = [
        make_frames(0, 0, 64, 100),
        failure,
        make_frames(1, 0, 1, 1),
    ]
    first, second = encode_all(decoded, CountingEncoder(10))
    assert first == failure
    assert isinstance(second, EncodedClip)
    assert second.embeddings.tolist() == [[1, 0]]


def test_work_in_flight_is_bounded() -> None:
    """No more than three batches are on their way in one thread, and none waits for the end."""
    taken = 0

    def decode() -> Iterator[Frames]:
        nonlocal taken
        for row in range(100):
            taken += 1
            yield make_frames(row, 0, 2, 2)

    results = encode_all(decode(), CountingEncoder(4))
    next(results)
    assert taken <= 6


@pytest.mark.parametrize("value", [65519.0, 1e-9])
def test_rows_are_rounded_to_float16(value: float) -> None:
    """Embeddings are stored as float16, rounded to nearest."""

    class Constant(CountingEncoder):
        def encode(self, pixels: UInt8Array) -> Float32Array:
            return np.full((len(pixels), 2), value, np.float32)

    (clip,) = encode_all([make_frames(0, 0, 1, 1)], Constant(1))
    assert isinstance(clip, EncodedClip)
    assert clip.embeddings.tolist() == [[float(np.float16(value))] * 2]
