"""Reads the members of a tar from first to last, strictly.

`tarfile` takes a damaged header, or a missing end, for the end of the archive, so that samples
would be lost without a word; here both are errors. USTAR, GNU and PAX are read, also through gzip.
"""

import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeAlias

from .remote import BUFFER_SIZE

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
# A header says how long its name is; no name of ours or of anybody's is this long.
MAX_LONG_HEADER = 1 << 20
# The embeddings of a day of video at 30 frames a second are smaller than this.
MAX_MEMBER = 1 << 33
NAME_NBYTES = 100
FILE = tarfile.REGTYPE[0]
GNU_LONG_NAME = tarfile.GNUTYPE_LONGNAME[0]
# A file with holes in it is stored in pieces: the bytes in the tar are not the file's.
SPARSE = tarfile.GNUTYPE_SPARSE[0]
PAX_OF_ONE_FILE = (tarfile.XHDTYPE[0], tarfile.SOLARIS_XHDTYPE[0])
# Headers that only extend the next one: those of PAX, and GNU's long names.
EXTENSIONS_OF_ONE_FILE = frozenset({*PAX_OF_ONE_FILE, GNU_LONG_NAME, tarfile.GNUTYPE_LONGLINK[0]})
EXTENSIONS = EXTENSIONS_OF_ONE_FILE | {tarfile.XGLTYPE[0]}
PLAIN_KINDS = EXTENSIONS | {FILE}

SPARSE_FIELD = "sparse"


class Member(NamedTuple):
    """One file of a tar."""

    name: str
    """Its name, directories included."""
    offset: int
    """Where its bytes begin in the tar (in what gzip holds, for a `.tar.gz`)."""
    data: bytes | memoryview
    """Its bytes."""


class Header(NamedTuple):
    """What a tar says about the bytes that follow."""

    kind: int
    """The type flag, `FILE` for every spelling of a regular file."""
    name: str
    """The name, directories included."""
    nbytes: int
    """How many bytes follow."""


Refuse: TypeAlias = Callable[[Header], bool]
"""Tells whether a member of any kind is to be passed over unread."""


class Stream(Protocol):
    """Gives the bytes of a tar: a file, or a view of one in memory."""

    def read(self, nbytes: int, /) -> bytes | memoryview:
        """Return the next bytes, fewer only where the tar ends."""


def read_members(stream: Stream, *, refuse: Refuse | None = None) -> Iterator[Member]:
    """Yield the files of a tar in order; links, devices and directories are passed over.

    Members that `refuse` refuses, whatever their kind, never are in memory, however large they are.

    Raises:
        ValueError: a header is damaged, or the tar ends before its end mark; it names the byte.
    """
    try:
        yield from _read_strictly(stream, refuse)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"damaged gzip stream: {error}") from error


def _read_strictly(stream: Stream, refuse: Refuse | None) -> Iterator[Member]:
    """Yield the files of a tar; errors of gzip pass through."""
    read, offset = stream.read, 0
    # The fields of the extensions that came since the last file, and whether one came just now.
    extended: dict[str, str] = {}
    is_extension = False
    while (block := bytes(read(BLOCK))) != ZERO_BLOCK:
        _check_whole(block, BLOCK, offset)
        kind, name, nbytes = read_header(block, offset)
        if extended and kind == FILE:
            name, nbytes = extended.get("path", name), _parse_size(extended, name, nbytes)
        kind = SPARSE if SPARSE_FIELD in extended else kind
        padded = (nbytes + BLOCK - 1) & -BLOCK
        if refuse is not None and kind not in EXTENSIONS:
            header = Header(kind, extended.get("path", name), nbytes)
            if refuse(header):
                offset = _pass_over(stream, offset + BLOCK, padded)
                extended, is_extension = {}, False
                continue
        _check_kind(kind, nbytes, offset)
        offset += BLOCK
        data = _read_data(stream, padded)
        _check_whole(data, padded, offset)
        if kind == FILE:
            yield Member(name, offset, memoryview(data)[:nbytes])
        if kind in EXTENSIONS:
            fields = _read_extension(kind, bytes(data[:nbytes]), offset)
            if fields.keys() & extended.keys():
                raise ValueError(f"a second header for one member at byte {offset}")
            extended |= fields
        elif extended:
            extended = {}
        is_extension = kind in EXTENSIONS_OF_ONE_FILE
        offset += padded
    if is_extension:
        raise ValueError(f"a header announces a member at byte {offset}, but none follows")
    _check_end(stream, offset)


def _check_kind(kind: int, nbytes: int, offset: int) -> None:
    """Refuse a member that cannot be read, or is longer than any that is meant."""
    if kind == SPARSE:
        raise ValueError(f"a sparse tar member at byte {offset}")
    if nbytes > (MAX_MEMBER if kind == FILE else MAX_LONG_HEADER):
        what = "member" if kind == FILE else "header"
        raise ValueError(f"a tar {what} of {nbytes} bytes at byte {offset}")


def _read_data(stream: Stream, nbytes: int) -> bytes | memoryview:
    """Return the next bytes, fewer where the tar ends; a false size costs no memory."""
    if nbytes <= BUFFER_SIZE:
        return stream.read(nbytes)
    pieces = []
    while nbytes and (piece := stream.read(min(BUFFER_SIZE, nbytes))):
        pieces.append(piece)
        nbytes -= len(piece)
    return b"".join(pieces)


def _pass_over(stream: Stream, offset: int, nbytes: int) -> int:
    """Read on behind the padded data of a member; return the offset of the next header."""
    end = offset + nbytes
    while offset < end:
        wanted = min(BUFFER_SIZE, end - offset)
        _check_whole(stream.read(wanted), wanted, offset)
        offset += wanted
    return offset


def _check_whole(data: bytes | memoryview, nbytes: int, offset: int) -> None:
    """Refuse fewer bytes than were asked for: the tar is truncated."""
    if len(data) < nbytes:
        raise ValueError(f"truncated: ends at byte {offset + len(data)}, before its end mark")


def _check_end(stream: Stream, offset: int) -> None:
    """Refuse anything but zeros after the end mark: a hole in a tar is not its end."""
    while tail := stream.read(BUFFER_SIZE):
        if bytes(tail).strip(b"\0"):
            raise ValueError(f"an end mark at byte {offset}, but more data after it")


def read_header(block: bytes, offset: int) -> Header:
    """Return a member's header, or raise ValueError; links and directories have no data."""
    return _read_plain_header(block) or _read_odd_header(block, offset)


def _read_plain_header(block: bytes) -> Header | None:
    """Return the header of a file as most writers have it, or None where it is anything else.

    This takes a twentieth of the time of `tarfile`, which reads the other headers.
    """
    plain = _read_after_name(block[NAME_NBYTES:])
    name = block[:NAME_NBYTES]
    # The low half of Adler-32 is one more than the sum of the bytes.
    if plain is None or (zlib.adler32(name) & 0xFFFF) - 1 != plain[2]:
        return None
    return Header(plain[0], decode_name(name.partition(b"\0")[0]), plain[1])


@lru_cache(maxsize=4096)
def _read_after_name(rest: bytes) -> tuple[int, int, int] | None:
    """Return kind, size, and the sum that the bytes of the name must have, of a plain header.

    Headers of one tar differ in little but the name, so the cache knows nearly all of them.
    """
    kind, size, checksum = rest[56], rest[24:36], rest[48:56]
    # Plain means: a file or an extension, a size in octal digits, no prefix to the name.
    if kind not in PLAIN_KINDS or size[0] & 0x80 or rest[245]:
        return None
    try:
        nbytes, total = int(size.rstrip(b" \0"), 8), int(checksum.strip(b" \0"), 8)
    except ValueError:
        return None
    # A tar's checksum is the sum of the header's bytes, its own field counted as blanks.
    name_sum = total - sum(rest) + sum(checksum) - len(checksum) * 0x20
    return None if nbytes < 0 else (kind, nbytes, name_sum)


def _read_odd_header(block: bytes, offset: int) -> Header:
    """Return any header that `tarfile` reads."""
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise ValueError(f"no tar header at byte {offset}: {error}") from error
    if header.size < 0:
        raise ValueError(f"a tar member of {header.size} bytes at byte {offset}")
    kind = FILE if header.isreg() and header.type[0] != SPARSE else header.type[0]
    has_data = header.isreg() or kind in EXTENSIONS or header.type not in tarfile.SUPPORTED_TYPES
    name = decode_name(header.name.encode("utf-8", "surrogateescape"))
    return Header(kind, name, header.size if has_data else 0)


def _parse_size(extended: dict[str, str], name: str, nbytes: int) -> int:
    """Return the size of a file, taken from its extension where that has one."""
    text = extended.get("size", str(nbytes))
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"member {name!r}: no size: {text!r}")
    return int(text)


def decode_name(name: bytes) -> str:
    """Return a member's name, read as Latin-1 where it is no UTF-8: no two names become one."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("latin-1")


def _read_extension(kind: int, data: bytes, offset: int) -> dict[str, str]:
    """Return the fields of an extension that matter here: `path`, `size`, whether it is sparse."""
    if kind == GNU_LONG_NAME:
        return {"path": decode_name(data.partition(b"\0")[0])}
    if kind not in PAX_OF_ONE_FILE:
        return {}
    fields: dict[str, str] = {}
    while data.strip(b"\0"):
        digits = data.partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        keyword, equals, value = data[len(digits) + 1 : max(length - 1, 0)].partition(b"=")
        if not equals or length > len(data):
            raise ValueError(f"damaged PAX header at byte {offset}")
        fields[keyword.decode("utf-8", "replace")] = decode_name(value)
        data = data[length:]
    if any(key.startswith("GNU.sparse.") for key in fields):
        fields[SPARSE_FIELD] = ""
    return {key: fields[key] for key in ("path", "size", SPARSE_FIELD) if key in fields}
