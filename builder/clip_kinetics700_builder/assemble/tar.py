"""Spells samples as a USTAR tar, the same bytes every time.

Our headers differ in name, size and checksum alone, so one that `tarfile` made serves for many, in
a tenth of its time; `tarfile` itself makes, or refuses, what is odd.
"""

import sys
import tarfile
from functools import lru_cache
from typing import NamedTuple

from clip_kinetics700.schema import Sample, encode_sample
from clip_kinetics700.tars import BLOCK, NAME_NBYTES

MODE = 0o644
# The sum of a header's bytes stands here.
SUM_BEGIN, SUM_END = 148, 156


class SpelledSample(NamedTuple):
    """The members of a sample as they stand in a tar."""

    data: bytes
    npy_begin: int
    """Where in them the array begins."""
    npy_nbytes: int


def spell_sample(sample: Sample) -> SpelledSample:
    """Return a sample's members: adjacent, mtime 0, fixed owner and mode.

    Raises:
        ValueError: USTAR has no room for a name or a size.
    """
    pieces: list[bytes] = []
    at = npy_begin = npy_nbytes = 0
    for extension, content in encode_sample(sample):
        nbytes = len(content)
        pieces += (make_header(sample.key, extension, nbytes), content, PADDING[nbytes % BLOCK])
        if extension == "npy":
            npy_begin, npy_nbytes = at + BLOCK, nbytes
        at += BLOCK + nbytes + -nbytes % BLOCK
    return SpelledSample(b"".join(pieces), npy_begin, npy_nbytes)


def spell_end(nbytes: int) -> bytes:
    """Return the end of an archive of so many bytes, which makes its last record whole."""
    return bytes(2 * BLOCK + -(nbytes + 2 * BLOCK) % tarfile.RECORDSIZE)


PADDING = [bytes(-nbytes % BLOCK) for nbytes in range(BLOCK)]
"""What follows a content so that it fills its blocks, by the bytes in its last one."""


def make_header(key: str, extension: str, nbytes: int) -> bytes:
    """Return the header of a member as `tarfile` makes it, or refuse to as it does."""
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
