"""A real web server of a directory for tests: byte ranges, late answers, faults; it counts.

In: a directory. Out: a URL, and what was asked for: requests, bytes, how many at a time.
"""

import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

RANGE = re.compile(r"bytes=(\d+)-(\d+)")
Action = Literal["reset", "cut", "stall"]


@dataclass(slots=True)
class Fault:
    """What goes wrong with the next requests for some files."""

    pattern: str
    """Found in the path of the URL."""
    action: Action | int
    """Reset the connection, cut the body in half, never answer, or answer with this status."""
    times: int
    """How often; -1 is always."""


@dataclass(slots=True)
class Request:
    """One request that was answered."""

    method: str
    path: str
    status: int
    nbytes: int
    """Of the body."""


@dataclass
class Served:
    """A directory on a server, and what was asked of it."""

    directory: Path
    latency_seconds: float
    knows_ranges: bool
    lists: bool
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    max_at_once: int = 0
    """Most requests that were being answered at a time."""
    n_stalled: int = 0
    """Requests that wait for an answer until the server ends."""
    ended: threading.Event = field(default_factory=threading.Event)
    _at_once: int = 0
    _faults: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, pattern: str, action: Action | int, *, times: int = -1) -> None:
        """Let requests for files whose path holds the pattern go wrong."""
        self._faults.append(Fault(pattern, action, times))

    def nbytes(self, pattern: str = "") -> int:
        """Sum the bytes of bodies that were sent of such files."""
        return sum(request.nbytes for request in self.requests if pattern in request.path)

    def forget(self) -> None:
        """Begin to count anew."""
        with self._lock:
            self.requests.clear()
            self.max_at_once = 0

    def take_fault(self, path: str) -> Action | int | None:
        """Return what is to go wrong with this request."""
        with self._lock:
            for fault in self._faults:
                if fault.pattern in path and fault.times:
                    fault.times -= 1
                    return fault.action
        return None

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
        url_path = unquote(self.path.partition("?")[0])
        path = self.served.directory / url_path.lstrip("/")
        fault = self.served.take_fault(url_path)
        if fault == "reset":
            # Closed without lingering, a connection is reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.served.requests.append(Request(self.command, url_path, 0, 0))
            self.connection.close()
        elif fault == "stall":
            self.served.n_stalled += 1
            self.served.ended.wait()
        elif isinstance(fault, int):
            self._send(fault, b"fault")
        elif path.is_dir() and self.served.lists:
            links = "".join(
                f'<a href="{quote(name)}">{escape(name)}</a>\n' for name in list_names(path)
            )
            self._send(HTTPStatus.OK, f"<html>{links}</html>".encode(), kind="text/html")
        elif path.is_file():
            self._send_file(path, is_cut=fault == "cut")
        else:
            self._send(HTTPStatus.NOT_FOUND, b"no such file")

    def _send_file(self, path: Path, *, is_cut: bool) -> None:
        asked = RANGE.fullmatch(self.headers.get("Range", ""))
        if asked is None or not self.served.knows_ranges:
            self._send(HTTPStatus.OK, path.read_bytes(), is_cut=is_cut)
            return
        size = path.stat().st_size
        begin, end = int(asked[1]), min(int(asked[2]) + 1, size)
        if begin >= end:
            status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            self._send(status, b"", content_range=f"bytes */{size}")
            return
        with path.open("rb") as file:
            file.seek(begin)
            data = file.read(end - begin)
        content_range = f"bytes {begin}-{end - 1}/{size}"
        self._send(HTTPStatus.PARTIAL_CONTENT, data, content_range=content_range, is_cut=is_cut)

    def _send(
        self,
        status: int,
        body: bytes,
        *,
        kind: str = "application/octet-stream",
        content_range: str | None = None,
        is_cut: bool = False,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", kind)
        if content_range is not None:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        sent = body[: len(body) // 2] if is_cut else body
        sent = b"" if self.command == "HEAD" else sent
        self.served.requests.append(Request(self.command, self.path, status, len(sent)))
        self.wfile.write(sent)
        self.close_connection = self.close_connection or is_cut


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
