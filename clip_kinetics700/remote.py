"""Reads byte ranges of remote files, and tries again what failed only in passing."""

import asyncio
import os
import re
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias, TypeVar
from urllib.request import getproxies

import fsspec
from fsspec.asyn import sync

from .states import ChangedError, FileState, FileStates

Result = TypeVar("Result")

BUFFER_SIZE = 1 << 20
HTTP_PREFIXES = ("http://", "https://")
ATTEMPTS = 4
# The pause before the second attempt; it doubles before each one after.
PAUSE_SECONDS = 0.5
# The longest pause that a server may ask for by `Retry-After`.
MAX_PAUSE_SECONDS = 60.0
# A connection that is silent for so long is given up; one range is a few megabytes.
SILENCE_SECONDS = 30
PARTIAL_CONTENT, NOT_FOUND, RANGE_NOT_SATISFIABLE = 206, 404, 416
TRY_AGAIN = (408, 429)
# The query of a signed link is as good as a password for a while: no message may show it.
SIGNATURE = re.compile(r"(?<=\S)\?\S+")
CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
# Pieces of a file that lie nearer than this are read as one range: at 50 ms and 100 MB/s a request
# costs as much as 5 MB, but sixteen run at once.
MAX_GAP_BYTES = 128 << 10
MAX_RANGE_BYTES = 4 << 20
MAX_IN_FLIGHT = 16


class NoRangesError(OSError):
    """A server answers with whole files only, whatever range is asked for."""


class Location(NamedTuple):
    """A remote file with what reads it, found once so that threads share its connections."""

    url: str
    file_system: Any
    name: str
    """What the file system calls it."""


class Answer(NamedTuple):
    """The first bytes of a remote file, and what its server says about all of it."""

    data: bytes
    size: int | None
    """Bytes of the whole file; None where the server does not say."""
    version: str | None
    """Its ETag, or when it was changed last: files whose versions differ are not the same."""


class Piece(NamedTuple):
    """Bytes that are wanted: `[begin, end)` of a file."""

    path: str
    begin: int
    end: int


@dataclass(slots=True)
class ByteRange:
    """One request: `[begin, end)` of a file, and which wanted pieces lie in it."""

    path: str
    begin: int
    end: int
    pieces: list[int]
    """Indices of the pieces."""


Views: TypeAlias = list[memoryview | ValueError]


Request: TypeAlias = "tuple[weakref.ref[Future[bytes]], Callable[[], bytes]]"
"""A future that is gone where nobody waits for it any more, and the read that gives its result."""


def is_remote(path: str) -> bool:
    """Tell whether a path is an fsspec URL."""
    return "://" in path


def strip_query(path: str) -> str:
    """Return a path without what follows `?` in the URL of a web server, such as a signature."""
    return path.partition("?")[0] if path.startswith(HTTP_PREFIXES) else path


def is_gzip_name(path: str) -> bool:
    """Tell by its name whether a file is compressed, so that ranges of it say nothing."""
    return strip_query(path).lower().endswith((".gz", ".tgz"))


def locate(url: str) -> Location:
    """Return a remote file or directory with the file system of its URL."""
    options = {}
    if url.startswith(HTTP_PREFIXES) and getproxies():
        # aiohttp asks no proxy of the environment by itself; where there is none, looking for it
        # takes half a millisecond of each request.
        configured = fsspec.config.conf.get("http", {}).get("client_kwargs", {})
        options["client_kwargs"] = {"trust_env": True, **configured}
    return Location(url, *fsspec.core.url_to_fs(url, **options))


def read_range(location: Location, begin: int, end: int, states: FileStates | None = None) -> bytes:
    """Return `[begin, end)` of a remote file, less where the file ends before.

    A web server says with each answer in which state the file is.

    Raises:
        FileNotFoundError: there is no such file.
        ChangedError: its state is another one than what was noted.
        NoRangesError: its server knows no byte ranges.
        OSError: it cannot be read, not even after several attempts.
    """
    url, file_system, name = location
    if end <= begin:
        return b""
    if url.startswith(HTTP_PREFIXES):
        return _read_http(location, begin, end, states).data
    # Without this option a file of the Hub would read five megabytes ahead.
    options = {"cache_type": "none"} if url.startswith("hf://") else {}
    read = partial(file_system.cat_file, name, start=begin, end=end, **options)
    return retry(lambda: bytes(read()), url)


def read_head(location: Location, nbytes: int, states: FileStates | None = None) -> Answer:
    """Return the first bytes of a remote file and what its server says about all of it.

    It raises what `read_range` raises.
    """
    if location.url.startswith(HTTP_PREFIXES):
        return _read_http(location, 0, nbytes, states)
    info = retry(lambda: location.file_system.info(location.name), location.url)
    version = info.get("ETag") or info.get("LastModified")
    answer = Answer(b"", info["size"], None if version is None else str(version))
    if states is not None:
        states.check(location.url, FileState(answer.size, answer.version))
    return answer._replace(data=read_range(location, 0, nbytes))


def _read_http(location: Location, begin: int, end: int, states: FileStates | None) -> Answer:
    """Return `[begin, end)` of a file of a web server and what it says about all of it."""
    url, file_system, name = location
    ask: Callable[[], Answer] = partial(
        sync, file_system.loop, _request_range, file_system, name, begin, end
    )
    answer = retry(ask, url)
    if states is not None:
        states.check(url, FileState(answer.size, answer.version))
    return answer


async def _request_range(file_system: Any, url: str, begin: int, end: int) -> Answer:
    """Return what a web server answers; fsspec would fetch the whole file to look at the answer."""
    from aiohttp import ClientTimeout

    options = dict(file_system.kwargs)
    asked = {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
    options["headers"] = {**options.get("headers", {}), **asked}
    timeout = ClientTimeout(total=None, sock_connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS)
    options.setdefault("timeout", timeout)
    session = await file_system.set_session()
    async with session.get(file_system.encode_url(url), **options) as response:
        if response.status == NOT_FOUND:
            raise FileNotFoundError(f"no file {url}")
        found = CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        size = int(found[3]) if found and found[3] != "*" else None
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if response.status == RANGE_NOT_SATISFIABLE:
            return Answer(b"", size, version)
        response.raise_for_status()
        if response.status == PARTIAL_CONTENT and found and found[1] == str(begin):
            wanted = max(min(end, int(found[2]) + 1 if size is None else size), begin)
            return Answer(await _read_body(response, wanted - begin), size, version)
        # The server sends the whole file; that will do if it is no more than was asked for.
        size = response.content_length
        if begin or size is None or size > end:
            raise NoRangesError(f"{url}: its server knows no byte ranges")
        return Answer(await _read_body(response, size), size, version)


async def _read_body(response: Any, nbytes: int) -> bytes:
    """Return the body of an answer, or raise ConnectionError where it has other than `nbytes`."""
    pieces, n_came = [], 0
    if "Content-Encoding" not in response.headers and response.content_length == nbytes:
        pieces = [await response.read()]
        n_came = len(pieces[0])
    else:
        # What is packed on the way may be a thousand times as long as the server says.
        async for piece in response.content.iter_any():
            n_came += len(piece)
            if n_came > nbytes:
                break
            pieces.append(piece)
    if n_came != nbytes:
        more = "or more " if n_came > nbytes else ""
        raise ConnectionError(f"{n_came} {more}bytes came where {nbytes} were asked for")
    return b"".join(pieces)


def retry(read: Callable[[], Result], path: str, attempt: int = 1) -> Result:
    """Return what a read of a remote file returns, tried again after a failure in passing.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it is refused, or the last attempt failed too.
    """
    try:
        return read()
    except (FileNotFoundError, NoRangesError):
        raise
    except network_errors() as error:
        is_last = attempt == ATTEMPTS
        if is_last or not is_passing(error):
            reason = SIGNATURE.sub("", " ".join(str(error).split())) or type(error).__name__
            kind = ConnectionError if is_last else OSError
            kind = PermissionError if isinstance(error, PermissionError) else kind
            raise kind(f"{path}: {reason} (attempt {attempt})") from error
        pause_seconds = max(PAUSE_SECONDS * 2 ** (attempt - 1), _find_asked_pause(error))
    time.sleep(pause_seconds)
    return retry(read, path, attempt + 1)


def is_passing(error: BaseException) -> bool:
    """Tell whether what went wrong may go right the next time."""
    response = getattr(error, "response", None)
    status = getattr(error, "status", getattr(response, "status_code", None))
    if isinstance(status, int):
        return status >= 500 or status in TRY_AGAIN
    return not isinstance(error, PermissionError | IsADirectoryError | NotADirectoryError)


def _find_asked_pause(error: BaseException) -> float:
    """Return the seconds that a server asks to be left alone, by number or by date, or 0."""
    response = getattr(error, "response", None)
    headers = getattr(error, "headers", None) or getattr(response, "headers", None) or {}
    text = headers.get("Retry-After", "")
    seconds = float(text) if text.isascii() and text.isdigit() else 0.0
    with suppress(TypeError, ValueError):
        seconds = seconds or parsedate_to_datetime(text).timestamp() - time.time()
    return min(max(seconds, 0.0), MAX_PAUSE_SECONDS)


def network_errors() -> tuple[type[BaseException], ...]:
    """Return what connections raise: the errors of aiohttp and of the Hub are no OSErrors."""
    from aiohttp import ClientError
    from huggingface_hub.errors import HfHubHTTPError

    # The Hub's errors are those of requests or httpx, whichever huggingface_hub is built on.
    hub_errors = HfHubHTTPError.__bases__
    return (OSError, TimeoutError, asyncio.TimeoutError, ClientError, *hub_errors)


def merge_pieces(pieces: Sequence[Piece]) -> list[ByteRange]:
    """Return the requests that bring all pieces: near ones of a file are merged, none is cut."""
    ranges: list[ByteRange] = []
    for number in sorted(range(len(pieces)), key=pieces.__getitem__):
        path, begin, end = pieces[number]
        last = ranges[-1] if ranges else ByteRange("", 0, 0, [])
        is_near = last.path == path and begin - last.end <= MAX_GAP_BYTES
        if is_near and max(last.end, end) - last.begin <= MAX_RANGE_BYTES:
            last.end = max(last.end, end)
            last.pieces.append(number)
        else:
            ranges.append(ByteRange(path, begin, end, [number]))
    return ranges


class RangeReader:
    """Reads byte ranges of remote files, sixteen at a time.

    Its threads are daemons, which a program does not wait for at its end; a forked process starts
    threads of its own.
    """

    def __init__(
        self, max_in_flight: int = MAX_IN_FLIGHT, states: FileStates | None = None
    ) -> None:
        self._max_in_flight = max_in_flight
        self._states = states
        self._forget_threads()

    def __reduce__(self) -> tuple[type["RangeReader"], tuple[int, FileStates | None]]:
        """Leave the threads in their process."""
        return RangeReader, (self._max_in_flight, self._states)

    def _forget_threads(self) -> None:
        self._process = os.getpid()
        self._n_threads = 0
        self._requests: SimpleQueue[Request | None] = SimpleQueue()
        ending = weakref.finalize(self, _end_threads, self._requests, self._max_in_flight)
        ending.atexit = False

    def start(self, pieces: Sequence[Piece]) -> Callable[[], Views]:
        """Ask for pieces; return the function that waits for them.

        If it is dropped before, requests that were not sent yet never are. It returns a ValueError
        in place of a piece that its file ends before, or whose file is not there or has changed,
        and raises OSError where a file cannot be read.
        """
        ranges = merge_pieces(pieces)
        if os.getpid() != self._process:
            self._forget_threads()
        locations = {path: locate(path) for path in dict.fromkeys(r.path for r in ranges)}
        futures = [self._submit(locations[r.path], r.begin, r.end) for r in ranges]
        return lambda: _cut_pieces(pieces, ranges, futures)

    def _submit(self, location: Location, begin: int, end: int) -> Future[bytes]:
        """Queue a request."""
        future: Future[bytes] = Future()
        read = partial(read_range, location, begin, end, self._states)
        self._requests.put((weakref.ref(future), read))
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
        future = request[0]()
        if future is not None:
            with ExitStack() as stack:
                stack.push(partial(_hand_over, future))
                future.set_result(request[1]())
        # The bytes of a range must not be kept while this thread waits for the next request.
        del future, request


def _hand_over(
    future: Future[bytes],
    _kind: type[BaseException] | None,
    error: BaseException | None,
    _traceback: TracebackType | None,
) -> bool:
    """Raise whatever a block raised where the future is waited for, not in this thread."""
    if error is not None:
        future.set_exception(error)
    return True


def _cut_pieces(
    pieces: Sequence[Piece], ranges: Iterable[ByteRange], futures: Iterable[Future[bytes]]
) -> Views:
    """Return a view of each piece, in the order they were asked for."""
    views: Views = [ValueError("the file is not there")] * len(pieces)
    for byte_range, future in zip(ranges, futures, strict=True):
        try:
            data = memoryview(future.result())
        except FileNotFoundError:
            continue
        except ChangedError as error:
            for number in byte_range.pieces:
                views[number] = error
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
