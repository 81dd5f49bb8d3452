"""Writes files so that they appear whole or not at all; nothing else puts a final name on bytes."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clip_kinetics700.schema import parse_json
from clip_kinetics700_builder.types import InputError

BUFFER_NBYTES = 1 << 20
SEAL_NAME = "self_sha256"
# What file systems say that do not sync directories: FUSE, SMB and some of clusters.
CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
# Errors of a disk that is full, read-only or of another user.
CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make an error of the disk name this file, which the system and pyarrow do not always do."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


@contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Yield `FINAL.partial` to write to; sync and rename it when the block succeeds.

    Raises:
        OSError: the disk is full or broken; the error names the file.
    """
    partial = final.with_name(final.name + ".partial")
    try:
        # A killed run may have left it; nobody may have laid a link there to another file.
        partial.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(final)
        sync_directory(final.parent)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        with naming(final):
            raise


def write_text(final: Path, text: str) -> None:
    """Write a whole utf-8 text file."""
    with atomic_path(final) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_bytes(final: Path, content: bytes) -> None:
    """Write a whole binary file."""
    with atomic_path(final) as partial:
        partial.write_bytes(content)


def write_json(final: Path, document: Any) -> None:
    """Write a whole JSON file."""
    write_text(final, format_json(document))


def format_json(document: Any) -> str:
    """Return the one spelling in which JSON files are written, with sorted keys."""
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def hash_json(document: Any) -> str:
    """Return the sha256 of the one spelling of a JSON document that hashes are taken over."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def seal_json(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the hash of all the rest of it as `self_sha256`."""
    content = {name: value for name, value in document.items() if name != SEAL_NAME}
    return {**content, SEAL_NAME: hash_json(content)}


def read_sealed_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file without its `self_sha256`, which may be missing.

    Older versions sealed manifests alone.

    Raises:
        ValueError: it is no JSON object, or not what it was when it was sealed.
    """
    document = parse_json(path.read_bytes())
    if not isinstance(document, dict):
        raise ValueError("is no JSON object")
    stated = document.pop(SEAL_NAME, None)
    if stated not in (None, hash_json(document)):
        raise ValueError(f"its content is not what {SEAL_NAME} says")
    return document


def sync_directory(directory: Path) -> None:
    """Make renames in a directory survive a power cut, where its file system knows how."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def hash_file(path: Path) -> str:
    """Return the sha256 of a file, read in pieces."""
    sha256, buffer = hashlib.sha256(), memoryview(bytearray(BUFFER_NBYTES))
    with naming(path), path.open("rb", buffering=0) as stream:
        while nbytes := stream.readinto(buffer):
            sha256.update(buffer[:nbytes])
    return sha256.hexdigest()


def hash_blob(data: bytes) -> str:
    """Return git's name of a small file's content, by which the Hub compares files."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def check_directory(option: str, path: Path) -> None:
    """Refuse an output path that is a file, lies under one, or cannot be written to."""
    if path.is_symlink() and not path.exists():
        raise InputError(f"{option} {path}: is a link to nothing; a directory is needed")
    for place in (path, *path.absolute().parents):
        if place.is_dir():
            if not os.access(place, os.W_OK | os.X_OK):
                raise InputError(f"{option} {path}: {place} cannot be written to")
            return
        if place.exists():
            raise InputError(f"{option} {path}: {place} is a file; a directory is needed")


def make_printable(text: str) -> str:
    """Return text as one printable line; names in a damaged file can hold anything."""
    return text if text.isprintable() else ascii(text)[1:-1]
