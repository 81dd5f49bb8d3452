"""Archives fetched into files, resumed where they broke off, and the clips that are taken of them.

A clip gets its final name when its archive was read to the end and its checksum was right.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from clip_kinetics700.remote import NoRangesError, is_remote, locate, read_head
from clip_kinetics700.streams import read_chunks, read_rest
from clip_kinetics700_builder.sources.archive import (
    ARCHIVE_ERRORS,
    ArchiveClip,
    ArchiveReport,
    explain,
    read_clips,
)
from clip_kinetics700_builder.sources.ledger import FetchError, is_passing
from clip_kinetics700_builder.system.files import naming, sync_directory, write_json
from clip_kinetics700_builder.types import Archive, BuildError

ATTEMPTS = 3
STAGED = ".staged"
"""Ends the name of a clip's file in the staging directory."""
DAMAGE = ("checksum", "truncated", "unreadable", "refused")
"""Reasons for which what was fetched is not kept."""


@dataclass(frozen=True, slots=True)
class Store:
    """Where half a download lies until it is whole."""

    directory: Path
    stop: Event = field(default_factory=Event)
    """Set when the run is to end."""

    def archive(self, archive: Archive) -> Path:
        """Return the file of an archive that is being fetched."""
        return self.directory / "archives" / f"{archive.name}.partial"

    def staging(self, archive: Archive) -> Path:
        """Return the directory of an archive's clips until all of it was read."""
        return self.directory / "staging" / archive.name

    def catalogue(self, archive: Archive) -> Path:
        """Return the file that tells which clips an archive holds."""
        return self.directory / "archives" / f"{archive.name}.json"

    def check(self) -> None:
        """Raise where the run is to end."""
        if self.stop.is_set():
            raise BuildError("interrupted")


def read_catalogue(store: Store, archive: Archive) -> set[str] | None:
    """Return the names of an archive's clips, or None where it was not read to its end yet."""
    path = store.catalogue(archive)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return set(document["clips"]) if document["path"] == archive.path else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def take_clips(archive: Archive, wants: Callable[[str], bool], store: Store) -> dict[str, Path]:
    """Fetch an archive and return the files of its wanted clips by name, in the staging directory.

    Raises:
        FetchError: it cannot be fetched, or is damaged, also when fetched anew.
    """
    for _ in range(ATTEMPTS - 1):
        with suppress(PassingError):
            return try_clips(archive, wants, store)
    return try_clips(archive, wants, store)


def try_clips(archive: Archive, wants: Callable[[str], bool], store: Store) -> dict[str, Path]:
    """Do so once.

    Raises:
        PassingError: it may go right the next time.
        FetchError: it will not.
    """
    is_fetched = is_remote(archive.path)
    try:
        path = str(fetch_archive(archive, store)) if is_fetched else archive.path
        return unpack_clips(path, archive, wants, store)
    except FetchError as error:
        if error.reason in DAMAGE:
            store.archive(archive).unlink(missing_ok=True)
        # What arrived wrong may arrive right; what is wrong where it lies does not change.
        if is_fetched and (is_passing(error) or error.reason in DAMAGE):
            raise PassingError(error.reason, str(error)) from error
        raise


class PassingError(FetchError):
    """Something that may go right the next time."""


def fetch_archive(archive: Archive, store: Store) -> Path:
    """Return the file of a remote archive, of which no byte that is here is fetched again.

    Raises:
        FetchError: it cannot be fetched.
    """
    path = store.archive(archive)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _, size, version = read_head(locate(archive.path), 1)
    except NoRangesError:
        size, version = None, None
    except ARCHIVE_ERRORS as error:
        raise explain(error, archive.path) from error
    begin = begin_file(path, None if size is None else [size, version])
    whole = size is None
    chunks = read_chunks(archive.path) if whole else read_rest(archive.path, begin, size or 0)
    append_chunks(path, explain_errors(chunks, archive.path), store)
    return path


def explain_errors(chunks: Iterable[bytes | memoryview], path: str) -> Iterator[bytes | memoryview]:
    """Yield chunks; what fails in reading them, not in writing, is the archive's fault."""
    try:
        yield from chunks
    except ARCHIVE_ERRORS as error:
        raise explain(error, path) from error


def begin_file(path: Path, version: list[object] | None) -> int:
    """Return how many bytes of this very version of a file are here; others are removed."""
    mark = path.with_suffix(".version")
    text = json.dumps(version)
    if version is None or not mark.is_file() or mark.read_text(encoding="utf-8") != text:
        path.unlink(missing_ok=True)
        mark.write_text(text, encoding="utf-8")
    return path.stat().st_size if path.is_file() else 0


def append_chunks(path: Path, chunks: Iterable[bytes | memoryview], store: Store) -> None:
    """Write what comes at the end of a file; what was written before a failure stays."""
    with path.open("ab") as file:
        for chunk in chunks:
            store.check()
            with naming(path):
                file.write(chunk)


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
            # Of several files of one clip the first with bytes counts.
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
    """Write one clip, synced."""
    # No clip's name yet: what lies here is not to be taken for one that was got.
    file = staging / f"{clip.name}.{clip.extension}{STAGED}"
    with naming(file), file.open("wb") as stream:
        stream.write(clip.data)
        stream.flush()
        os.fsync(stream.fileno())
    return file


def forget(archive: Archive, store: Store) -> None:
    """Remove what was fetched of an archive whose clips have landed."""
    partial = store.archive(archive)
    shutil.rmtree(store.staging(archive), ignore_errors=True)
    partial.unlink(missing_ok=True)
    partial.with_suffix(".version").unlink(missing_ok=True)
