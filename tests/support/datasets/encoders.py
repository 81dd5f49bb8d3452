"""These functions make pixels and frames, encode them on any device, and compare the rows."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from clip_kinetics700_builder.encode.batches import EncoderThreads, encode_frames
from clip_kinetics700_builder.encode.model_files import find_model
from clip_kinetics700_builder.encode.tower import ClipVisionEncoder, EncoderShape
from clip_kinetics700_builder.encode.vision import load_encoder, read_preprocessing
from clip_kinetics700_builder.types import (
    EncodedClip,
    Encoder,
    Failure,
    Float32Array,
    Frames,
    UInt8Array,
    VideoInfo,
)


def load_test_encoder(
    model: Path,
    *,
    batch_size: int,
    dtype: str = "float32",
    device: str = "cpu",
    compiled: bool = False,
) -> ClipVisionEncoder:
    """Load the model of a directory."""
    files = find_model(str(model), None)
    preprocessing = read_preprocessing(files)
    shape = EncoderShape(dtype=dtype, batch_size=batch_size, compiled=compiled)
    return load_encoder(files, preprocessing, shape, device=device)


def encode_all(
    decoded: Iterable[Frames | Failure], encoder: Encoder, *, n_threads: int = 1
) -> Iterator[EncodedClip | Failure]:
    """Encode clips in threads of their own."""
    with EncoderThreads(encoder, n_threads) as threads:
        yield from encode_frames(decoded, threads)


def smallest_cosine(a: Float32Array, b: Float32Array) -> float:
    """Return the cosine of the worst pair of rows."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / norms).min())


class CountingEncoder:
    """Gives back what the pixels say, and keeps the shapes it was called with."""

    width = 2

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.shapes: list[tuple[int, ...]] = []

    def encode(self, pixels: UInt8Array) -> Float32Array:
        """Return red and green of the first pixel as the embedding."""
        self.shapes.append(pixels.shape)
        return pixels[:, 0, 0, :2].astype(np.float32)


def make_frames(row: int, first: int, count: int, n_frames: int) -> Frames:
    """Return frames whose pixels hold their row and index."""
    pixels = np.zeros((count, 1, 1, 3), np.uint8)
    pixels[:, 0, 0, 0] = row
    pixels[:, 0, 0, 1] = np.arange(first, first + count)
    info = VideoInfo(n_frames, float(n_frames), 25.0, 1, 1)
    return Frames(row, first, pixels, np.arange(first, first + count, dtype=np.float32), info)


def make_pixels(count: int, *, seed: int = 0) -> UInt8Array:
    """Return (count, 224, 224, 3) uint8 pictures of coarse noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 14, 14, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(16, axis=1).repeat(16, axis=2))


def encode_in_threads(model: Path, *batches: UInt8Array, compiled: bool) -> Float32Array:
    """Return the embeddings of all batches, encoded in two threads."""
    encoder = load_test_encoder(
        model, batch_size=len(batches[0]), dtype="bfloat16", compiled=compiled
    )
    with EncoderThreads(encoder, 2) as threads:
        # The first call compiles, so no other runs beside it.
        first = threads.submit(batches[0]).result()
        rest = [future.result() for future in map(threads.submit, batches[1:])]
    return np.concatenate([first, *rest])
