"""Views of whole files without a copy: memory maps of local ones, and of what gzip held.

In: paths, for compressed files also URLs. Out: read-only views, the most recent ones kept.
"""

import gzip
import mmap
import os
import shutil
import tempfile
from collections import OrderedDict
from io import FileIO
from threading import Lock

from .files import BUFFER_SIZE, is_remote
from .streams import open_stream

# Maps of local files are kept for the next read up to this many bytes; pages of a map count as
# resident memory, and a full-size dataset is 8 GB.
MAX_MAPPED_BYTES = 256 << 20
GZIP_MAGIC = b"\x1f\x8b"


def map_file(path: str) -> memoryview:
    """Return a read-only view of a local file, in memory only where it is touched."""
    with FileIO(path) as file:
        return _map_open_file(file.fileno())


def _map_open_file(descriptor: int) -> memoryview:
    """Return a read-only view of an open file; an empty one cannot be mapped."""
    if os.fstat(descriptor).st_size == 0:
        return memoryview(b"")
    return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))


def view_file(path: str) -> memoryview:
    """Return a view of a file, of what it holds where gzip wrote it, whatever its name says."""
    if not is_remote(path):
        view = map_file(path)
        return unpack_file(path) if view[: len(GZIP_MAGIC)] == GZIP_MAGIC else view
    return unpack_file(path)


def unpack_file(path: str) -> memoryview:
    """Return a view of what gzip holds, on disk in a file without a name until it is dropped."""
    with open_stream(path) as raw, tempfile.TemporaryFile() as unpacked:
        if raw.peek(len(GZIP_MAGIC))[: len(GZIP_MAGIC)] == GZIP_MAGIC:
            with gzip.GzipFile(fileobj=raw) as source:
                shutil.copyfileobj(source, unpacked, BUFFER_SIZE)
        else:
            # Some web servers unpack what they send.
            shutil.copyfileobj(raw, unpacked, BUFFER_SIZE)
        unpacked.flush()
        return _map_open_file(unpacked.fileno())


class Buffers:
    """Views of whole files, the most recent ones kept."""

    def __init__(self, max_bytes: int = MAX_MAPPED_BYTES) -> None:
        """Keep at most so many bytes mapped, and always the last file."""
        self._max_bytes = max_bytes
        self._views: OrderedDict[str, memoryview] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type["Buffers"], tuple[int]]:
        """Another process maps the files itself."""
        return Buffers, (self._max_bytes,)

    def view(self, path: str) -> memoryview:
        """Return a view of a local file, or of what a compressed one holds.

        Raises:
            OSError: there is no such file, or it is not what gzip writes.
        """
        with self._lock:
            view = self._views.get(path)
            if view is None:
                view = self._views[path] = view_file(path)
            self._views.move_to_end(path)
            # Arrays that still point into a map keep it alive.
            while len(self._views) > 1 and sum(map(len, self._views.values())) > self._max_bytes:
                self._views.popitem(last=False)
        return view
