"""Byte ranges of remote files, many in flight: pieces that are wanted, merged into requests.

In: pieces of files. Out: a view of each, in the order they were asked for.
"""

import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import NamedTuple, TypeAlias

from .files import Place, locate, read_range

# Byte ranges of a remote file nearer than this are read as one: at 50 ms and 100 MB/s a request
# costs as much as 5 MB, but sixteen run at once.
MAX_GAP_BYTES = 128 << 10
MAX_RANGE_BYTES = 4 << 20
MAX_IN_FLIGHT = 16

Views: TypeAlias = list[memoryview | ValueError]


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


class Request(NamedTuple):
    """What a thread is to do."""

    place: Place
    begin: int
    end: int
    answer: "weakref.ref[Future[bytes]]"
    """Gone where nobody waits for it any more; then nothing is asked for."""


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
    """Reads byte ranges of remote files, sixteen at a time.

    Its threads are daemons, which a program does not wait for at its end; a forked process begins
    with none and starts its own.
    """

    def __init__(self, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        """Start nothing yet."""
        self._max_in_flight = max_in_flight
        self._begin()

    def __reduce__(self) -> tuple[type["RangeReader"], tuple[int]]:
        """Threads stay in their process."""
        return RangeReader, (self._max_in_flight,)

    def _begin(self) -> None:
        """Begin without threads."""
        self._process = os.getpid()
        self._n_threads = 0
        self._requests: SimpleQueue[Request | None] = SimpleQueue()
        ending = weakref.finalize(self, _end_threads, self._requests, self._max_in_flight)
        ending.atexit = False

    def start(self, pieces: Sequence[Piece]) -> Callable[[], Views]:
        """Ask for pieces; the function that is returned waits for them.

        Dropped before, it takes back what was not sent yet. A piece that its file ends before, or
        whose file is not there, is a ValueError in its place. The function raises OSError where a
        file cannot be read.
        """
        ranges = merge_pieces(pieces)
        if os.getpid() != self._process:
            self._begin()
        places = {path: locate(path) for path in dict.fromkeys(r.path for r in ranges)}
        futures = [self._submit(places[r.path], r.begin, r.end) for r in ranges]
        return lambda: _cut_pieces(pieces, ranges, futures)

    def _submit(self, place: Place, begin: int, end: int) -> Future[bytes]:
        """Queue a request."""
        future: Future[bytes] = Future()
        self._requests.put(Request(place, begin, end, weakref.ref(future)))
        if self._n_threads < self._max_in_flight:
            self._n_threads += 1
            Thread(target=_answer_requests, args=(self._requests,), daemon=True).start()
        return future


def _end_threads(requests: "SimpleQueue[Request | None]", n_threads: int) -> None:
    """Tell the threads of a reader that is gone to end."""
    for _ in range(n_threads):
        requests.put(None)


def _answer_requests(requests: "SimpleQueue[Request | None]") -> None:
    """Read one range after another until told to end."""
    while (request := requests.get()) is not None:
        future = request.answer()
        if future is not None:
            with HandOver(future):
                future.set_result(read_range(request.place, request.begin, request.end))
        # What was read is not to be kept while waiting.
        del future, request


class HandOver:
    """Hands whatever is raised inside to who waits for the result."""

    def __init__(self, future: Future[bytes]) -> None:
        """Settle this one."""
        self._future = future

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Hand over an error."""
        if error is not None:
            self._future.set_exception(error)
        return True


def _cut_pieces(
    pieces: Sequence[Piece], ranges: Iterable[ByteRange], futures: Iterable[Future[bytes]]
) -> Views:
    """Return a view of each piece, in the order they were asked for."""
    views: Views = [memoryview(b"")] * len(pieces)
    for byte_range, future in zip(ranges, futures, strict=True):
        try:
            data = memoryview(future.result())
        except FileNotFoundError:
            for number in byte_range.pieces:
                views[number] = ValueError("the file is not there")
            continue
        for number in byte_range.pieces:
            _, begin, end = pieces[number]
            view = data[begin - byte_range.begin : end - byte_range.begin]
            size = byte_range.begin + len(data)
            views[number] = view if len(view) == end - begin else file_ends(size)
    return views


def file_ends(size: int) -> ValueError:
    """Return what takes the place of bytes that would lie behind the end of their file."""
    return ValueError(f"the file ends at byte {size}")
