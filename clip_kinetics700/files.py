"""Byte ranges of remote files, tried again after failures in passing; what paths and URLs are.

In: fsspec URLs. Out: bytes, or an error that says what is not there or cannot be reached.
It imports nothing of ours, so the `datasets` script can carry it.
"""

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import fsspec
from fsspec.asyn import sync

Answer = TypeVar("Answer")

BUFFER_SIZE = 1 << 20
HTTP_PREFIXES = ("http://", "https://")
ATTEMPTS = 4
# Before the second attempt; twice as long before each one after.
PAUSE_SECONDS = 0.5
# Of a connection on which nothing comes; one range is a few megabytes.
SILENCE_SECONDS = 30
PARTIAL_CONTENT, NOT_FOUND, RANGE_NOT_SATISFIABLE = 206, 404, 416
TRY_AGAIN = (408, 429)
CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


class NoRangesError(OSError):
    """A server answers with whole files only, whatever range is asked for."""


class Place(NamedTuple):
    """A remote file with what reads it, found once so that threads share its connections."""

    url: str
    file_system: Any
    name: str
    """What the file system calls it."""


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
        return _read_http(place, begin, end)[0]
    # A file of the Hub would read five megabytes ahead.
    options = {"cache_type": "none"} if place.url.startswith("hf://") else {}
    return retry(
        lambda: bytes(file_system.cat_file(name, start=begin, end=end, **options)), place.url
    )


def read_begin(place: Place, nbytes: int) -> tuple[bytes, int | None]:
    """Return the first bytes of a remote file and how long all of it is, None where unknown.

    Raises:
        FileNotFoundError: there is no such file.
        NoRangesError: its server knows no byte ranges.
        OSError: it cannot be read, also not after several attempts.
    """
    if place.url.startswith(HTTP_PREFIXES):
        return _read_http(place, 0, nbytes)
    size = retry(lambda: place.file_system.size(place.name), place.url)
    return read_range(place, 0, nbytes), size


def _read_http(place: Place, begin: int, end: int) -> tuple[bytes, int | None]:
    """Return `[begin, end)` of a file of a web server and how long all of it is."""
    file_system, name = place.file_system, place.name

    def read() -> tuple[bytes, int | None]:
        data, size = sync(file_system.loop, _request_range, file_system, name, begin, end)
        return data, size

    return retry(read, place.url)


async def _request_range(
    file_system: Any, url: str, begin: int, end: int
) -> tuple[bytes, int | None]:
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
        if response.status == RANGE_NOT_SATISFIABLE:
            return b"", size
        response.raise_for_status()
        if response.status == PARTIAL_CONTENT and found and found[1] == str(begin):
            return await response.read(), size
        size = response.content_length
        if begin or size is None or size > end:
            raise NoRangesError(f"{url}: its server knows no byte ranges")
        return await response.read(), size


def retry(read: Callable[[], Answer], path: str) -> Answer:
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
            reason = " ".join(str(answer).split()) or type(answer).__name__
            kind = ConnectionError if is_last else OSError
            kind = PermissionError if isinstance(answer, PermissionError) else kind
            raise kind(f"{path}: {reason} (attempt {attempt})") from answer
        time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
        attempt += 1
    return answer


def is_passing(error: BaseException) -> bool:
    """Tell whether what went wrong may go right the next time."""
    response = getattr(error, "response", None)
    status = getattr(error, "status", getattr(response, "status_code", None))
    if isinstance(status, int):
        return status >= 500 or status in TRY_AGAIN
    return not isinstance(error, PermissionError | IsADirectoryError | NotADirectoryError)


def _attempt(read: Callable[[], Answer]) -> Answer | BaseException:
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
