"""A dataset in, the files to publish out, and what of them a repository lacks.

In: a directory with a manifest, and the Hub's listing. Out: what is to be added and deleted.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.card import REPOSITORY_PLACEHOLDER
from builder.manifest import hash_manifest, read_manifest
from builder.output import README_NAME
from builder.push_target import RemoteFile
from builder.types import InputError
from builder.write import hash_blob, hash_file
from clip_kinetics700.schema import MANIFEST_NAME

# The repository's own: which files are in LFS.
ATTRIBUTES_NAME = ".gitattributes"
# Larger ones are in LFS, where the Hub tells their sha256.
MAX_GIT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file that is to be published."""

    name: str
    content: Path | bytes
    n_bytes: int
    sha256: str

    def is_in(self, remote: RemoteFile | None) -> bool:
        """Say whether a file of the repository has these bytes."""
        if remote is None or remote.n_bytes != self.n_bytes:
            return False
        if remote.sha256 is not None:
            return remote.sha256 == self.sha256
        return self.n_bytes <= MAX_GIT_BYTES and remote.git_oid == hash_blob(self.read())

    def read(self) -> bytes:
        """Return the content."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


@dataclass(frozen=True, slots=True)
class Change:
    """What makes a repository the dataset."""

    added: tuple[LocalFile, ...]
    deleted: tuple[str, ...]
    n_same: int
    """Files that are there already."""

    @property
    def is_none(self) -> bool:
        """Whether the repository is the dataset already."""
        return not self.added and not self.deleted

    @property
    def n_bytes(self) -> int:
        """Bytes of the files that are added."""
        return sum(file.n_bytes for file in self.added)


def read_whole_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest of a dataset.

    Raises:
        InputError: there is none, or not as it was written.
    """
    manifest = read_manifest(directory) if directory.is_dir() else None
    if manifest is None:
        raise InputError(f"{directory}: holds no dataset: there is no {MANIFEST_NAME}")
    if manifest.get("self_sha256") != hash_manifest(manifest):
        raise InputError(f"{directory / MANIFEST_NAME}: was changed after it was written")
    return manifest


def write_message(manifest: Mapping[str, Any]) -> str:
    """Return the commit's message: which dataset it is."""
    samples, digest = manifest["totals"]["samples"], manifest["self_sha256"]
    return f"Publish {samples:,} clips, manifest {digest[:12]}"


def list_files(directory: Path, manifest: Mapping[str, Any], repo_id: str) -> list[LocalFile]:
    """Return the files of a dataset, those of its manifest first, with the repository's card.

    Raises:
        InputError: files are missing or cut off.
    """
    files = [describe_local(directory, name, entry) for name, entry in manifest["files"].items()]
    path = directory / MANIFEST_NAME
    files.append(LocalFile(MANIFEST_NAME, path, path.stat().st_size, hash_file(path)))
    card = directory / README_NAME
    if not card.is_file():
        raise InputError(f"{card}: is missing: by the card load_dataset finds the files")
    text = card.read_bytes().replace(REPOSITORY_PLACEHOLDER.encode(), repo_id.encode())
    files.append(LocalFile(README_NAME, text, len(text), hashlib.sha256(text).hexdigest()))
    return files


def describe_local(directory: Path, name: str, entry: Mapping[str, Any]) -> LocalFile:
    """Return a file of the manifest; its bytes are compared before they are sent.

    Raises:
        InputError: it is missing or has another size.
    """
    path = directory / name
    if not path.is_file():
        raise InputError(f"{path}: is missing; {MANIFEST_NAME} lists it")
    n_bytes = path.stat().st_size
    if n_bytes != entry["bytes"]:
        raise InputError(f"{path}: has {n_bytes} bytes, {MANIFEST_NAME} says {entry['bytes']}")
    return LocalFile(name, path, n_bytes, entry["sha256"])


def compare_files(
    files: Iterable[LocalFile], remote: Iterable[RemoteFile], *, keep_extra: bool
) -> Change:
    """Return what would make a repository with these files the dataset."""
    there = {file.name: file for file in remote}
    local = {file.name: file for file in files}
    added = tuple(file for name, file in local.items() if not file.is_in(there.get(name)))
    extra = sorted(there.keys() - local.keys() - {ATTRIBUTES_NAME})
    return Change(added, () if keep_extra else tuple(extra), len(local) - len(added))
