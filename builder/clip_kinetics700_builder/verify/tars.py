"""A `TarReader` gives the samples of one of our tars and checks every byte around them.

It is stricter than a reader: headers, order and names of members must be exactly what is written,
because the same plan gives the same bytes.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa

from clip_kinetics700.features import META_TYPE, embeddings_array
from clip_kinetics700.remote import BUFFER_SIZE
from clip_kinetics700.schema import KEY_NAME, decode_npy, format_upstream_time
from clip_kinetics700.tars import BLOCK, ZERO_BLOCK
from clip_kinetics700_builder.dataset.problems import DamagedFileError
from clip_kinetics700_builder.types import Float16Array

# A batch of very long videos is closed early, so that memory stays bounded.
BYTES_PER_BATCH = 64 << 20
# What every header of ours says, whatever its name, size and checksum.
HEADER = tarfile.TarInfo("-").tobuf(tarfile.USTAR_FORMAT)
HEADER_FIELDS = {
    "mode": slice(100, 108),
    "owner": slice(108, 116),
    "group": slice(116, 124),
    "mtime": slice(136, 148),
    "type": slice(156, 157),
    "link name": slice(157, 257),
    "magic": slice(257, 265),
    "owner name": slice(265, 297),
    "group name": slice(297, 329),
    "rest": slice(329, 512),
}
NAME, SIZE, CHECKSUM = slice(0, 100), slice(124, 136), slice(148, 156)
SIZE_DIGITS = re.compile(rb"[0-7]{11}")
# The checksum field itself counts as eight blanks in the sum.
CHECKSUM_BLANK = 8 * ord(" ")
HEADER_SUM = CHECKSUM_BLANK + sum(HEADER) - sum(sum(HEADER[p]) for p in (NAME, SIZE, CHECKSUM))
META_NAMES = tuple(field.name for field in META_TYPE)
JSON_NAMES = {"videoID", "start_time", "end_time", *META_NAMES}
INTEGER_NAMES = tuple(field.name for field in META_TYPE if pa.types.is_integer(field.type))


class TarReader:
    """Reads the samples of one tar in order, as far as they are what they must be."""

    def __init__(self, stream: io.BufferedIOBase, *, first: int, width: int) -> None:
        """Read from the start of an open tar, whose first sample has that number."""
        self._stream = stream
        self._number = first
        self._width = width
        self._offset = 0
        self._size = stream.seek(0, io.SEEK_END)
        stream.seek(0)

    def next(self, limit: int) -> pa.RecordBatch:
        """Return the next samples, at least one and at most `limit`.

        Raises:
            DamagedFileError: the next one is not what it must be, or there is none.
        """
        documents: list[dict[str, Any]] = []
        arrays: list[Float16Array] = []
        captions: list[str] = []
        places: list[tuple[int, int]] = []
        begin = self._offset
        while len(documents) < limit and self._offset - begin < BYTES_PER_BATCH:
            key = KEY_NAME.format(self._number)
            documents.append(parse_document(key, self._read_member(f"{key}.json")))
            npy = self._read_member(f"{key}.npy")
            arrays.append(parse_npy(key, npy, self._width))
            places.append((self._offset - -(-len(npy) // BLOCK) * BLOCK, len(npy)))
            captions.append(parse_caption(key, self._read_member(f"{key}.txt")))
            self._number += 1
        columns = {
            "embeddings": embeddings_array(arrays, self._width),
            "caption": pa.array(captions, pa.string()),
            "meta": make_meta(documents),
            "npy_offset": pa.array([offset for offset, _ in places], pa.int64()),
            "npy_nbytes": pa.array([nbytes for _, nbytes in places], pa.int64()),
        }
        return pa.RecordBatch.from_pydict(columns)

    def finish(self) -> None:
        """Check that nothing but the end mark follows.

        Raises:
            DamagedFileError: something else does.
        """
        tail = self._stream.read(2 * tarfile.RECORDSIZE)
        if tail.strip(b"\0"):
            raise DamagedFileError(f"holds more than its samples from byte {self._offset} on")
        if len(tail) < 2 * BLOCK or self._size % tarfile.RECORDSIZE or self._stream.read(1):
            raise DamagedFileError(f"does not end as a tar of ours does after byte {self._offset}")

    def _read_member(self, name: str) -> bytes:
        """Return the bytes of the next member, which must have this name."""
        block = self._stream.read(BLOCK)
        if len(block) < BLOCK:
            raise DamagedFileError(f"cut short at byte {self._size}, where {name} belongs")
        if block == ZERO_BLOCK:
            raise DamagedFileError(f"ends at byte {self._offset}, where {name} belongs")
        nbytes = parse_header(block, name, self._offset)
        self._offset += BLOCK
        padded = -(-nbytes // BLOCK) * BLOCK
        if self._offset + padded > self._size:
            raise DamagedFileError(f"cut short at byte {self._size}, within {name}")
        self._offset += padded
        data = self._stream.read(padded)
        if data[nbytes:].strip(b"\0"):
            raise DamagedFileError(f"the padding after {name} is not zero")
        return data[:nbytes]


@contextmanager
def open_tar_reader(path: Path, *, first: int, width: int) -> Iterator[TarReader]:
    """Open a tar whose first sample has that number in the dataset."""
    with io.BufferedReader(io.FileIO(path), BUFFER_SIZE) as stream:
        yield TarReader(stream, first=first, width=width)


def parse_header(block: bytes, name: str, offset: int) -> int:
    """Return the size of the member whose header this is; it must be exactly ours.

    Raises:
        DamagedFileError: it is not; the first thing that differs is named.
    """
    digits = block[SIZE][:-1]
    if SIZE_DIGITS.fullmatch(digits) and block == make_header(name, block[SIZE]):
        return int(digits, 8)
    checksum = sum(block) - sum(block[CHECKSUM]) + CHECKSUM_BLANK
    if block[CHECKSUM] != format_checksum(checksum):
        raise DamagedFileError(f"damaged header at byte {offset}, where {name} belongs")
    if block[NAME] != name.encode("ascii").ljust(100, b"\0"):
        found = block[NAME].rstrip(b"\0").decode("utf-8", "replace")
        raise DamagedFileError(f"member {found!r} at byte {offset}, where {name} belongs")
    raise DamagedFileError(f"member {name}: {describe_header(block)}")


def make_header(name: str, size: bytes) -> bytes:
    """Return the header of a member of ours, given its size as the header spells it."""
    raw_name = name.encode("ascii")
    checksum = format_checksum(HEADER_SUM + sum(raw_name) + sum(size))
    parts = raw_name.ljust(100, b"\0"), HEADER[100:124], size, HEADER[136:148], checksum
    return b"".join((*parts, HEADER[156:]))


def format_checksum(checksum: int) -> bytes:
    """Return a checksum as headers spell it."""
    return b"%06o\0 " % checksum


def describe_header(block: bytes) -> str:
    """Return which field of a header is not ours; name and checksum are."""
    differs = [name for name, part in HEADER_FIELDS.items() if block[part] != HEADER[part]]
    if not differs:
        return f"the header's size is {block[SIZE]!r}"
    found, ours = block[HEADER_FIELDS[differs[0]]], HEADER[HEADER_FIELDS[differs[0]]]
    shown = found.rstrip(b"\0"), ours.rstrip(b"\0")
    return f"the header's {differs[0]} is {shown[0]!r}, ours is {shown[1]!r}"


def parse_document(key: str, data: bytes) -> dict[str, Any]:
    """Return the object of a json member, with exactly the fields and spellings of ours."""
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"sample {key}: the json member is not JSON") from error
    if not isinstance(document, dict) or document.keys() != JSON_NAMES:
        names = sorted(document) if isinstance(document, dict) else document
        raise DamagedFileError(f"sample {key}: the json member holds {names!r:.200}")
    for name in INTEGER_NAMES:
        if type(document[name]) not in (int, NoneType):
            raise DamagedFileError(
                f"sample {key}: {name} of the json member is {document[name]!r:.80}, "
                "a whole number or null is allowed"
            )
    times = (format_upstream_time(document[name]) for name in ("time_start", "time_end"))
    upstream = (document["youtube_id"], *times)
    if (document["videoID"], document["start_time"], document["end_time"]) != upstream:
        raise DamagedFileError(
            f"sample {key}: videoID, start_time and end_time of the json member are not "
            f"{upstream!r:.120}"
        )
    return document


def parse_caption(key: str, data: bytes) -> str:
    """Return the caption of a txt member."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DamagedFileError(f"sample {key}: the txt member is not utf-8") from error


def parse_npy(key: str, data: bytes, width: int) -> Float16Array:
    """Return the (n_frames, width) float16 array of an npy member."""
    # numpy pads headers, so that one of one frame is as long as any.
    begin = len(npy_header(1, width))
    n_frames, rest = divmod(len(data) - begin, 2 * width)
    if n_frames < 1 or rest or not data.startswith(npy_header(n_frames, width)):
        raise DamagedFileError(f"sample {key}: {describe_npy(data, width)}")
    return np.frombuffer(data, "<f2", offset=begin).reshape(n_frames, width)


@lru_cache(maxsize=4096)
def npy_header(n_frames: int, width: int) -> bytes:
    """Return the header that our npy members of this shape have."""
    buffer = io.BytesIO()
    header = {"descr": "<f2", "fortran_order": False, "shape": (n_frames, width)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def describe_npy(data: bytes, width: int) -> str:
    """Return in what an npy member is not as ours are."""
    try:
        array = decode_npy(data)
    except ValueError as error:
        return f"the npy member is damaged: {error}"
    order = "C" if array.flags.c_contiguous else "Fortran"
    return (
        f"the npy member has format {data[6]}.{data[7]}, dtype {array.dtype.str}, "
        f"shape {array.shape} and {order} order; ours has format 1.0, dtype <f2, "
        f"shape (1 or more, {width}), C order and numpy's own header"
    )


def make_meta(documents: list[dict[str, Any]]) -> pa.StructArray:
    """Return json members as the `meta` column.

    Raises:
        DamagedFileError: a value is not of its column's type.
    """
    try:
        return pa.array(documents, META_TYPE)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        if len(documents) > 1:
            for document in documents:
                make_meta([document])
        key = documents[0]["key"]
        raise DamagedFileError(
            f"sample {key!r:.40}: a value of the json member is not of its type: {error}"
        ) from error
