"""A snapshot is a repository of the Hub at one commit, its files in the Hub's own cache.

The client compares what it fetches with nothing: a bit that flips on the way stays in the cache. So
the files are verified like those of a directory, and what is damaged is fetched again.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars

from clip_kinetics700.hub import (
    HUB_ERRORS,
    UNAUTHORIZED,
    RepositoryUrl,
    describe_refusal,
    find_source,
    keep_in_cache,
    parse_repository_url,
)
from clip_kinetics700.remote import is_remote, retry
from clip_kinetics700.schema import MANIFEST_NAME
from clip_kinetics700_builder.dataset.layout import README_NAME
from clip_kinetics700_builder.dataset.manifest import ManifestError, read_manifest
from clip_kinetics700_builder.system.files import CANNOT_WRITE, hash_blob, hash_file
from clip_kinetics700_builder.system.progress import Progress
from clip_kinetics700_builder.system.threads import work_off
from clip_kinetics700_builder.types import BuildError, InputError

Result = TypeVar("Result")

FILES_AT_A_TIME = 8
# A request without an answer is given up then; downloads obey HF_HUB_DOWNLOAD_TIMEOUT.
TIMEOUT_SECONDS = 30.0
# hf_xet, which tries again by itself, raises RuntimeError.
DOWNLOAD_ERRORS: tuple[type[BaseException], ...] = (*HUB_ERRORS, RuntimeError)
# What asking again does not change; a gated repository is one that is not found.
REFUSALS = (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError)


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit."""

    name: str
    commit: str
    files: dict[str, Any]
    """What the Hub says of each file, by its name."""

    @property
    def title(self) -> str:
        """How messages name it."""
        return f"{self.name}@{self.commit}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Files of a repository in the Hub's cache."""

    repository: Repository
    directory: Path

    def find_damaged(self, names: Iterable[str]) -> list[str]:
        """Return those of the files that are not, byte for byte, what the Hub holds."""
        return [
            name
            for name in names
            if name in self.repository.files
            and (self.directory / name).is_file()
            and not is_same(self.directory / name, self.repository.files[name])
        ]


def find_repository(source: str, revision: str | None, *, repairs: bool) -> RepositoryUrl | None:
    """Return the repository that a source names; None for a directory.

    Raises:
        InputError: it is another URL, a directory in a repository, or one that has no revisions
            and no copies.
    """
    place = parse_repository_url(url := find_source(source, revision))
    if place is None and is_remote(url):
        raise InputError(f"{source}: directories and repositories of the Hub can be verified")
    option = f"--revision {revision}" if revision is not None else "--force-download"
    if place is None and (revision is not None or repairs):
        raise InputError(f"{option}: {source} is no repository of the Hub")
    if place is not None and place.directory:
        raise InputError(f"{source}: is a directory in a repository; name the repository alone")
    if place is not None and revision is not None and place.revision != revision:
        raise InputError(f"{option}: {source} names another one")
    return place


def fetch_snapshot(place: RepositoryUrl, *, repairs: bool, progress: Progress) -> Snapshot:
    """Fetch all files that the manifest of a repository lists, and its card; cached ones stay.

    What is cached and not what the Hub holds is fetched again if it `repairs`.

    Raises:
        InputError: there is no such repository, it may not be read, or it holds no manifest.
        BuildError: the Hub does not answer, or breaks off.
    """
    repository = ask_repository(place)
    if MANIFEST_NAME not in repository.files:
        raise InputError(f"{repository.title}: holds no {MANIFEST_NAME}, so it cannot be verified")
    # By the revision that was asked for, so that readers find the commit without network.
    keep_in_cache(place, [MANIFEST_NAME])
    path = fetch_file(repository, MANIFEST_NAME)
    snapshot = Snapshot(repository, path.parent)
    if repairs and snapshot.find_damaged([MANIFEST_NAME]):
        fetch_file(repository, MANIFEST_NAME, again=True)
    names = [name for name in list_wanted(path.parent) if name in repository.files]
    with progress("fetch", len(names), "files") as advance:
        work_off(partial(fetch_file, repository), names, FILES_AT_A_TIME, advance)
    if repairs and (damaged := snapshot.find_damaged(names)):
        fetch_again = partial(fetch_file, repository, again=True)
        with progress("fetch", len(damaged), "files") as advance:
            work_off(fetch_again, damaged, FILES_AT_A_TIME, advance)
    return snapshot


def ask_repository(place: RepositoryUrl) -> Repository:
    """Ask the Hub for the commit of a repository and what files it has."""
    ask_info = partial(
        HfApi().dataset_info,
        place.repository,
        revision=place.revision,
        files_metadata=True,
        timeout=TIMEOUT_SECONDS,
    )
    title = f"{place.repository}@{place.revision}" if place.revision else place.repository
    info = ask(ask_info, title)
    files = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    return Repository(place.repository, str(info.sha), files)


def list_wanted(directory: Path) -> list[str]:
    """Return the names of the card and of what the manifest lists, none where it is damaged."""
    try:
        manifest = read_manifest(directory, strict=False)
    except ManifestError:
        manifest = None  # verification says what is wrong with it
    return [README_NAME, *(manifest.files if manifest else ())]


def fetch_file(repository: Repository, name: str, *, again: bool = False) -> Path:
    """Return the path of a file in the Hub's cache, fetched if it is not there; begun ones go on.

    It raises what `ask` raises.
    """

    def fetch() -> str:
        try:
            return hf_hub_download(
                repository.name,
                name,
                repo_type="dataset",
                revision=repository.commit,
                force_download=again,
            )
        except LocalEntryNotFoundError as error:
            # The error's cause says whether to try again.
            raise error.__cause__ or ConnectionError(str(error)) from error

    if not are_progress_bars_disabled():
        disable_progress_bars()
    return Path(ask(fetch, f"{repository.title}: {name}"))


def ask(fetch: Callable[[], Result], title: str) -> Result:
    """Return what the Hub gives, asked again after failures in passing.

    Raises:
        InputError: it may not be read.
        BuildError: the Hub does not answer, or breaks off.
    """
    try:
        return retry(fetch, title)
    except DOWNLOAD_ERRORS as error:
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno in CANNOT_WRITE:
            raise cause from None
        reason = describe_refusal(error).removeprefix(f"{title}: ")
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(cause, REFUSALS) or status == UNAUTHORIZED:
            text = f"{title}: no such dataset on the Hub that can be read ({reason})"
            raise InputError(text) from error
        text = f"{title}: the Hub does not answer or breaks off ({reason}); run it again to go on"
        raise BuildError(text) from error


def is_same(path: Path, info: Any) -> bool:
    """Tell whether a file is what the Hub says of it: by sha256, or by git's hash of small ones."""
    if info.lfs is not None:
        return bool(hash_file(path) == info.lfs.sha256)
    return bool(hash_blob(path.read_bytes()) == info.blob_id)
