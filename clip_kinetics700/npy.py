"""An array in, the bytes of a `.npy` member out, and back: without a copy, and never unpickled."""

import io
import math
from functools import lru_cache
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

# More than any header of a float array; it keeps a damaged length from costing memory.
MAX_NPY_HEADER = 65_536

# What numpy raises of a damaged header, besides ValueError.
NPY_HEADER_ERRORS = (
    *(SyntaxError, TokenError, TypeError, LookupError, AttributeError),
    *(OverflowError, MemoryError, RecursionError),
)


def encode_npy(embeddings: npt.NDArray[np.float16]) -> bytes:
    """Return an (n_frames, width) float16 array in numpy format 1.0, C order."""
    array = np.ascontiguousarray(embeddings, dtype="<f2")
    return b"".join((_make_npy_header(array.shape), array.data))


@lru_cache(maxsize=1024)
def _make_npy_header(shape: tuple[int, ...]) -> bytes:
    """Return what numpy writes before a float16 array; arrays of one shape have one header."""
    buffer = io.BytesIO()
    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def decode_npy(data: bytes | memoryview) -> npt.NDArray[Any]:
    """Return the array of a `.npy` member, read-only and without a copy; never unpickles.

    Raises:
        ValueError: not a numpy file, truncated, too long, or an array of objects.
    """
    begin = 10 if data[6:7] == b"\1" else 12
    header_nbytes = begin + int.from_bytes(data[8:begin], "little")
    shape, fortran_order, dtype = _read_npy_header(
        bytes(data[: min(header_nbytes, MAX_NPY_HEADER)])
    )
    count = math.prod(shape)
    if len(data) != header_nbytes + count * dtype.itemsize:
        nbytes, has = count * dtype.itemsize, len(data) - header_nbytes
        raise ValueError(f"npy of shape {shape} needs {nbytes} bytes, has {has}")
    try:
        array = np.frombuffer(data, dtype, count, header_nbytes)
        return array.reshape(shape, order="F" if fortran_order else "C")
    except (TypeError, OverflowError) as error:
        raise ValueError(f"npy of shape {shape}: {error}") from error


@lru_cache(maxsize=1024)
def _read_npy_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, memory order and dtype; arrays of one shape have one header."""
    stream = io.BytesIO(header)
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version in ((2, 0), (3, 0)):
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"npy of version {version}")
    except NPY_HEADER_ERRORS as error:
        raise ValueError(f"damaged numpy header: {error}") from error
    if dtype.hasobject:
        raise ValueError("npy holds Python objects, which are not read")
    if min(shape, default=0) < 0:
        raise ValueError(f"npy of shape {shape}")
    return shape, fortran_order, dtype
