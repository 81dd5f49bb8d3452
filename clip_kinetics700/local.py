"""Reads local files at random, of which only a few are open at a time.

They are not mapped into memory: a file that is cut short under a map ends the process by a signal,
and one that is written anew changes arrays that were read long before.
"""

import gzip
import os
import shutil
import tempfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from threading import Lock

import numpy as np
import numpy.typing as npt

from .remote import BUFFER_SIZE, Views, file_ends, is_remote
from .states import FileStates, local_state
from .streams import GZIP_MAGIC, open_local, open_unpacked

IntArray = npt.NDArray[np.int64]

# Pieces that lie nearer than this are read at once: copying so much costs less than another call.
MAX_GAP_BYTES = 8 << 10
# So much is read at once: memory that was just given back holds it, and the processor's cache.
READ_BYTES = 256 << 10
# What the system is asked to read ahead is a part of a file that is read in another order.
MAX_AHEAD_BYTES = 256 << 20
# So many files stay open for the next read: some systems allow a process 256.
MAX_OPEN_FILES = 32
# Unpacked copies are kept for the next read up to this many bytes.
MAX_COPIED_BYTES = 256 << 20


def cut_runs(is_apart: npt.NDArray[np.bool_]) -> list[int]:
    """Return where runs of neighbours begin and the last ends, given (n - 1,) bool of gaps."""
    return [0, *(np.flatnonzero(is_apart) + 1).tolist(), len(is_apart) + 1]


def find_runs(begins: IntArray, ends: IntArray) -> list[int]:
    """Return where runs of pieces that are read at once begin and end, given (n,) int64 places."""
    gaps = begins[1:] - ends[:-1]
    is_apart = (gaps < 0) | (gaps > MAX_GAP_BYTES)
    return cut_runs(is_apart | (begins[1:] // READ_BYTES != begins[:-1] // READ_BYTES))


class OpenFile:
    """A local file, or an unpacked copy of any file, that is open until nobody holds this."""

    def __init__(self, path: str, states: FileStates) -> None:
        """Open a file; where it is packed or remote, copy what it holds into one without a name.

        Raises:
            ValueError: it has changed, or the gzip is damaged.
        """
        self._path, self._states, self.is_copy = path, states, True
        self._ahead = 0
        if not is_remote(path):
            with open_local(path, states) as file:
                if os.pread(file.fileno(), len(GZIP_MAGIC), 0) != GZIP_MAGIC:
                    self._descriptor, self.is_copy = os.dup(file.fileno()), False
                    self.nbytes = os.fstat(self._descriptor).st_size
                    return
        with open_unpacked(path, states) as source, tempfile.TemporaryFile() as copy:
            try:
                shutil.copyfileobj(source, copy, BUFFER_SIZE)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise ValueError(f"damaged gzip stream: {error}") from error
            copy.flush()
            self._descriptor, self.nbytes = os.dup(copy.fileno()), copy.tell()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        """Close the file."""
        with suppress(AttributeError):
            close(self._descriptor)

    def read(self, begins: IntArray, ends: IntArray) -> Views:
        """Return pieces, given (n,) int64 begin and end of each in ascending order.

        Raises:
            ChangedError: the file is not what it was when it was opened.
        """
        if len(begins) == 1:  # as for a sample by its place: arrays would take longer than the read
            return [self._read_piece(int(begins[0]), int(ends[0]))]
        cuts = find_runs(begins, ends)
        bases = begins[cuts[:-1]]
        stops = np.minimum(ends[np.array(cuts[1:]) - 1], self.nbytes)
        sizes = np.maximum(stops - bases, 0).tolist()
        self._read_ahead(int(bases[0]), int(ends[-1]), sum(sizes))
        runs = list(zip(sizes, bases.tolist(), strict=True))
        descriptor, pread = self._descriptor, os.pread
        came = [pread(descriptor, nbytes, base) for nbytes, base in runs]
        if list(map(len, came)) != sizes:
            came = [self._read_bytes(nbytes, base) for nbytes, base in runs]
        read = [memoryview(data) for data in came]
        self._check_state()
        if len(read) == len(begins) and ends.max() <= self.nbytes:
            return list(read)
        offsets = np.repeat(bases, np.diff(cuts))
        begins_in_run, ends_in_run = (begins - offsets).tolist(), (ends - offsets).tolist()
        views: Views = []
        for data, first, last in zip(read, cuts, cuts[1:], strict=False):
            places = zip(begins_in_run[first:last], ends_in_run[first:last], strict=True)
            views += [data[begin:end] for begin, end in places]
        for number in np.flatnonzero(ends > self.nbytes).tolist():
            views[number] = file_ends(self.nbytes)
        return views

    def _read_piece(self, begin: int, end: int) -> memoryview | ValueError:
        """Return one piece."""
        nbytes = max(min(end, self.nbytes) - begin, 0)
        data = self._read_bytes(nbytes, begin)
        self._check_state()
        return memoryview(data) if len(data) == end - begin else file_ends(self.nbytes)

    def _read_bytes(self, nbytes: int, begin: int) -> bytes:
        """Return so many bytes, fewer only where the file ends."""
        data = os.pread(self._descriptor, nbytes, begin)
        # Some network file systems give less than they have.
        while len(data) < nbytes:
            more = os.pread(self._descriptor, nbytes - len(data), begin + len(data))
            if not more:
                break
            data += more
        return data

    def _check_state(self) -> None:
        """Raise ChangedError if what was read just now may be of a changed file."""
        if not self.is_copy:
            self._states.check(self._path, local_state(os.fstat(self._descriptor)))

    def _read_ahead(self, begin: int, end: int, nbytes: int) -> None:
        """Let the system read from start to end where little of it is wanted at a time."""
        is_scattered = 4 * nbytes < end - begin < MAX_AHEAD_BYTES
        if is_scattered and end > self._ahead and hasattr(os, "posix_fadvise"):
            begin, self._ahead = max(begin, self._ahead), end
            os.posix_fadvise(self._descriptor, begin, end - begin, os.POSIX_FADV_WILLNEED)


class LocalFiles:
    """Reads local files, and unpacked copies of others, at random; a few of them stay open."""

    def __init__(self, states: FileStates) -> None:
        self._states = states
        self._files: OrderedDict[str, OpenFile] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type["LocalFiles"], tuple[FileStates]]:
        """Let another process open the files itself."""
        return LocalFiles, (self._states,)

    def read(
        self, paths: Sequence[str], numbers: IntArray, begins: IntArray, ends: IntArray
    ) -> Views:
        """Return pieces of files, a ValueError in place of what cannot be read.

        Args:
            paths: the files.
            numbers: (n,) int64, which file each piece is of.
            begins: (n,) int64, where it begins.
            ends: (n,) int64, where it ends.
        """
        if not len(numbers):
            return []
        if len(numbers) == 1:
            return self._read_file(paths[numbers[0]], begins, ends)
        order = np.lexsort((begins, numbers))
        numbers, begins, ends = numbers[order], begins[order], ends[order]
        cuts = cut_runs(numbers[1:] != numbers[:-1])
        found: Views = []
        for first, last in pairwise(cuts):
            found += self._read_file(paths[numbers[first]], begins[first:last], ends[first:last])
        views: Views = [ValueError()] * len(order)
        for place, view in zip(order.tolist(), found, strict=True):
            views[place] = view
        return views

    def _read_file(self, path: str, begins: IntArray, ends: IntArray) -> Views:
        """Return pieces of one file, or what is wrong with it in place of each."""
        try:
            return self._open(path).read(begins, ends)
        except FileNotFoundError:
            error = ValueError("the file is not there")
        except ValueError as caught:
            error = caught
        return [error] * len(begins)

    def _open(self, path: str) -> OpenFile:
        """Return an open file."""
        with self._lock:
            file = self._files.get(path)
            if file is None:
                file = self._files[path] = OpenFile(path, self._states)
                while len(self._files) > 1 and self._has_too_many():
                    self._files.popitem(last=False)
            self._files.move_to_end(path)
        return file

    def _has_too_many(self) -> bool:
        nbytes_copied = sum(file.nbytes for file in self._files.values() if file.is_copy)
        return len(self._files) > MAX_OPEN_FILES or nbytes_copied > MAX_COPIED_BYTES
