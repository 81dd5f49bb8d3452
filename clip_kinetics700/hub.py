"""Repositories of the Hub: what names one, at which commit it is, what of it is in the cache.

In: a URL `hf://datasets/OWNER/NAME@REVISION`. Out: the same at a commit, or why it cannot be read,
in words that say what to do. No token is ever part of them.
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
# Repository, revision and directory of what follows the prefix; a revision may hold slashes as
# `%2F`, and pull requests and converted files have some as they are.
HUB_PATH = re.compile(r"([^/@]+/[^/@]+)(?:@(refs/(?:pr|convert)/[^/]+|[^/]+))?(/.*)?")
# What the Hub's client raises: of names that cannot be one of a repository, and of requests or
# httpx, whichever it is built on.
HUB_ERRORS: tuple[type[BaseException], ...] = (ValueError, OSError, *HfHubHTTPError.__bases__)
UNAUTHORIZED = 401
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


class RepositoryUrl(NamedTuple):
    """What follows the prefix of a repository's URL."""

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
    """Return what the URL of a repository names; None where it is another URL or a path."""
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
    place = parse_repository_url(url)
    if revision is None or place is None or place.revision:
        return url
    return f"{HUB_PREFIX}{place.repository}@{quote(revision, safe='')}{place.directory}"


def commit_of(url: str) -> str:
    """Return the commit in the URL of a repository that is pinned."""
    place = parse_repository_url(url)
    return place.revision or "" if place else ""


def pin_commit(url: str) -> Pinned | None:
    """Return a repository at its commit, since a branch may move meanwhile; None for another URL.

    One that cannot be asked, because there is no network or HF_HUB_OFFLINE is set, is that of the
    Hub's cache.

    Raises:
        FileNotFoundError: there is no such repository or revision, or it cannot be asked for and
            is not in the cache.
    """
    place = parse_repository_url(url)
    if place is None:
        return None
    try:
        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
        ask = partial(HfApi().dataset_info, place.repository, revision=place.revision)
        commit, cache = str(retry(ask, url).sha), None
    except HUB_ERRORS as error:
        cache = find_cached(place) if isinstance(error, ConnectionError) else None
        if cache is None:
            raise refuse_repository(url, error) from error
        commit = Path(cache).name
        logger.warning(
            "%s cannot be asked for (%s): what the Hub's cache has of commit %s is read",
            place.repository, describe_refusal(error), commit,
        )  # fmt: skip
        cache += place.directory
    return Pinned(f"{HUB_PREFIX}{place.repository}@{commit}{place.directory}", cache)


def find_cached(place: RepositoryUrl) -> str | None:
    """Return the directory of a repository's files in the Hub's cache, whichever these are."""
    try:
        return snapshot_download(
            place.repository,
            repo_type="dataset",
            revision=place.revision,
            local_files_only=True,
            # With patterns that match nothing no file is missed.
            allow_patterns=[],
        )
    except (ValueError, OSError):
        return None


def keep_in_cache(place: RepositoryUrl, names: Iterable[str]) -> None:
    """Put small files into the Hub's cache, by which a repository is found again without network.

    Those that cannot be had are left out: what needs them works as long as the Hub answers.

    Args:
        place: the repository, at the revision as it is asked for: the cache notes its commit.
        names: of the files.
    """
    for name in names if not place.directory else ():
        with suppress(*HUB_ERRORS):
            hf_hub_download(place.repository, name, repo_type="dataset", revision=place.revision)


def refuse_repository(url: str, error: BaseException) -> FileNotFoundError:
    """Return the error of what is neither a directory nor a repository, in one line."""
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
    # A token that is no valid header is quoted by some of the libraries under the client.
    text = str(error).replace(get_token() or "\0", "<token>")
    return SIGNATURE.sub("", f"{' '.join(text.split()):.200}")
