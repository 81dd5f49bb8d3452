"""Frames come through shared memory as they are, whatever their size."""

import multiprocessing

import numpy as np
import pytest

from clip_kinetics700_builder.decode.worker import SharedPixels
from clip_kinetics700_builder.types import Failure, Frames, VideoInfo

INFO = VideoInfo(3, 3.0, 25.0, 8, 8)


def make_frames(n_frames: int) -> Frames:
    """Return frames of noise."""
    pixels = np.random.default_rng(n_frames).integers(0, 256, (n_frames, 4, 4, 3), np.uint8)
    return Frames(5, 0, pixels, np.arange(n_frames, dtype=np.float32), INFO)


@pytest.mark.parametrize("n_frames", [1, 3, 4])
def test_frames_come_as_they_were_sent(n_frames: int) -> None:
    """Frames fit in the shared memory, fill it, or are too many and come through the pipe."""
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    shared = SharedPixels(context, 3 * 4 * 4 * 3)
    sent = make_frames(n_frames)
    shared.send(far, sent)
    received = shared.receive(near)
    assert isinstance(received, Frames)
    assert np.array_equal(received.pixels, sent.pixels)
    assert np.array_equal(received.timestamps, sent.timestamps)


def test_what_was_received_stays() -> None:
    """The next result does not change the pixels of the one before."""
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    shared = SharedPixels(context, 3 * 4 * 4 * 3)
    shared.send(far, make_frames(2))
    first = shared.receive(near)
    shared.send(far, make_frames(3))
    shared.receive(near)
    assert isinstance(first, Frames)
    assert np.array_equal(first.pixels, make_frames(2).pixels)


def test_failures_pass() -> None:
    """A failure has no pixels and goes through the pipe."""
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    shared, failure = SharedPixels(context, 1), Failure(1, "decode", "no_frames", "none")
    shared.send(far, failure)
    assert shared.receive(near) == failure
