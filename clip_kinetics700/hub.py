"""Finds repositories of the Hub: the commit one is at, and what the Hub's cache has of it.

What cannot be read is reported with what to do about it, in a text that never holds a token.
"""

import logging
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from huggingface_hub import HfApi, constants, get_token, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .remote import SIGNATURE, is_remote, retry

logger = logging.getLogger(__name__)

REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
HUB_PREFIX = "hf://datasets/"
# What follows the prefix: repository, revision, directory. A revision holds its slashes as `%2F`,
# but for those of pull requests and of converted files.
HUB_PATH = re.compile(r"([^/@]+/[^/@]+)(?:@(refs/(?:pr|convert)/[^/]+|[^/]+))?(/.*)?")
# What the Hub's client raises: ValueError for names that no repository can have, and the errors of
# requests or httpx, whichever it is built on.
HUB_ERRORS: tuple[type[BaseException], ...] = (ValueError, OSError, *HfHubHTTPError.__bases__)
UNAUTHORIZED = 401
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


class RepositoryUrl(NamedTuple):
    """The parts of `hf://datasets/OWNER/NAME@REVISION/DIRECTORY`."""

    repository: str
    revision: str | None
    """Branch, tag or commit; None is the main branch."""
    directory: str
    """With a slash before it, or empty."""


class Pinned(NamedTuple):
    """A repository at the commit that it has now, or had when it was last asked."""

    url: str
    cache: str | None
    """Directory of its files in the Hub's cache; None where the Hub answers."""


def parse_repository_url(url: str) -> RepositoryUrl | None:
    """Return the parts of a repository's URL; None for another URL or a path."""
    match = HUB_PATH.fullmatch(url.removeprefix(HUB_PREFIX))
    if match is None or not url.startswith(HUB_PREFIX):
        return None
    repository, revision, directory = match.groups(default="")
    return RepositoryUrl(repository, unquote(revision) or None, directory)


def find_source(source: str | os.PathLike[str], revision: str | None = None) -> str:
    """Return the absolute path of a directory or the URL of anything else."""
    text = os.fspath(source)
    if is_remote(text):
        url = text.rstrip("/")
    elif not REPOSITORY.fullmatch(text) or Path(text).exists():
        return str(Path(text).expanduser().absolute())
    else:
        url = f"{HUB_PREFIX}{text}"
    parsed = parse_repository_url(url)
    if revision is None or parsed is None or parsed.revision:
        return url
    return f"{HUB_PREFIX}{parsed.repository}@{quote(revision, safe='')}{parsed.directory}"


def pin_commit(url: str) -> Pinned | None:
    """Return a repository at its commit, since a branch may move meanwhile; None for another URL.

    Where the Hub cannot be asked, or HF_HUB_OFFLINE is set, the Hub's cache tells.

    Raises:
        FileNotFoundError: there is no such repository or revision, or the Hub cannot be asked and
            the cache has nothing of it.
    """
    parsed = parse_repository_url(url)
    if parsed is None:
        return None
    repository, revision, directory = parsed
    try:
        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
        ask = partial(HfApi().dataset_info, repository, revision=revision)
        commit, cache = str(retry(ask, url).sha), None
    except HUB_ERRORS as error:
        cache = find_cached(repository, revision) if isinstance(error, ConnectionError) else None
        if cache is None:
            raise refuse_repository(url, error) from error
        commit = Path(cache).name
        logger.warning(
            "%s cannot be asked for (%s): what the Hub's cache has of commit %s is read",
            repository, describe_refusal(error), commit,
        )  # fmt: skip
        cache += directory
    return Pinned(f"{HUB_PREFIX}{repository}@{commit}{directory}", cache)


def find_cached(repository: str, revision: str | None) -> str | None:
    """Return the directory of a repository's files in the Hub's cache, whichever these are."""
    try:
        # Patterns that match nothing, since it would raise if a file that matches were not there.
        return snapshot_download(
            repository,
            repo_type="dataset",
            revision=revision,
            local_files_only=True,
            allow_patterns=[],
        )
    except (ValueError, OSError):
        return None


def keep_in_cache(url: RepositoryUrl, names: Iterable[str]) -> None:
    """Put small files into the Hub's cache, by which a repository is found again without network.

    It is named at the revision that the user gave, whose commit the cache notes. Files that cannot
    be had are left out: they are needed only once the Hub does not answer.
    """
    for name in names if not url.directory else ():
        with suppress(*HUB_ERRORS):
            hf_hub_download(url.repository, name, repo_type="dataset", revision=url.revision)


def fetch_files(url: RepositoryUrl, names: Iterable[str]) -> str:
    """Put files of a repository's directory into the Hub's cache; return that directory there.

    Raises:
        OSError: one of them cannot be had.
    """
    prefix = f"{url.directory}/".lstrip("/")
    snapshot = snapshot_download(
        url.repository,
        repo_type="dataset",
        revision=url.revision,
        allow_patterns=[prefix + name for name in names],
    )
    return f"{snapshot}{url.directory}"


def refuse_repository(url: str, error: BaseException) -> FileNotFoundError:
    """Return the one-line error for a name that is neither a directory nor a repository."""
    name, reason = url.removeprefix(HUB_PREFIX), describe_refusal(error)
    if isinstance(error, ConnectionError):
        reason += "; nothing of it is in the Hub's cache"
    return FileNotFoundError(
        f"no directory {name} here, and no dataset {name} on the Hub ({reason})"
    )


def describe_refusal(error: BaseException) -> str:
    """Return why the Hub gives no repository, and what to do about it."""
    cause = error.__cause__ or error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if isinstance(cause, GatedRepoError):
        return f"it is gated: ask for access on its page; {LOG_IN}"
    if isinstance(cause, RevisionNotFoundError):
        return "it has no such revision"
    if isinstance(cause, RepositoryNotFoundError) and get_token() is None:
        return f"there is none, or it is private: {LOG_IN}"
    if isinstance(cause, RepositoryNotFoundError):
        return "there is none, or it is private and the account of your token may not read it"
    if status == UNAUTHORIZED:
        return f"it refuses your token, of HF_TOKEN or of `hf auth login`: {LOG_IN}"
    # Some libraries under the client quote a token that is no valid header.
    text = str(error).replace(get_token() or "\0", "<token>")
    return SIGNATURE.sub("", f"{' '.join(text.split()):.200}")
