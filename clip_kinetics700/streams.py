"""Reads files from first to last, or at random, wherever they lie.

Local files are never mapped: one that is cut short under a map ends the process by a signal. A
remote file is read in ranges that are tried again by themselves, the next ones being fetched
meanwhile: one failure late in a long file must not cost all of it.
"""

import errno
import gzip
import io
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
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
from .states import ChangedError, FileStates, local_state

# Whoever looks at the start of a file only must not pay for megabytes: ranges grow from this size
# by this factor, and so does the number of those that are on their way.
FIRST_RANGE_BYTES = 128 << 10
GROWTH = 8
MAX_RANGES_AHEAD = 4
GZIP_MAGIC = b"\x1f\x8b"

# A file that is in memory as a whole may be this large, and one of text that people write this.
MAX_WHOLE_BYTES = 1 << 30
MAX_TEXT_BYTES = 64 << 20
# What is packed may become a hundred times as large, and this large at least: embeddings become
# 1.1 times, zeros a thousand times.
MAX_RATIO = 100
MIN_UNPACKED_BYTES = 512 << 20


def max_unpacked(nbytes: int) -> int:
    """Return how many bytes may come of packed ones."""
    return max(MAX_RATIO * nbytes, MIN_UNPACKED_BYTES)


def open_local(path: str, states: FileStates | None = None) -> io.FileIO:
    """Open a local file to be read.

    Raises:
        FileNotFoundError: there is no such file.
        ChangedError: it is another one than what was noted.
        ValueError: it is a directory, or a FIFO or a device, which may never end.
        OSError: the file was noted, and all of its directory is gone with it.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(io.FileIO(path, opener=_open_at_once))
        except FileNotFoundError as error:
            if states is not None and path in states and not _holds_something(path):
                why = "is gone with its directory: was that moved, or is a disk not mounted?"
                raise OSError(errno.ENODEV, why, path) from error
            raise
        except IsADirectoryError as error:
            raise ValueError(f"{path}: is no regular file, but a directory") from error
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path}: is no regular file")
        if states is not None:
            states.check(path, local_state(status))
        stack.pop_all()
    return file


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for somebody to write into it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _holds_something(path: str) -> bool:
    """Tell whether the directory of a path is there and holds anything."""
    try:
        with os.scandir(Path(path).parent) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def open_stream(path: str, states: FileStates | None = None) -> io.BufferedReader:
    """Open a local file, or one at any fsspec URL, to be read from first to last."""
    is_here = not is_remote(path)
    raw = open_local(path, states) if is_here else ChunkStream(read_chunks(path, states))
    return io.BufferedReader(raw, BUFFER_SIZE)


@contextmanager
def open_unpacked(path: str, states: FileStates | None = None) -> Iterator[io.BufferedReader]:
    """Open what a file holds, be it packed by gzip or not.

    Its name does not tell: some web servers unpack what they send.
    """
    with open_stream(path, states) as raw:
        if raw.peek(len(GZIP_MAGIC))[: len(GZIP_MAGIC)] == GZIP_MAGIC:
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield io.BufferedReader(ChunkStream(_unpack(raw, unpacked)), BUFFER_SIZE)
        else:
            yield raw


def _unpack(raw: io.BufferedReader, unpacked: gzip.GzipFile) -> Iterator[bytes]:
    """Yield what a packed stream holds; more than can be meant is a ValueError."""
    n_came = 0
    while data := unpacked.read(BUFFER_SIZE):
        n_came += len(data)
        if n_came > max_unpacked(raw.tell()):
            raise ValueError(
                f"{raw.tell():,} bytes of gzip hold more than {max_unpacked(raw.tell()):,}, which "
                "is more than embeddings can take"
            )
        yield data


def read_whole(
    path: str, states: FileStates | None = None, *, at_most: int = MAX_WHOLE_BYTES
) -> bytes:
    """Return the bytes of a local file, or of one at any fsspec URL.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is longer than `at_most`, no regular file, or has changed.
        OSError: it cannot be read.
    """
    pieces, n_came = [], 0
    with open_stream(path, states) as stream:
        while piece := stream.read1(MAX_RANGE_BYTES):
            n_came += len(piece)
            if n_came > at_most:
                raise ValueError(f"{path}: is longer than {at_most:,} bytes, which are allowed")
            pieces.append(piece)
    return b"".join(pieces)


def read_if_there(
    path: str, states: FileStates | None = None, *, at_most: int = MAX_WHOLE_BYTES
) -> bytes | None:
    """Return the bytes of a file, or None where there is none; it raises what `read_whole` does."""
    try:
        return read_whole(path, states, at_most=at_most)
    except FileNotFoundError:
        return None


def read_chunks(url: str, states: FileStates | None = None) -> Iterator[bytes | memoryview]:
    """Yield a remote file from first to last, the next chunks being fetched meanwhile."""
    location = locate(url)
    try:
        data, size, _ = read_head(location, FIRST_RANGE_BYTES, states)
    except NoRangesError:
        data, size = b"", None
    if size is None:
        yield from _read_in_one(location)
        return
    yield data
    yield from read_rest(url, len(data), size, states)


def read_rest(
    url: str, begin: int, size: int, states: FileStates | None = None
) -> Iterator[memoryview]:
    """Yield `[begin, size)` of a remote file, the next chunks being fetched meanwhile.

    Raises:
        ChangedError: it is another file than what was noted.
        OSError: it cannot be read, or ends before.
    """
    reader = RangeReader(MAX_RANGES_AHEAD, states)
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
        if isinstance(view, ChangedError):
            raise view
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
        self._at = 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def tell(self) -> int:
        """Return the byte that comes next."""
        return self._at

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
        self._at += nbytes
        return nbytes


class RangeFile(io.RawIOBase):
    """Reads a remote file at random: what is asked for is fetched, in several ranges at once."""

    def __init__(self, url: str, states: FileStates | None = None) -> None:
        """Ask for the size of the file.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: it cannot be read, or its server does not say how long it is.
        """
        self._url = url
        size = read_head(locate(url), 1, states).size
        if size is None:
            raise OSError(f"{url}: its server does not say how long it is")
        self._size = size
        self._at = 0
        self._reader = RangeReader(states=states)

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
