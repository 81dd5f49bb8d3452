"""Reads the clips of an archive once, from first to last, at any depth and in any dialect of tar.

A hostile member is refused by name. Where the archive itself is damaged nothing of it is to be
trusted, since one gzip checksum stands for all its bytes.
"""

import asyncio
import gzip
import io
import logging
import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from clip_kinetics700.remote import BUFFER_SIZE, NOT_FOUND, is_remote, network_errors
from clip_kinetics700.streams import GZIP_MAGIC, open_stream
from clip_kinetics700.tars import FILE, SPARSE, Header, Stream, read_members
from clip_kinetics700_builder.sources.directory import CLIP_NAME, NO_VIDEO
from clip_kinetics700_builder.sources.ledger import FetchError, is_outage
from clip_kinetics700_builder.system.files import make_printable
from clip_kinetics700_builder.system.outage import explain_outage
from clip_kinetics700_builder.types import OutageError

log = logging.getLogger(__name__)

# Ten seconds of 4K take less; a larger member would only fill the memory.
MAX_CLIP_BYTES = 256 << 20
# Gzip does not make video smaller; what grows by more than this was made to fill disks.
MAX_EXPANSION = 50
FREE_EXPANSION_BYTES = 64 << 20
# Refused names that are kept of one archive: a hostile one could fill the memory with them.
MAX_REFUSALS = 1000
KINDS = {
    tarfile.LNKTYPE[0]: "a hard link",
    tarfile.SYMTYPE[0]: "a symbolic link",
    tarfile.CHRTYPE[0]: "a character device",
    tarfile.BLKTYPE[0]: "a block device",
    tarfile.FIFOTYPE[0]: "a pipe",
    SPARSE: "a sparse file",
}

ARCHIVE_ERRORS: tuple[type[BaseException], ...] = (ValueError, *network_errors())


class ArchiveClip(NamedTuple):
    """One clip of an archive."""

    name: str
    """`ID_START_END`, as files of Kinetics are called."""
    extension: str
    """Extension of the clip's file, without the dot."""
    directory: str
    """Directory of the clip within the tar; empty for none."""
    data: bytes | memoryview
    """The file's bytes."""


@dataclass(slots=True)
class ArchiveReport:
    """What was seen in an archive, whether it was wanted or not."""

    n_clips: int = 0
    refusals: list[str] = field(default_factory=list)
    """One line for each refused member, at most `MAX_REFUSALS`."""

    def refuse(self, name: str, why: str) -> None:
        """Note that a member is refused."""
        if len(self.refusals) < MAX_REFUSALS:
            self.refusals.append(f"{make_printable(name[:200])}: {why}")

    def warn(self, archive: str) -> None:
        """Log each member of an archive that was refused."""
        for line in self.refusals:
            log.warning("%s: refused %s", archive, line)


class BombError(ValueError):
    """An archive is far larger inside than outside."""


def read_clips(
    path: str, wants: Callable[[str], bool], report: ArchiveReport | None = None
) -> Iterator[ArchiveClip]:
    """Yield the wanted clips of an archive in its order.

    Args:
        path: a local path or an fsspec URL of a tar, gzipped or not, whatever its name says.
        wants: tells whether a clip is wanted, by its name `ID_START_END`.
        report: counts all clips, and keeps what is refused.

    Raises:
        FetchError: the archive cannot be read to its end; no clip that came so far can be trusted.
        OutageError: nor can it for now, as its disk or its server fails.
    """
    seen = ArchiveReport() if report is None else report

    def refuse(header: Header) -> bool:
        _, match = match_clip(header.name)
        if not is_harmless(header, seen) or match is None:
            return True
        seen.n_clips += 1
        return not wants(match[1])

    try:
        with open_archive(path) as stream:
            for member in read_members(stream, refuse=refuse):
                directory, match = match_clip(member.name)
                if match is not None:
                    yield ArchiveClip(match[1], match[2], directory, member.data)
    except ARCHIVE_ERRORS as error:
        raise explain(error, path) from error


def is_harmless(header: Header, report: ArchiveReport) -> bool:
    """Tell whether a member may be read; the report gets the name of a hostile one."""
    parts = PurePosixPath(header.name).parts
    if header.kind == tarfile.DIRTYPE[0]:
        return False
    if header.kind != FILE:
        report.refuse(header.name, KINDS.get(header.kind, "neither a file nor a directory"))
    elif header.name.startswith("/") or ".." in parts:
        report.refuse(header.name, "its name leads out of the archive")
    elif header.nbytes > MAX_CLIP_BYTES:
        limit = f"{MAX_CLIP_BYTES:,} are allowed"
        report.refuse(header.name, f"it says that it has {header.nbytes:,} bytes, {limit}")
    else:
        return True
    return False


def match_clip(name: str) -> tuple[str, re.Match[str] | None]:
    """Return the directory of a member and, if it is a clip, the match of its file name."""
    directory, _, file_name = name.rpartition("/")
    match = CLIP_NAME.fullmatch(file_name)
    is_clip = match is not None and NO_VIDEO.fullmatch(match[2]) is None
    return directory.removeprefix("./").strip("."), match if is_clip else None


@contextmanager
def open_archive(path: str) -> Iterator[Stream]:
    """Open a tar, gzipped or not, to be read once."""
    with open_stream(path) as raw:
        if raw.peek(len(GZIP_MAGIC))[: len(GZIP_MAGIC)] != GZIP_MAGIC:
            yield raw
            return
        counted = CountedStream(raw)
        with gzip.GzipFile(fileobj=counted) as unzipped:
            yield BoundedStream(io.BufferedReader(unzipped, BUFFER_SIZE), counted)


class CountedStream(io.RawIOBase):
    """A stream that counts the bytes that were read from it."""

    def __init__(self, stream: io.BufferedReader) -> None:
        """Read this stream."""
        self._stream = stream
        self.n_read = 0

    def read(self, nbytes: int = -1, /) -> bytes:
        """Return the next bytes."""
        data = self._stream.read(nbytes)
        self.n_read += len(data)
        return data


@dataclass(slots=True, eq=False)
class BoundedStream:
    """An unzipped stream that refuses to be far longer than its compressed one."""

    stream: io.BufferedReader
    compressed: CountedStream
    n_read: int = 0

    def read(self, nbytes: int, /) -> bytes:
        """Return the next bytes.

        Raises:
            BombError: the compressed bytes cannot be of videos.
        """
        data = self.stream.read(nbytes)
        self.n_read += len(data)
        n_packed = self.compressed.n_read
        if self.n_read > FREE_EXPANSION_BYTES + MAX_EXPANSION * n_packed:
            raise BombError(f"{n_packed:,} bytes of gzip hold more than {self.n_read:,} bytes")
        return data


def explain(error: BaseException, path: str) -> FetchError | OutageError:
    """Return the error of the ledger for what reading an archive raised, or the outage."""
    if isinstance(error, OSError) and not is_remote(path):
        outage = explain_outage(error, Path(path))
        if outage is not None:
            return outage
    text = " ".join(str(error).split()) or type(error).__name__
    message = make_printable(text if text.startswith(path) else f"{path}: {text}")
    reason = find_reason(error, path)
    return OutageError(message) if is_outage(reason) else FetchError(reason, message)


def find_reason(error: BaseException, path: str) -> str:
    """Return the reason of the ledger for what reading an archive raised."""
    if isinstance(error, BombError) or str(error).startswith("a tar "):
        return "refused"
    if isinstance(error, ValueError):
        if isinstance(error.__cause__, EOFError) or str(error).startswith("truncated"):
            return "truncated"
        return "unreadable" if str(error).startswith("no tar header at byte 0") else "checksum"
    return find_connection_reason(error) if is_remote(path) else "unreadable"


def find_connection_reason(error: BaseException) -> str:
    """Return the reason of the ledger for what a connection raised."""
    cause = error.__cause__ or error
    status = NOT_FOUND if isinstance(error, FileNotFoundError) else getattr(cause, "status", None)
    if isinstance(status, int):
        return f"http_{status}"
    if isinstance(cause, TimeoutError | asyncio.TimeoutError):
        return "timed_out"
    return "truncated" if "has become shorter" in str(error) else "connection"
