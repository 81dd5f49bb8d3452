"""Serves a directory by HTTP for tests: byte ranges, late answers, faults; it counts requests."""

import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from tests.support.hub.faults import (
    RANGE,
    Action,
    Answer,
    Chance,
    Fault,
    Faults,
    damage_answer,
    read_range,
)

PIECE_BYTES = 1 << 16


@dataclass(slots=True)
class Request:
    """One request."""

    method: str
    path: str
    """The path with its query, unquoted."""
    status: int
    """0 where nothing is answered."""
    nbytes: int
    """Bytes of the body that were handed to the socket."""
    range_asked: str = ""
    """The header `Range`."""


@dataclass
class Served:
    """A directory on a server, and what was asked of it."""

    directory: Path
    latency_seconds: float
    knows_ranges: bool
    lists: bool
    url: str = ""
    max_at_once: int = 0
    """Most requests that were being answered at a time."""
    n_stalled: int = 0
    """Requests that wait for an answer, or the rest of one, until the server ends."""
    etag_of: dict[str, str | None] = field(default_factory=dict)
    """The ETags of files, by path without a slash before it; None for neither tag nor time."""
    ended: threading.Event = field(default_factory=threading.Event)
    _at_once: int = 0
    _requests: list[Request] = field(default_factory=list)
    _plan: Faults = field(default_factory=Faults)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def requests(self) -> list[Request]:
        """The requests so far."""
        with self._lock:
            return list(self._requests)

    @property
    def _faults(self) -> list[Fault]:
        return self._plan.planned

    def fail(
        self,
        pattern: str,
        action: Action | int,
        *,
        times: int = -1,
        retry_after: str | None = None,
    ) -> None:
        """Let requests for files whose path holds the pattern go wrong."""
        with self._lock:
            self._plan.planned.append(Fault(pattern, action, times, retry_after))

    def end_faults(self) -> None:
        """Let nothing go wrong any more."""
        with self._lock:
            self._plan.planned.clear()

    def fail_randomly(
        self,
        seed: int,
        probability: float,
        actions: Sequence[Action | int],
        *,
        pattern: str = "",
        retry_after: str | None = None,
    ) -> None:
        """Let each request that no other fault is for go wrong with some probability.

        The same requests fail whatever order they come in; one asked again has another chance.
        """
        with self._lock:
            self._plan.chance = Chance(seed, probability, actions, pattern, retry_after)

    def heal(self) -> None:
        """Let nothing go wrong from now on."""
        with self._lock:
            self._plan = Faults()

    def nbytes(self, pattern: str = "") -> int:
        """Sum the bytes of bodies that were sent of such files."""
        with self._lock:
            return sum(request.nbytes for request in self._requests if pattern in request.path)

    def forget(self) -> None:
        """Begin to count anew."""
        with self._lock:
            self._requests.clear()
            self.max_at_once = 0

    def note(self, request: Request) -> Fault | None:
        """Count a request; return what is to go wrong with it."""
        with self._lock:
            self._requests.append(request)
            return self._plan.take(request.path.partition("?")[0], request.range_asked)

    def send(self, connection: socket.socket, request: Request, data: memoryview) -> int:
        """Hand bytes to a socket that has room, and count them; return how many it took."""
        with self._lock:
            # Counted before they go: who has received bytes finds them counted.
            request.nbytes += len(data)
            n_sent = 0
            try:
                n_sent = connection.send(data, socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass
            finally:
                request.nbytes -= len(data) - n_sent
        return n_sent

    def wait(self) -> None:
        """Be silent until the server ends."""
        with self._lock:
            self.n_stalled += 1
        self.ended.wait()

    def describe(self, path: Path) -> dict[str, str]:
        """Return what an answer says of a file, whichever part of it is sent."""
        status = path.stat()
        headers = {"Accept-Ranges": "bytes"} if self.knows_ranges else {}
        tag = f'"{status.st_size:x}-{status.st_mtime_ns:x}"'
        said = self.etag_of.get(path.relative_to(self.directory).as_posix(), tag)
        if said is not None:
            headers |= {"ETag": said, "Last-Modified": formatdate(status.st_mtime, usegmt=True)}
        return headers

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count a request as being answered."""
        with self._lock:
            self._at_once += 1
            self.max_at_once = max(self.max_at_once, self._at_once)
        try:
            time.sleep(self.latency_seconds)
            yield
        finally:
            with self._lock:
                self._at_once -= 1


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    served: Served

    def do_GET(self) -> None:
        """Answer with a body."""
        with self.served.answering():
            self._answer()

    def do_HEAD(self) -> None:
        """Answer without the body."""
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        path = unquote(self.path.partition("?")[0])
        request = Request(self.command, unquote(self.path), 0, 0, self.headers.get("Range", ""))
        fault = self.served.note(request)
        action = None if fault is None else fault.action
        if action == "reset":
            # Closed without lingering, a connection is reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        elif action == "stall":
            self.served.wait()
        elif fault is not None and isinstance(action, int):
            wait = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
            self._send(request, Answer(action, b"fault", wait))
        else:
            self._send(request, self._find(self.served.directory / path.lstrip("/")), action)

    def _find(self, path: Path) -> Answer:
        """Return the whole answer to a request."""
        if path.is_dir() and self.served.lists:
            links = "".join(
                f'<a href="{quote(name)}">{escape(name)}</a>\n' for name in list_names(path)
            )
            page = f"<html>{links}</html>".encode()
            return Answer(HTTPStatus.OK, page, {"Content-Type": "text/html"})
        if not path.is_file():
            return Answer(HTTPStatus.NOT_FOUND, b"no such file")
        headers = self.served.describe(path)
        asked = RANGE.fullmatch(self.headers.get("Range", ""))
        known = self.headers.get("If-Range")
        is_other = known is not None and known not in headers.values()
        if asked is None or is_other or not self.served.knows_ranges:
            return Answer(HTTPStatus.OK, path.read_bytes(), headers)
        return read_range(path, asked, headers)

    def _send(self, request: Request, answer: Answer, action: Action | int | None = None) -> None:
        answer, body = damage_answer(answer, action)
        request.status = int(answer.status)
        self.send_response(answer.status)
        headers = {"Content-Type": "application/octet-stream", **answer.headers}
        headers["Content-Length"] = str(len(answer.body))
        if answer.content_range is not None:
            headers["Content-Range"] = answer.content_range
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self._write(request, body)
        if answer.is_silent_after:
            self.served.wait()
        self.close_connection = self.close_connection or len(body) < len(answer.body)

    def _write(self, request: Request, body: bytes) -> None:
        """Send a body piece by piece, as the client takes it."""
        room = select.poll()
        room.register(self.connection, select.POLLOUT)
        rest = memoryview(body)
        while rest and not self.served.ended.is_set():
            if room.poll(100):
                rest = rest[self.served.send(self.connection, request, rest[:PIECE_BYTES]) :]


def list_names(directory: Path) -> list[str]:
    """Return what a listing links to: names, those of directories with a slash."""
    names = [path.name + "/" * path.is_dir() for path in directory.iterdir()]
    return ["../", "?C=N;O=D", *sorted(names)]


class Server(ThreadingHTTPServer):
    """One thread for each connection."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let clients go away in the middle of an answer."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


@contextmanager
def serve(
    directory: Path,
    *,
    latency_seconds: float = 0.0,
    knows_ranges: bool = True,
    lists: bool = True,
) -> Iterator[Served]:
    """Serve a directory on 127.0.0.1 while the block runs."""
    served = Served(directory, latency_seconds, knows_ranges, lists)
    handler = type("BoundHandler", (Handler,), {"served": served})
    with Server(("127.0.0.1", 0), handler) as server:
        served.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield served
        finally:
            served.ended.set()
            server.shutdown()
            thread.join()
