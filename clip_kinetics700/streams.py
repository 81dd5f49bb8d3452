"""Reads files from first to last, or at random, wherever they lie.

A remote file is read in ranges that are tried again by themselves, the next ones being fetched
meanwhile: one failure late in a long file must not cost all of it.
"""

import gzip
import io
import mmap
import os
import shutil
import tempfile
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, cast

from .remote import (
    BUFFER_SIZE,
    MAX_RANGE_BYTES,
    Location,
    NoRangesError,
    Piece,
    RangeReader,
    Views,
    is_remote,
    locate,
    network_errors,
    read_head,
    retry,
)

# Whoever looks at the start of a file only must not pay for megabytes: ranges grow from this size
# by this factor, and so does the number of those that are on their way.
FIRST_RANGE_BYTES = 128 << 10
GROWTH = 8
MAX_RANGES_AHEAD = 4
# Maps of local files are kept for the next read up to this many bytes: pages of a map count as
# resident memory, and a full-size dataset is 8 GB.
MAX_MAPPED_BYTES = 256 << 20
GZIP_MAGIC = b"\x1f\x8b"


def open_stream(path: str) -> io.BufferedReader:
    """Open a local file, or one at any fsspec URL, to be read from first to last."""
    raw = ChunkStream(read_chunks(path)) if is_remote(path) else io.FileIO(path)
    return io.BufferedReader(raw, BUFFER_SIZE)


@contextmanager
def open_unpacked(path: str) -> Iterator[io.BufferedReader]:
    """Open what a file holds, be it packed by gzip or not.

    Its name does not tell: some web servers unpack what they send.
    """
    with open_stream(path) as raw:
        if raw.peek(len(GZIP_MAGIC))[: len(GZIP_MAGIC)] == GZIP_MAGIC:
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield io.BufferedReader(unpacked, BUFFER_SIZE)
        else:
            yield raw


def read_whole(path: str) -> bytes:
    """Return the bytes of a local file, or of one at any fsspec URL.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
    """
    return b"".join(read_chunks(path)) if is_remote(path) else Path(path).read_bytes()


def read_if_there(path: str) -> bytes | None:
    """Return the bytes of a file, or None where there is none."""
    try:
        return read_whole(path)
    except FileNotFoundError:
        return None


def read_chunks(url: str) -> Iterator[bytes | memoryview]:
    """Yield a remote file from first to last, the next chunks being fetched meanwhile."""
    location = locate(url)
    try:
        data, size, _ = read_head(location, FIRST_RANGE_BYTES)
    except NoRangesError:
        data, size = b"", None
    if size is None:
        yield from _read_in_one(location)
        return
    yield data
    yield from read_rest(url, len(data), size)


def read_rest(url: str, begin: int, size: int) -> Iterator[memoryview]:
    """Yield `[begin, size)` of a remote file, the next chunks being fetched meanwhile.

    Raises:
        OSError: it cannot be read, or ends before.
    """
    reader = RangeReader(MAX_RANGES_AHEAD)
    ahead: deque[Callable[[], Views]] = deque()
    nbytes, n_ahead = FIRST_RANGE_BYTES, 2
    while begin < size or ahead:
        while begin < size and len(ahead) < n_ahead:
            nbytes = min(GROWTH * nbytes, MAX_RANGE_BYTES)
            end = min(begin + nbytes, size)
            ahead.append(reader.start([Piece(url, begin, end)]))
            begin = end
        yield from _require_whole(url, ahead.popleft()())
        n_ahead = min(2 * n_ahead, MAX_RANGES_AHEAD)


def _require_whole(url: str, views: Views) -> list[memoryview]:
    """Return pieces of a file, or raise OSError where it has ended before one of them."""
    for view in views:
        if isinstance(view, ValueError):
            raise OSError(f"{url}: has become shorter while it was read: {view}")
    return cast("list[memoryview]", views)


def _read_in_one(location: Location) -> Iterator[bytes]:
    """Yield a file whose server knows no ranges; a failure in the middle is final."""
    url, file_system, name = location
    with retry(lambda: file_system.open(name, "rb", block_size=0), url) as file:
        while True:
            try:
                data = file.read(BUFFER_SIZE)
            except network_errors() as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise ConnectionError(f"{url}: {reason}") from error
            if not data:
                return
            yield data


class ChunkStream(io.RawIOBase):
    """Makes a stream of chunks of bytes."""

    def __init__(self, chunks: Iterator[bytes | memoryview]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Copy what comes next into a buffer; 0 bytes are the end."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        target = memoryview(buffer)
        nbytes = min(len(target), len(self._rest))
        target[:nbytes] = self._rest[:nbytes]
        self._rest = self._rest[nbytes:]
        return nbytes


class RangeFile(io.RawIOBase):
    """Reads a remote file at random: what is asked for is fetched, in several ranges at once."""

    def __init__(self, url: str) -> None:
        """Ask for the size of the file.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: it cannot be read, or its server does not say how long it is.
        """
        self._url = url
        size = read_head(locate(url), 1).size
        if size is None:
            raise OSError(f"{url}: its server does not say how long it is")
        self._size = size
        self._at = 0
        self._reader = RangeReader()

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be read anywhere."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a byte."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def tell(self) -> int:
        """Return the byte that comes next."""
        return self._at

    def read(self, nbytes: int | None = -1, /) -> bytes:
        """Return the next bytes, all that there are where no number is given."""
        begin = min(self._at, self._size)
        end = self._size if nbytes is None or nbytes < 0 else min(begin + nbytes, self._size)
        cuts = range(begin, end, MAX_RANGE_BYTES)
        pieces = [Piece(self._url, cut, min(cut + MAX_RANGE_BYTES, end)) for cut in cuts]
        data = b"".join(_require_whole(self._url, self._reader.start(pieces)()))
        self._at = end
        return data


def map_file(path: str) -> memoryview:
    """Return a read-only view of a local file, in memory only where it is touched."""
    with io.FileIO(path) as file:
        return _map_open_file(file.fileno())


def _map_open_file(descriptor: int) -> memoryview:
    # An empty file cannot be mapped.
    if os.fstat(descriptor).st_size == 0:
        return memoryview(b"")
    return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))


def view_file(path: str) -> memoryview:
    """Return a view of a local file; of a remote or packed one, of a copy of what it holds.

    The copy lies on disk, in a file without a name, until the view is dropped.
    """
    if not is_remote(path):
        view = map_file(path)
        if view[: len(GZIP_MAGIC)] != GZIP_MAGIC:
            return view
    with open_unpacked(path) as source, tempfile.TemporaryFile() as unpacked:
        shutil.copyfileobj(source, unpacked, BUFFER_SIZE)
        unpacked.flush()
        return _map_open_file(unpacked.fileno())


class Buffers:
    """Gives views of whole files, and keeps the most recent ones."""

    def __init__(self, max_bytes: int = MAX_MAPPED_BYTES) -> None:
        """Keep at most so many bytes mapped, and always the last file."""
        self._max_bytes = max_bytes
        self._views: OrderedDict[str, memoryview] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type["Buffers"], tuple[int]]:
        """Let another process map the files itself."""
        return Buffers, (self._max_bytes,)

    def view(self, path: str) -> memoryview:
        """Return what `view_file` returns."""
        with self._lock:
            view = self._views.get(path)
            if view is None:
                view = self._views[path] = view_file(path)
            self._views.move_to_end(path)
            # Arrays that still point into a map keep it alive.
            while len(self._views) > 1 and sum(map(len, self._views.values())) > self._max_bytes:
                self._views.popitem(last=False)
        return view
