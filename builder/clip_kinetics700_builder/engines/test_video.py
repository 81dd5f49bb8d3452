"""Sends the package's test video, red on its left and blue on its right, through a build's encoder.

Its embedding, the canary, is kept with every part: parts of two encoders must not be mixed.
"""

from importlib import resources

import numpy as np

from clip_kinetics700_builder.decode.pool import DecodePool
from clip_kinetics700_builder.decode.video import Decoding, make_task
from clip_kinetics700_builder.encode.batches import EncoderThreads
from clip_kinetics700_builder.types import BuildError, Failure, Float32Array, UInt8Array


def encode_canary(
    pool: DecodePool, threads: EncoderThreads, decoding: Decoding, *, dtype: object
) -> Float32Array:
    """Return the (width,) float32 embedding of the test video; `dtype` is for the message.

    Raises:
        BuildError: it does not decode, its colours or sides come out swapped, or the model
            gives no numbers.
    """
    with resources.as_file(resources.files(__package__) / "canary.mp4") as path:
        frames = next(iter(pool.decode([make_task(decoding, 0, path)])))
    if isinstance(frames, Failure):
        raise BuildError(f"the package's own test video does not decode: {frames.message}")
    check_colours(frames.pixels[0])
    batch = threads.make_batch(frames.pixels.shape[1:])
    batch[0] = frames.pixels[0]
    vector: Float32Array = threads.submit(batch).result()[0]
    if not (np.isfinite(vector).all() and vector.any()):
        raise BuildError(
            f"the model gives no numbers for the package's own test video in {dtype}: "
            "are its weights damaged?"
        )
    return vector


def check_colours(pixels: UInt8Array) -> None:
    """Refuse a (height, width, 3) uint8 frame whose colours or sides the decoder has swapped."""
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
