"""The bytes that an index points at in, the array that it promises out, or why it is another."""

import tarfile
from typing import Any

import numpy.typing as npt

from .npy import decode_npy

# A tar header holds ASCII names of this many letters; other ones stand elsewhere.
MAX_PLAIN_NAME = 95


def decode_piece(
    piece: memoryview | ValueError, header_nbytes: int, key: str, n_frames: int
) -> npt.NDArray[Any]:
    """Return the array of a tar header and a `.npy`, or of a `.npy` alone.

    Raises:
        ValueError: something else lies there than the index says.
    """
    if isinstance(piece, ValueError):
        raise piece
    if header_nbytes and len(key) <= MAX_PLAIN_NAME and key.isascii():
        name = key.encode() + b".npy"
        there = piece[: len(name)]
        if there != name and bytes(there).replace(b".NPY", b".npy") != name:
            raise ValueError("another file than the index says lies there")
    elif header_nbytes and not may_be_header_of(bytes(piece[:header_nbytes]), f"{key}.npy"):
        raise ValueError("another file than the index says lies there")
    if header_nbytes and not has_size(bytes(piece[124:136]), len(piece) - header_nbytes):
        raise ValueError("a file of another size than the index says lies there")
    array = decode_npy(piece[header_nbytes:])
    if array.ndim != 2 or len(array) != n_frames or array.dtype.kind != "f":
        raise ValueError(
            f"an array of shape {array.shape} and dtype {array.dtype} lies there, "
            f"the index says {n_frames} frames"
        )
    return array


def has_size(field: bytes, nbytes: int) -> bool:
    """Tell whether the size in a tar header is this one."""
    if field[:11] == b"%011o" % nbytes:
        return True
    # As all common writers have it; the other ways are tarfile's to know.
    try:
        return int(tarfile.nti(field)) == nbytes  # type: ignore[attr-defined]  # not in the stubs
    except tarfile.HeaderError:
        return False


def may_be_header_of(header: bytes, name: str) -> bool:
    """Tell whether a header may be that of a name that does not fit it, by how writers cut it."""
    field, prefix = (header[a:b].partition(b"\0")[0] for a, b in ((0, 100), (345, 500)))
    raw = name.encode()
    # Cut, as GNU and as PAX with other letters replaced, or of an archive without UTF-8.
    spellings = [raw, *(name.encode(encoding, "replace") for encoding in ("ascii", "latin-1"))]
    is_cut = any(field == spelling[:100] for spelling in spellings)
    return is_cut or prefix + b"/" + field == raw
