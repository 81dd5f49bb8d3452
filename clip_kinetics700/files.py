"""The bytes of files: memory-mapped where local, byte ranges where remote, many in flight.

In: paths or fsspec URLs. Out: buffers, none of them a copy where the file is local.
It imports nothing of ours, so the `datasets` script can carry it.
"""

import gzip
import io
import mmap
import os
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import fsspec

BUFFER_SIZE = 1 << 20
# Maps of local files are kept for the next read up to this many bytes; pages of a map count as
# resident memory, and a full-size dataset is 8 GB.
MAX_MAPPED_BYTES = 256 << 20
# Byte ranges of a remote file nearer than this are read as one: at 50 ms and 100 MB/s a request
# costs as much as 5 MB, but sixteen run at once.
MAX_GAP_BYTES = 128 << 10
MAX_RANGE_BYTES = 4 << 20
MAX_IN_FLIGHT = 16
ATTEMPTS = 4
RANGE_NOT_SATISFIABLE = 416
TRY_AGAIN = (408, 429)


def is_remote(path: str) -> bool:
    """Tell whether a path is an fsspec URL."""
    return "://" in path


def open_stream(path: str) -> io.BufferedReader:
    """Open a local file, or one at any fsspec URL, to be read from first to last."""
    if is_remote(path):
        return io.BufferedReader(fsspec.open(path, "rb").open(), BUFFER_SIZE)
    return io.BufferedReader(io.FileIO(path), BUFFER_SIZE)


def read_whole(path: str) -> bytes:
    """Return the bytes of a local file, or of one at any fsspec URL.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
    """
    if not is_remote(path):
        return Path(path).read_bytes()
    file_system, name = fsspec.core.url_to_fs(path)
    return bytes(retry(lambda: file_system.cat_file(name), path))


def read_if_there(path: str) -> bytes | None:
    """Return the bytes of a file, or None where there is none.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return read_whole(path)
    except FileNotFoundError:
        return None


def map_file(path: str) -> memoryview:
    """Return a read-only view of a local file, in memory only where it is touched."""
    with io.FileIO(path) as file:
        return _map_open_file(file.fileno())


def _map_open_file(descriptor: int) -> memoryview:
    """Return a read-only view of an open file; an empty one cannot be mapped."""
    if os.fstat(descriptor).st_size == 0:
        return memoryview(b"")
    return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))


def is_gzip_name(path: str) -> bool:
    """Tell by its name whether a file is compressed, so that ranges of it say nothing."""
    return path.lower().endswith((".gz", ".tgz"))


def unpack_file(path: str) -> memoryview:
    """Return a view of what gzip holds, on disk in a file without a name until it is dropped."""
    with open_stream(path) as raw, tempfile.TemporaryFile() as unpacked:
        with gzip.GzipFile(fileobj=raw) as source:
            shutil.copyfileobj(source, unpacked, BUFFER_SIZE)
        unpacked.flush()
        return _map_open_file(unpacked.fileno())


class Buffers:
    """Views of whole files, the most recent ones kept."""

    def __init__(self, max_bytes: int = MAX_MAPPED_BYTES) -> None:
        """Keep at most so many bytes mapped, and always the last file."""
        self._max_bytes = max_bytes
        self._views: OrderedDict[str, memoryview] = OrderedDict()

    def __reduce__(self) -> tuple[type["Buffers"], tuple[int]]:
        """Another process maps the files itself."""
        return Buffers, (self._max_bytes,)

    def view(self, path: str) -> memoryview:
        """Return a view of a local file, or of what a compressed one holds.

        Raises:
            OSError: there is no such file, or it is not what gzip writes.
        """
        view = self._views.get(path)
        if view is None:
            view = unpack_file(path) if is_gzip_name(path) else map_file(path)
            self._views[path] = view
            while len(self._views) > 1 and self._nbytes() > self._max_bytes:
                # Arrays that still point into it keep the map alive.
                self._views.popitem(last=False)
        else:
            self._views.move_to_end(path)
        return view

    def _nbytes(self) -> int:
        return sum(map(len, self._views.values()))


class Piece(NamedTuple):
    """Bytes that are wanted: `[begin, end)` of a file."""

    path: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class ByteRange:
    """One request: `[begin, end)` of a file, and which wanted pieces lie in it."""

    path: str
    begin: int
    end: int
    pieces: tuple[int, ...]
    """Indices of the pieces."""


def merge_pieces(
    pieces: Sequence[Piece],
    *,
    max_gap_bytes: int = MAX_GAP_BYTES,
    max_range_bytes: int = MAX_RANGE_BYTES,
) -> list[ByteRange]:
    """Return the requests that bring all pieces, near ones of one file merged.

    A range is cut before it grows beyond `max_range_bytes`; a piece is never cut.
    """
    ranges: list[ByteRange] = []
    group: list[int] = []
    path, begin, end = "", 0, 0
    for number in sorted(range(len(pieces)), key=pieces.__getitem__):
        piece = pieces[number]
        is_near = group and piece.path == path and piece.begin - end <= max_gap_bytes
        if is_near and max(end, piece.end) - begin <= max_range_bytes:
            end = max(end, piece.end)
        else:
            if group:
                ranges.append(ByteRange(path, begin, end, tuple(group)))
            group = []
            path, begin, end = piece
        group.append(number)
    if group:
        ranges.append(ByteRange(path, begin, end, tuple(group)))
    return ranges


class RangeReader:
    """Reads byte ranges of remote files, sixteen at a time."""

    def __init__(self, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        """Open nothing yet."""
        self._max_in_flight = max_in_flight

    def __reduce__(self) -> tuple[type["RangeReader"], tuple[int]]:
        """Threads stay in their process."""
        return RangeReader, (self._max_in_flight,)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._max_in_flight, thread_name_prefix="byte-ranges")

    def start(self, pieces: Sequence[Piece]) -> Callable[[], list[memoryview | ValueError]]:
        """Ask for pieces; the function that is returned waits for them.

        A piece that its file ends before is a ValueError in its place. The function raises OSError
        where a file is not there or cannot be read.
        """
        ranges = merge_pieces(pieces)
        futures = [self._pool.submit(read_range, r.path, r.begin, r.end) for r in ranges]
        return lambda: _cut_pieces(pieces, ranges, futures)


def _cut_pieces(
    pieces: Sequence[Piece], ranges: Iterable[ByteRange], futures: Iterable[Future[bytes]]
) -> list[memoryview | ValueError]:
    """Return a view of each piece, in the order they were asked for."""
    views: list[memoryview | ValueError] = [memoryview(b"")] * len(pieces)
    for byte_range, future in zip(ranges, futures, strict=True):
        data = memoryview(future.result())
        for number in byte_range.pieces:
            _, begin, end = pieces[number]
            view = data[begin - byte_range.begin : end - byte_range.begin]
            size = byte_range.begin + len(data)
            is_whole = len(view) == end - begin
            views[number] = view if is_whole else ValueError(f"the file ends at byte {size}")
    return views


def read_range(path: str, begin: int, end: int) -> bytes:
    """Return `[begin, end)` of a remote file, less where it ends before.

    Raises:
        OSError: the file is not there or cannot be read, also not after several attempts.
    """
    file_system, name = fsspec.core.url_to_fs(path)
    data = retry(lambda: file_system.cat_file(name, start=begin, end=end), path)
    if len(data) > end - begin:
        raise OSError(f"{path}: the server answers with the whole file, it knows no byte ranges")
    return bytes(data)


def retry(read: Callable[[], bytes], path: str) -> bytes:
    """Return what a read of a remote file returns, tried again after a failure in passing.

    Raises:
        OSError: the file is not there, is refused, or the last attempt failed too.
    """
    attempt = 1
    while isinstance(answer := _attempt(read), BaseException):
        status = getattr(answer, "status", None)
        if status == RANGE_NOT_SATISFIABLE:
            return b""
        is_final = status is not None and status < 500 and status not in TRY_AGAIN
        if isinstance(answer, FileNotFoundError):
            raise answer
        if is_final or attempt == ATTEMPTS:
            reason = str(answer) or type(answer).__name__
            raise OSError(f"{path}: {reason} (attempt {attempt})") from answer
        time.sleep(0.25 * 2**attempt)
        attempt += 1
    return answer


def _attempt(read: Callable[[], bytes]) -> bytes | BaseException:
    """Return what a read returns, or what the network made of it."""
    try:
        return read()
    except _network_errors() as error:
        return error


def _network_errors() -> tuple[type[BaseException], ...]:
    """Return what connections raise; aiohttp, under fsspec's HTTP, has errors of its own."""
    try:
        from aiohttp import ClientError
    except ImportError:
        return (OSError, TimeoutError)
    return (OSError, TimeoutError, ClientError)
