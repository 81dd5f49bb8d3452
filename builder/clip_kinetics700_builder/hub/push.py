"""Push publishes a finished dataset in a repository of the Hub: bytes first, then one commit.

A reader sees the old dataset or the new one, whatever happens on the way. What was sent is not sent
again, what is published is not committed again, and in the end the Hub's listing is compared.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clip_kinetics700.schema import MANIFEST_NAME
from clip_kinetics700_builder.card.render import REPOSITORY_PLACEHOLDER
from clip_kinetics700_builder.config import PushConfig
from clip_kinetics700_builder.dataset.layout import README_NAME
from clip_kinetics700_builder.dataset.manifest import Manifest, require_manifest
from clip_kinetics700_builder.dataset.staging import lock_dataset
from clip_kinetics700_builder.hub.errors import FAILURES
from clip_kinetics700_builder.hub.target import MAIN, Commit, PushTarget
from clip_kinetics700_builder.system.files import format_json, hash_blob, hash_file
from clip_kinetics700_builder.system.progress import Progress, no_progress
from clip_kinetics700_builder.system.threads import work_off
from clip_kinetics700_builder.types import BuildError, InputError

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.hf_api import RepoFile

N_SHOWN = 5
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
    blob_id: str | None
    """Git's name of its content; None where it is too large for git."""

    def is_in(self, remote: "RepoFile | None") -> bool:
        """Say whether a file of the repository has these bytes."""
        if remote is None or remote.size != self.n_bytes:
            return False
        if remote.lfs is not None:
            return bool(remote.lfs.sha256 == self.sha256)
        return self.blob_id is not None and bool(remote.blob_id == self.blob_id)


@dataclass(frozen=True, slots=True)
class Change:
    """What makes a repository the dataset."""

    added: tuple[LocalFile, ...]
    deleted: tuple[str, ...]
    n_same: int
    """Files that are there already."""

    def __repr__(self) -> str:
        """Return counts, not the names of all files."""
        counts = f"{len(self.added)} added, {len(self.deleted)} deleted, {self.n_same} the same"
        return f"Change({counts})"

    @property
    def is_none(self) -> bool:
        """Whether the repository is the dataset already."""
        return not self.added and not self.deleted

    @property
    def n_bytes(self) -> int:
        """Bytes of the files that are added."""
        return sum(file.n_bytes for file in self.added)


def list_files(directory: Path, manifest: Manifest, repo_id: str) -> list[LocalFile]:
    """Return the files of a dataset, those of its manifest first, with the repository's card.

    Raises:
        InputError: files are missing or cut off, or small ones are not what the manifest says.
    """
    files = []
    for name, entry in manifest.files.items():
        path = directory / name
        if not path.is_file():
            raise InputError(f"{path}: is missing; {MANIFEST_NAME} lists it")
        n_bytes = path.stat().st_size
        if n_bytes != entry.bytes:
            raise InputError(f"{path}: has {n_bytes} bytes, {MANIFEST_NAME} says {entry.bytes}")
        # The bytes of large ones are compared before they are sent.
        blob_id = None if n_bytes > MAX_GIT_BYTES else hash_blob(read_checked(path, entry.sha256))
        files.append(LocalFile(name, path, n_bytes, entry.sha256, blob_id))
    card = directory / README_NAME
    if not card.is_file():
        raise InputError(f"{card}: is missing: by the card load_dataset finds the files")
    text = card.read_bytes().replace(REPOSITORY_PLACEHOLDER.encode(), repo_id.encode())
    # What was checked is published, whatever happens to the files: one spelling has these bytes.
    sealed = format_json(manifest.document).encode("utf-8")
    for name, data in ((MANIFEST_NAME, sealed), (README_NAME, text)):
        sha256 = hashlib.sha256(data).hexdigest()
        files.append(LocalFile(name, data, len(data), sha256, hash_blob(data)))
    return files


def read_checked(path: Path, sha256: str) -> bytes:
    """Return the bytes of a small file that still is what the manifest says."""
    data = path.read_bytes()
    refuse_changed(path, hashlib.sha256(data).hexdigest(), sha256)
    return data


def refuse_changed(path: Path, digest: str, sha256: str) -> None:
    """Raise InputError for a file that is not what the manifest says any more."""
    if digest != sha256:
        raise InputError(f"{path}: has the sha256 {digest}, {MANIFEST_NAME} says {sha256}")


@dataclass(frozen=True, slots=True)
class Published:
    """What came of a push."""

    change: Change
    commit: Commit | None
    """What holds the dataset now; None in a dry run."""


@dataclass(frozen=True, slots=True)
class Push:
    """What is published, and where."""

    config: PushConfig
    target: PushTarget
    files: list[LocalFile]
    message: str

    def compare(self, remote: "Iterable[RepoFile]") -> Change:
        """Return what would make a repository with these files the dataset."""
        there = {file.path: file for file in remote}
        added = tuple(file for file in self.files if not file.is_in(there.get(file.name)))
        extra = there.keys() - {file.name for file in self.files} - {ATTRIBUTES_NAME}
        deleted = () if self.config.keep_extra else tuple(sorted(extra))
        return Change(added, deleted, len(self.files) - len(added))

    def find_published(self, head: str, change: Change) -> Commit | None:
        """Return what holds the dataset already: the commit that lacks nothing, or a pull request.

        There is one where the answer to an earlier push was lost.
        """
        if change.is_none:
            return self.target.name_commit(head)
        requests = self.target.list_pull_requests(self.message) if self.config.create_pr else []
        pairs = ((request, self.target.list_files(request.oid)) for request in requests)
        return next((request for request, files in pairs if self.compare(files).is_none), None)


def push(config: PushConfig, *, progress: Progress = no_progress) -> Published:
    """Publish a dataset, which nobody can assemble anew meanwhile.

    Raises:
        InputError: there is no complete dataset, no such repository, or no right to write there.
        BuildError: the Hub failed for too long, or somebody else has changed the repository.
    """
    # Which letters it may have the Hub's client says.
    if not all(config.repository.partition("/")):
        raise InputError(f"REPO_ID {config.repository!r}: must be NAMESPACE/NAME")
    require_manifest(config.directory)
    # Where nothing can be written nothing is assembled either.
    is_fixed = not os.access(config.directory, os.W_OK)
    with nullcontext() if is_fixed else lock_dataset(config.directory):
        return push_locked(config, require_manifest(config.directory), progress)


def push_locked(config: PushConfig, manifest: Manifest, progress: Progress) -> Published:
    """Publish a dataset as its manifest says; the rest is as `push` has it."""
    files = list_files(config.directory, manifest, config.repository)
    target = PushTarget(config)
    digest = manifest.self_sha256[:12]
    message = f"Publish {manifest.totals.samples:,} clips, manifest {digest}"
    job = Push(config, target, files, config.message or message)
    head = open_branch(job)
    remote = target.list_files(head)
    refuse_script(job, remote)
    change = job.compare(remote)
    if config.dry_run:
        return Published(change, None)
    commit = job.find_published(head, change)
    if commit is None:
        with progress("push", len(change.added), "files") as advance:
            send = partial(send_file, target)
            operations = work_off(send, change.added, config.max_workers, advance)
        commit = target.retry(commit_once, job, change, operations, head)
    check_published(job, commit)
    return Published(change, commit)


def open_branch(job: Push) -> str:
    """Return the commit to begin from; repository and branch are created if they are not there.

    Empty where a dry run finds none.

    Raises:
        InputError: a pull request needs a repository and a branch that are there, and what is
            public does not become private.
    """
    target, config = job.target, job.config
    if config.create_pr and config.revision not in (None, MAIN):
        raise InputError(f"--create-pr: the Hub opens them for {MAIN} alone, not {config.revision}")
    head = target.find_head()
    if head is not None and config.private and not target.is_private():
        raise InputError(f"{config.repository}: is public, and --private is for what is created")
    if head or config.dry_run:
        return head or ""
    if config.create_pr:
        what = "is not there" if head is None else f"has no branch {target.revision!r}"
        raise InputError(f"{config.repository}: {what}, so no pull request can be opened")
    if head is None:
        target.create(private=config.private)
        head = target.find_head()
    if not head:
        target.create_branch()
        head = target.find_head()
    return head or ""


def refuse_script(job: Push, remote: "Iterable[RepoFile]") -> None:
    """Refuse to leave a loading script in the repository.

    Raises:
        InputError: with it there, datasets >= 4 refuses the whole repository.
    """
    name = job.config.repository
    script = name.partition("/")[2] + ".py"
    if job.config.keep_extra and any(file.path == script for file in remote):
        raise InputError(
            f"{name}: holds {script}, for which datasets >= 4 refuses the whole repository; push "
            "without --keep-extra, or delete it there"
        )


def send_file(target: PushTarget, file: LocalFile) -> "CommitOperationAdd":
    """Send the bytes of a file that still is what the manifest says.

    Each file is sent by itself: what the storage makes of its bytes then depends on nothing else,
    so it knows them again after an interruption.

    Raises:
        InputError: it is not.
    """
    content = file.content
    if isinstance(content, Path):
        # What is not in LFS is sent by the commit, which comes later: that must be these bytes.
        if file.blob_id is not None:
            content = read_checked(content, file.sha256)
        else:
            refuse_changed(content, hash_file(content), file.sha256)
    return target.send(file.name, content, file.sha256)


def commit_once(
    job: Push, change: Change, operations: "Sequence[CommitOperationAdd]", head: str
) -> Commit:
    """Make the commit, unless an attempt whose answer was lost has made it.

    Raises:
        BuildError: the branch has moved, and not to what was to be published.
    """
    target = job.target
    try:
        return target.commit(operations, change.deleted, message=job.message, parent=head)
    except FAILURES:
        now = target.find_head() or head
        found = job.find_published(now, job.compare(target.list_files(now)))
        if found is not None:
            return found
        if now != head:
            raise BuildError(
                f"{target.repo_id}: somebody else has made the commit {now[:12]} meanwhile; look "
                "at it, then run this again: all bytes are there"
            ) from None
        raise


def check_published(job: Push, commit: Commit) -> None:
    """Compare the Hub's listing with the manifest.

    Raises:
        BuildError: names the files that differ.
    """
    rest = job.compare(job.target.list_files(commit.oid))
    if not rest.is_none:
        names = [*(file.name for file in rest.added), *rest.deleted]
        shown = ", ".join(names[:N_SHOWN]) + (", ..." if len(names) > N_SHOWN else "")
        raise BuildError(
            f"{job.target.repo_id}: {len(names)} files of commit {commit.oid[:12]} are not as "
            f"{MANIFEST_NAME} says: {shown}"
        )
