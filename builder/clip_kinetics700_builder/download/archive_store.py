"""Fetches archives into files, goes on where that broke off, and unpacks the clips that are wanted.

A clip gets its final name only after its archive was read to the end and its checksum was right.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from clip_kinetics700.remote import NoRangesError, is_remote, locate, read_head
from clip_kinetics700.schema import parse_json
from clip_kinetics700.streams import read_chunks, read_rest
from clip_kinetics700_builder.sources.archive import (
    ARCHIVE_ERRORS,
    ArchiveClip,
    ArchiveReport,
    explain,
    read_clips,
)
from clip_kinetics700_builder.sources.ledger import ARCHIVE_PAUSES_SECONDS, FetchError, try_again
from clip_kinetics700_builder.system.files import naming, sync_directory, write_json
from clip_kinetics700_builder.types import Archive, BuildError

STAGED = ".staged"
"""End of the name of a clip's file in the staging directory."""
DAMAGE = ("checksum", "truncated", "unreadable", "refused")
"""Reasons for which a fetched archive is not kept: fetched anew it may be right."""


@dataclass(frozen=True, slots=True)
class Store:
    """Where archives and clips lie until they are whole."""

    directory: Path
    stop: Event = field(default_factory=Event)
    """Set when the download is to end."""

    def archive(self, archive: Archive) -> Path:
        """Return the file of an archive that is being fetched."""
        return self.directory / "archives" / f"{archive.name}.partial"

    def staging(self, archive: Archive) -> Path:
        """Return the directory that an archive's clips are unpacked to."""
        return self.directory / "staging" / archive.name

    def catalogue(self, archive: Archive) -> Path:
        """Return the file that lists the clips of an archive."""
        return self.directory / "archives" / f"{archive.name}.json"

    def check(self) -> None:
        """Raise if the download is to end."""
        if self.stop.is_set():
            raise BuildError("interrupted")


def read_catalogue(store: Store, archive: Archive) -> set[str] | None:
    """Return the names of an archive's clips, or None if it was never read to its end."""
    try:
        document = parse_json(store.catalogue(archive).read_bytes())
        return set(document["clips"]) if document["path"] == archive.path else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def take_clips(archive: Archive, wants: Callable[[str], bool], store: Store) -> dict[str, Path]:
    """Return the files of an archive's wanted clips by name, in the staging directory.

    Raises:
        FetchError: the archive cannot be fetched, or is damaged, also when fetched anew.
    """
    # What is wrong where it lies stays wrong; what arrived wrong may arrive right.
    if not is_remote(archive.path):
        return unpack_clips(archive.path, archive, wants, store)

    def fetch_and_unpack() -> dict[str, Path]:
        try:
            return unpack_clips(str(fetch_archive(archive, store)), archive, wants, store)
        except FetchError as error:
            if error.reason in DAMAGE:
                store.archive(archive).unlink(missing_ok=True)
            raise

    return try_again(fetch_and_unpack, ARCHIVE_PAUSES_SECONDS, also=DAMAGE)


def fetch_archive(archive: Archive, store: Store) -> Path:
    """Return the file of a remote archive after fetching the bytes that are missing.

    Raises:
        FetchError: they cannot be fetched.
    """
    path = store.archive(archive)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _, size, version = read_head(locate(archive.path), 1)
    except NoRangesError:
        size, version = None, None
    except ARCHIVE_ERRORS as error:
        raise explain(error, archive.path) from error
    n_here = open_version(path, None if size is None else [size, version])
    chunks = read_chunks(archive.path) if size is None else read_rest(archive.path, n_here, size)
    # What was written before a failure stays.
    with path.open("ab") as file:
        for chunk in explain_errors(chunks, archive.path):
            store.check()
            with naming(path):
                file.write(chunk)
    return path


def explain_errors(chunks: Iterable[bytes | memoryview], path: str) -> Iterator[bytes | memoryview]:
    """Yield chunks; an error of reading them is the archive's, unlike one of writing them."""
    try:
        yield from chunks
    except ARCHIVE_ERRORS as error:
        raise explain(error, path) from error


def open_version(path: Path, version: list[object] | None) -> int:
    """Return how many bytes of this very version of a file are here; remove any other version."""
    mark = path.with_suffix(".version")
    text = json.dumps(version)
    if version is None or not mark.is_file() or mark.read_text(encoding="utf-8") != text:
        path.unlink(missing_ok=True)
        mark.write_text(text, encoding="utf-8")
    return path.stat().st_size if path.is_file() else 0


def unpack_clips(
    path: str, archive: Archive, wants: Callable[[str], bool], store: Store
) -> dict[str, Path]:
    """Write the wanted clips of an archive to its staging directory; return them by name.

    Raises:
        FetchError: the archive cannot be read to its end.
    """
    staging = store.staging(archive)
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    report, files, names = ArchiveReport(), dict[str, Path](), list[str]()

    def note(name: str) -> bool:
        store.check()
        names.append(name)
        return wants(name)

    try:
        for clip in read_clips(path, note, report):
            # An archive may hold several files of one clip: the first with bytes counts.
            if clip.name not in files or files[clip.name].stat().st_size == 0:
                files[clip.name] = write_staged(staging, clip)
    finally:
        report.warn(archive.name)
    sync_directory(staging)
    document = {"path": archive.path, "clips": sorted(set(names)), "refused": report.refusals}
    store.catalogue(archive).parent.mkdir(parents=True, exist_ok=True)
    write_json(store.catalogue(archive), document)
    return files


def write_staged(staging: Path, clip: ArchiveClip) -> Path:
    """Write one clip, synced, and return its file."""
    # The name is no clip's yet: nobody may take what lies here for a clip that was got.
    file = staging / f"{clip.name}.{clip.extension}{STAGED}"
    with naming(file), file.open("wb") as stream:
        stream.write(clip.data)
        stream.flush()
        os.fsync(stream.fileno())
    return file


def forget(archive: Archive, store: Store) -> None:
    """Remove what was fetched of an archive after its clips got their final names."""
    partial = store.archive(archive)
    shutil.rmtree(store.staging(archive), ignore_errors=True)
    partial.unlink(missing_ok=True)
    partial.with_suffix(".version").unlink(missing_ok=True)
