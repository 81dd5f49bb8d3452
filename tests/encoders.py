"""What the tests of the encoder share on every device: loading it, and comparing its rows."""

from pathlib import Path

import numpy as np

from builder.encode import ClipVisionEncoder, load_encoder, read_preprocessing
from builder.model_files import find_model
from builder.types import Float32Array


def load_test_encoder(
    model: Path, *, batch_size: int, dtype: str = "float32", device: str = "cpu"
) -> ClipVisionEncoder:
    """Load the model of a directory."""
    files = find_model(str(model), None)
    preprocessing = read_preprocessing(files)
    return load_encoder(files, preprocessing, dtype=dtype, device=device, batch_size=batch_size)


def smallest_cosine(a: Float32Array, b: Float32Array) -> float:
    """Return the cosine of the worst pair of rows."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / norms).min())
