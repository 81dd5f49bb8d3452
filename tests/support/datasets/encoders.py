"""Tests of the encoder load it and compare its rows by these functions on every device."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from clip_kinetics700_builder.encode.batches import EncoderThreads, encode_frames
from clip_kinetics700_builder.encode.model_files import find_model
from clip_kinetics700_builder.encode.tower import ClipVisionEncoder, EncoderShape
from clip_kinetics700_builder.encode.vision import load_encoder, read_preprocessing
from clip_kinetics700_builder.types import EncodedClip, Encoder, Failure, Float32Array, Frames


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
