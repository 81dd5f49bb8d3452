"""The members of a tar, read from first to last, strictly.

In: a stream of USTAR, GNU or PAX blocks, gzip or not. Out: name, place and bytes of each file.
`tarfile` takes a damaged header or a missing end for the end of the archive; this does not.
"""

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import fsspec

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
BUFFER_SIZE = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"
# A header says how long its name is; no name of ours or of anybody's is this long.
MAX_LONG_HEADER = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a tar."""

    name: str
    """Its name, directories included."""
    offset: int
    """Where its bytes begin in the tar (in what gzip holds, for a `.tar.gz`)."""
    data: bytes
    """Its bytes."""


@contextmanager
def open_tar(path: str) -> Iterator[io.BufferedIOBase]:
    """Open a local tar or one at any fsspec URL, through gzip where it is compressed."""
    with _open_raw(path) as raw:
        if raw.peek(len(GZIP_MAGIC))[: len(GZIP_MAGIC)] == GZIP_MAGIC:
            with gzip.GzipFile(fileobj=raw) as unzipped:
                yield unzipped
        else:
            yield raw


def is_remote(path: str) -> bool:
    """Tell whether a path is an fsspec URL."""
    return "://" in path


def _open_raw(path: str) -> io.BufferedReader:
    """Open a local file, or one at any fsspec URL, buffered."""
    if is_remote(path):
        return io.BufferedReader(fsspec.open(path, "rb").open(), BUFFER_SIZE)
    return io.BufferedReader(io.FileIO(path), BUFFER_SIZE)


def read_members(stream: io.BufferedIOBase) -> Iterator[Member]:
    """Yield the files of a tar in order; links, devices and directories are passed over.

    Raises:
        ValueError: a header is damaged, or the tar ends before its end mark, and at which byte.
    """
    offset = 0
    extended: dict[str, str] = {}
    while (block := _read_exactly(stream, BLOCK, offset)) != ZERO_BLOCK:
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise ValueError(f"no tar header at byte {offset}: {error}") from error
        offset += BLOCK
        name = extended.get("path", header.name)
        nbytes = _data_size(header, extended)
        padded = -(-nbytes // BLOCK) * BLOCK
        if _is_extension(header) and nbytes > MAX_LONG_HEADER:
            raise ValueError(f"a tar header of {nbytes} bytes at byte {offset - BLOCK}")
        data = _read_exactly(stream, padded, offset)[:nbytes]
        if _is_extension(header):
            extended |= _read_extension(header, data, offset)
        else:
            extended = {}
            if header.isreg():
                yield Member(name, offset, data)
        offset += padded
    _check_end(stream, offset)


def _read_exactly(stream: io.BufferedIOBase, nbytes: int, offset: int) -> bytes:
    """Read that many bytes; a stream that ends before is a truncated tar."""
    try:
        data = stream.read(nbytes)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"damaged gzip stream near byte {offset}: {error}") from error
    if len(data) < nbytes:
        raise ValueError(f"truncated: ends at byte {offset + len(data)}, before its end mark")
    return data


def _check_end(stream: io.BufferedIOBase, offset: int) -> None:
    """Refuse anything but zeros after the end mark: a hole in a tar is not its end."""
    try:
        while tail := stream.read(BUFFER_SIZE):
            if tail.strip(b"\0"):
                raise ValueError(f"an end mark at byte {offset}, but more data after it")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"damaged gzip stream after byte {offset}: {error}") from error


def _data_size(header: tarfile.TarInfo, extended: dict[str, str]) -> int:
    """Return how many bytes of data follow a header; links and directories have none."""
    if not header.isreg() and header.type in tarfile.SUPPORTED_TYPES and not _is_extension(header):
        return 0
    text = extended.get("size", str(header.size))
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"member {header.name!r}: no size: {text!r}")
    return int(text)


def _is_extension(header: tarfile.TarInfo) -> bool:
    """Tell whether a header only extends the next one (PAX, and GNU's long names)."""
    return header.type in (
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    )


def _read_extension(header: tarfile.TarInfo, data: bytes, offset: int) -> dict[str, str]:
    """Return the fields of an extension that matter here, `path` and `size`."""
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    if header.type not in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
        return {}
    fields: dict[str, str] = {}
    while data.strip(b"\0"):
        digits = data.partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        keyword, equals, value = data[len(digits) + 1 : max(length - 1, 0)].partition(b"=")
        if not equals or length > len(data):
            raise ValueError(f"damaged PAX header at byte {offset}")
        fields[keyword.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        data = data[length:]
    return {key: fields[key] for key in ("path", "size") if key in fields}
