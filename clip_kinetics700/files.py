"""Byte ranges of remote files, tried again after failures in passing; what paths and URLs are.

In: fsspec URLs. Out: bytes, or an error that says what is not there or cannot be reached.
It imports nothing of ours, so the `datasets` script can carry it.
"""

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, TypeVar

import fsspec
from fsspec.asyn import sync

Result = TypeVar("Result")

BUFFER_SIZE = 1 << 20
HTTP_PREFIXES = ("http://", "https://")
ATTEMPTS = 4
# Before the second attempt; twice as long before each one after.
PAUSE_SECONDS = 0.5
# What a server that is asked too much may make us wait before the next attempt, by `Retry-After`.
MAX_PAUSE_SECONDS = 60.0
# Of a connection on which nothing comes; one range is a few megabytes.
SILENCE_SECONDS = 30
PARTIAL_CONTENT, NOT_FOUND, RANGE_NOT_SATISFIABLE = 206, 404, 416
TRY_AGAIN = (408, 429)
# What makes a link to a file as good as a password for a while.
SIGNATURE = re.compile(r"(?<=\S)\?\S+")
CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


class NoRangesError(OSError):
    """A server answers with whole files only, whatever range is asked for."""


class Place(NamedTuple):
    """A remote file with what reads it, found once so that threads share its connections."""

    url: str
    file_system: Any
    name: str
    """What the file system calls it."""


class Answer(NamedTuple):
    """Bytes of a remote file, and what its server says of all of it."""

    data: bytes
    size: int | None
    """Of the whole file; None where the server does not say."""
    version: str | None
    """Its ETag, or when it was changed last: two answers that differ are of two files."""


def is_remote(path: str) -> bool:
    """Tell whether a path is an fsspec URL."""
    return "://" in path


def strip_query(path: str) -> str:
    """Return a path without what follows `?` in the URL of a web server, such as a signature."""
    return path.partition("?")[0] if path.startswith(HTTP_PREFIXES) else path


def is_gzip_name(path: str) -> bool:
    """Tell by its name whether a file is compressed, so that ranges of it say nothing."""
    return strip_query(path).lower().endswith((".gz", ".tgz"))


def locate(url: str) -> Place:
    """Return a remote file with the file system of its URL."""
    file_system, name = fsspec.core.url_to_fs(url)
    return Place(url, file_system, name)


def read_range(place: Place, begin: int, end: int) -> bytes:
    """Return `[begin, end)` of a remote file, less where it ends before.

    Raises:
        FileNotFoundError: there is no such file.
        NoRangesError: its server knows no byte ranges.
        OSError: it cannot be read, also not after several attempts.
    """
    file_system, name = place.file_system, place.name
    if end <= begin:
        return b""
    if place.url.startswith(HTTP_PREFIXES):
        return _read_http(place, begin, end).data
    # A file of the Hub would read five megabytes ahead.
    options = {"cache_type": "none"} if place.url.startswith("hf://") else {}
    return retry(
        lambda: bytes(file_system.cat_file(name, start=begin, end=end, **options)), place.url
    )


def read_begin(place: Place, nbytes: int, *, begin: int = 0) -> Answer:
    """Return bytes of a remote file from `begin` on, and what its server says of all of it.

    Raises:
        FileNotFoundError: there is no such file.
        NoRangesError: its server knows no byte ranges.
        OSError: it cannot be read, also not after several attempts.
    """
    if place.url.startswith(HTTP_PREFIXES):
        return _read_http(place, begin, begin + nbytes)
    info = retry(lambda: place.file_system.info(place.name), place.url)
    version = info.get("ETag") or info.get("LastModified")
    data = read_range(place, begin, begin + nbytes)
    return Answer(data, info["size"], None if version is None else str(version))


def _read_http(place: Place, begin: int, end: int) -> Answer:
    """Return `[begin, end)` of a file of a web server and what it says of all of it."""
    file_system, name = place.file_system, place.name

    def read() -> Answer:
        answer: Answer = sync(file_system.loop, _request_range, file_system, name, begin, end)
        return answer

    return retry(read, place.url)


async def _request_range(file_system: Any, url: str, begin: int, end: int) -> Answer:
    """Return what a web server answers; fsspec would fetch all of a file to look at the answer."""
    from aiohttp import ClientTimeout

    options = dict(file_system.kwargs)
    asked = {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
    options["headers"] = {**options.get("headers", {}), **asked}
    options.setdefault(
        "timeout",
        ClientTimeout(total=None, sock_connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS),
    )
    session = await file_system.set_session()
    async with session.get(file_system.encode_url(url), **options) as response:
        if response.status == NOT_FOUND:
            raise FileNotFoundError(f"no file {url}")
        found = CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        size = int(found[2]) if found and found[2] != "*" else None
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if response.status == RANGE_NOT_SATISFIABLE:
            return Answer(b"", size, version)
        response.raise_for_status()
        if response.status == PARTIAL_CONTENT and found and found[1] == str(begin):
            return Answer(await response.read(), size, version)
        size = response.content_length
        if begin or size is None or size > end:
            raise NoRangesError(f"{url}: its server knows no byte ranges")
        return Answer(await response.read(), size, version)


def retry(read: Callable[[], Result], path: str) -> Result:
    """Return what a read of a remote file returns, tried again after a failure in passing.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it is refused, or the last attempt failed too.
    """
    attempt = 1
    while isinstance(answer := _attempt(read), BaseException):
        if isinstance(answer, FileNotFoundError | NoRangesError):
            raise answer
        is_last = attempt == ATTEMPTS
        if is_last or not is_passing(answer):
            reason = SIGNATURE.sub("", " ".join(str(answer).split())) or type(answer).__name__
            kind = ConnectionError if is_last else OSError
            kind = PermissionError if isinstance(answer, PermissionError) else kind
            raise kind(f"{path}: {reason} (attempt {attempt})") from answer
        time.sleep(max(PAUSE_SECONDS * 2 ** (attempt - 1), _asked_pause(answer)))
        attempt += 1
    return answer


def is_passing(error: BaseException) -> bool:
    """Tell whether what went wrong may go right the next time."""
    response = getattr(error, "response", None)
    status = getattr(error, "status", getattr(response, "status_code", None))
    if isinstance(status, int):
        return status >= 500 or status in TRY_AGAIN
    return not isinstance(error, PermissionError | IsADirectoryError | NotADirectoryError)


def _asked_pause(error: BaseException) -> float:
    """Return the seconds a server asks to be left alone, by number or by date; 0 if it does not."""
    response = getattr(error, "response", None)
    headers = getattr(error, "headers", None) or getattr(response, "headers", None) or {}
    text = headers.get("Retry-After", "")
    seconds = float(text) if text.isascii() and text.isdigit() else 0.0
    with suppress(TypeError, ValueError):
        seconds = seconds or parsedate_to_datetime(text).timestamp() - time.time()
    return min(max(seconds, 0.0), MAX_PAUSE_SECONDS)


def _attempt(read: Callable[[], Result]) -> Result | BaseException:
    """Return what a read returns, or what the network made of it."""
    try:
        return read()
    except network_errors() as error:
        return error


def network_errors() -> tuple[type[BaseException], ...]:
    """Return what connections raise: those of fsspec's HTTP and of the Hub are no OSErrors."""
    from huggingface_hub.errors import HfHubHTTPError

    # Of requests or httpx, whichever huggingface_hub is built on.
    errors = (OSError, TimeoutError, asyncio.TimeoutError, *HfHubHTTPError.__bases__)
    try:
        from aiohttp import ClientError
    except ImportError:
        return errors
    return (*errors, ClientError)
