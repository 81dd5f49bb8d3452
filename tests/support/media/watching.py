"""These classes watch decoding: its memory, the files that it opens, the servers that it asks.

inotify of Linux reports files that are opened, whichever process or library opens them.
"""

import ctypes
import os
import socket
import struct
import threading
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from clip_kinetics700_builder.decode.video import DecodeTask, decode_frames
from clip_kinetics700_builder.types import Failure, Frames

IN_OPEN = 0x20
EVENT = struct.Struct("iIII")


class Listener:
    """A server on a port of its own that hangs up on every caller and counts them."""

    def __init__(self) -> None:
        self.callers: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection:
                    connection.settimeout(1.0)
                    self.callers.append(connection.recv(200))

    def close(self) -> None:
        """Stop listening."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class OpenedFiles(AbstractContextManager["OpenedFiles"]):
    """Names of files that are opened in one directory, in a `with` block."""

    def __init__(self, directory: Path) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._library.inotify_init1(os.O_NONBLOCK)
        watch = self._library.inotify_add_watch(self._descriptor, os.fsencode(directory), IN_OPEN)
        if min(self._descriptor, watch) < 0:
            raise OSError(ctypes.get_errno(), "inotify")

    def __exit__(self, *_: object) -> None:
        """Watch no more."""
        os.close(self._descriptor)

    def take(self) -> list[str]:
        """Return the names of files opened since the last call."""
        names, events, at = [], b"", 0
        with suppress(BlockingIOError):
            events = os.read(self._descriptor, 1 << 20)
        while at < len(events):
            *_, length = EVENT.unpack_from(events, at)
            at += EVENT.size + length
            names.append(events[at - length : at].rstrip(b"\0").decode())
        return names


@dataclass(frozen=True, slots=True)
class WatchedDecode:
    """Decodes in a worker and writes down each call: row, seconds, MiB at most."""

    log: Path

    def __call__(self, task: DecodeTask) -> Frames | Failure:
        """Decode."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # forgets the peak before this one
        begin = time.monotonic()
        try:
            return decode_frames(task)
        finally:
            with self.log.open("a") as log:
                log.write(f"{task.row} {time.monotonic() - begin:.3f} {read_peak_mib()}\n")


def read_peak_mib() -> int:
    """Return the most MiB that this process has held, 0 where the system does not tell."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024
    return 0
