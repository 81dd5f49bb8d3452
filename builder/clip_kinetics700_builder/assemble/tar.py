"""A `TarStream` spells samples as a USTAR tar, a buffer at a time, the same bytes every time.

Our headers differ in name, size and checksum alone, so one that `tarfile` made serves for many, in
a tenth of its time; `tarfile` itself makes, or refuses, what is odd.
"""

import sys
import tarfile
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from clip_kinetics700.schema import Sample, encode_sample
from clip_kinetics700.tars import BLOCK, NAME_NBYTES

BUFFER_NBYTES = 1 << 20
MODE = 0o644
# The sum of a header's bytes stands here.
SUM_BEGIN, SUM_END = 148, 156
Take = Callable[[memoryview], None]
"""Takes bytes, which stay what they are until it is called for the second time after that."""


class Place(NamedTuple):
    """Where the array of a sample lies in its tar."""

    offset: int
    nbytes: int


class TarStream:
    """The tar of some samples: members of a sample adjacent, mtime 0, fixed owner and mode."""

    def __init__(self, take: Take) -> None:
        """Give the bytes to this function, some megabytes at a time."""
        self._take = take
        # One is filled while the other is written.
        self._buffers = [np.empty(BUFFER_NBYTES, np.uint8).data for _ in range(2)]
        self._at = 0
        self.nbytes = 0
        """Bytes of the tar so far."""

    def add(self, sample: Sample) -> Place:
        """Add a sample; return where its array lies."""
        pieces: list[bytes] = []
        place, offset = Place(0, 0), self.nbytes
        for extension, content in encode_sample(sample):
            nbytes = len(content)
            pieces += (make_header(sample.key, extension, nbytes), content, PADDING[nbytes % BLOCK])
            if extension == "npy":
                place = Place(offset + BLOCK, nbytes)
            offset += BLOCK + nbytes + -nbytes % BLOCK
        self._put(b"".join(pieces))
        return place

    def flush(self) -> None:
        """Give away what there is."""
        if self._at:
            self._take(self._buffers[0][: self._at])
            self._buffers.reverse()
            self._at = 0

    def close(self) -> None:
        """Give away the end of the archive, which ends with a whole record."""
        self._put(bytes(2 * BLOCK))
        self._put(bytes(-self.nbytes % tarfile.RECORDSIZE))
        self.flush()

    def _put(self, data: bytes) -> None:
        self.nbytes += len(data)
        view = memoryview(data)
        while view.nbytes:
            room = BUFFER_NBYTES - self._at
            piece, view = view[:room], view[room:]
            self._buffers[0][self._at : self._at + len(piece)] = piece
            self._at += len(piece)
            if self._at == BUFFER_NBYTES:
                self.flush()


PADDING = [bytes(-nbytes % BLOCK) for nbytes in range(BLOCK)]
"""What follows a content so that it fills its blocks, by the bytes in its last one."""


def make_header(key: str, extension: str, nbytes: int) -> bytes:
    """Return the header of a member, as `tarfile` makes it.

    Raises:
        ValueError: USTAR has no room for the name or the size.
    """
    name = f"{key}.{extension}"
    if len(name) > NAME_NBYTES or not name.isascii():
        return make_any_header(name, nbytes)
    before, total, after = make_template(nbytes)
    data = name.encode("ascii")
    return b"%b%b%06o\0 %b" % (
        data.ljust(NAME_NBYTES, b"\0"),
        before,
        total + sum(data),
        after,
    )


@lru_cache(maxsize=1024)
def make_template(nbytes: int) -> tuple[bytes, int, bytes]:
    """Return what surrounds the checksum of a header without a name, and the sum of its bytes."""
    header = make_any_header("", nbytes)
    before, after = header[NAME_NBYTES:SUM_BEGIN], header[SUM_END:]
    # The checksum itself counts as eight blanks.
    return before, sum(before) + sum(after) + (SUM_END - SUM_BEGIN) * 0x20, after


def make_any_header(name: str, nbytes: int) -> bytes:
    """Return the header that `tarfile` makes."""
    header = tarfile.TarInfo(name)
    header.size = nbytes
    header.mode = MODE
    encoding = sys.getfilesystemencoding()
    return header.tobuf(tarfile.USTAR_FORMAT, encoding, "surrogateescape")
