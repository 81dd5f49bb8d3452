"""A `PushTarget` is one dataset repository of the Hub; the only module that writes to the Hub.

Failures in passing are tried again; what the Hub refuses for good becomes one line.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_session,
    get_token,
    set_client_factory,
)
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import disable_progress_bars

from clip_kinetics700.hub import UNAUTHORIZED
from clip_kinetics700_builder.config import PushConfig
from clip_kinetics700_builder.hub.errors import FAILURES, convert_error, make_retrying
from clip_kinetics700_builder.types import InputError

log = logging.getLogger(__name__)

Result = TypeVar("Result")

KIND = "dataset"
MAIN = "main"
# httpx names the phases of a request so.
PHASES = ("connect", "read", "write", "pool")


@dataclass(frozen=True, slots=True)
class Commit:
    """A state of the repository that holds what was to be published."""

    oid: str
    url: str


class PushTarget:
    """One dataset repository and one branch of it, or a pull request that is to be opened."""

    def __init__(self, config: PushConfig) -> None:
        """Say nothing to the Hub yet.

        Raises:
            InputError: the Hub is not to be asked, or there is no token for it.
        """
        if constants.HF_HUB_OFFLINE:
            raise InputError("HF_HUB_OFFLINE is set; to push, the Hub must be reached")
        self.repo_id = config.repository
        self.revision = config.revision or MAIN
        self._creates_pr = config.create_pr
        self._api = HfApi(token=read_token(config.token_file))
        self._names: dict[str, Any] = {"repo_id": config.repository, "repo_type": KIND}
        self._retrying = make_retrying(config.first_pause_seconds)
        limit_silence(config.timeout_seconds)

    def retry(self, function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        """Return what a function does with the Hub, tried again after failures in passing.

        Raises:
            InputError: the token may not do this.
            BuildError: it failed for good, or too often.
        """
        try:
            return self._retrying(function, *arguments, **options)
        except FAILURES as error:
            raise convert_error(self.repo_id, error) from error

    def find_head(self) -> str | None:
        """Return the commit that the branch is at.

        Empty where there is no such branch, None where there is no such repository.
        """
        return self.retry(self._read_head, self.revision)

    def _read_head(self, revision: str) -> str | None:
        try:
            return self._api.repo_info(**self._names, revision=revision).sha
        except RevisionNotFoundError:
            return ""
        except RepositoryNotFoundError as error:
            # The Hub calls both so: what is not there and what a stranger may not see.
            if error.response.status_code == UNAUTHORIZED:
                raise
            return None

    def is_private(self) -> bool:
        """Say whether the repository is for its members only."""
        return bool(self.retry(self._api.repo_info, **self._names).private)

    def create(self, *, private: bool) -> None:
        """Create the repository, if it is not there."""
        self.retry(self._api.create_repo, **self._names, private=private or None, exist_ok=True)

    def create_branch(self) -> None:
        """Create the branch where the main one is, if it is not there."""
        self.retry(self._api.create_branch, **self._names, branch=self.revision, exist_ok=True)

    def list_files(self, commit: str) -> list[RepoFile]:
        """Return the files of a commit; none where there is none."""

        def list_tree() -> list[RepoFile]:
            tree = self._api.list_repo_tree(**self._names, revision=commit, recursive=True)
            return [entry for entry in tree if isinstance(entry, RepoFile)]

        return self.retry(list_tree) if commit else []

    def send(self, name: str, content: Path | bytes, sha256: str) -> CommitOperationAdd:
        """Send the bytes of a file, as far as the server lacks them; nobody sees them yet.

        Returns:
            What a commit needs to know of them.
        """
        addition = CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
        addition.upload_info.sha256 = bytes.fromhex(sha256)  # else it would be read for it
        self.retry(
            self._api.preupload_lfs_files,
            additions=[addition],
            **self._names,
            revision=self.revision,
            create_pr=self._creates_pr,
            gitignore_content="",
            num_threads=1,
        )
        return addition

    def commit(
        self,
        additions: Sequence[CommitOperationAdd],
        deletions: Sequence[str],
        *,
        message: str,
        parent: str,
    ) -> Commit:
        """Make one commit of files whose bytes were sent; not tried again here.

        Raises:
            HfHubHTTPError: it was refused, for example since the branch is not at `parent`.
        """
        deleted = [CommitOperationDelete(path_in_repo=name) for name in deletions]
        info: CommitInfo = self._api.create_commit(
            **self._names,
            operations=[*additions, *deleted],
            commit_message=message,
            revision=self.revision,
            parent_commit=parent,
            create_pr=self._creates_pr,
        )
        return Commit(info.oid, str(info.pr_url or info.commit_url))

    def list_pull_requests(self, title: str) -> list[Commit]:
        """Return the heads of the open pull requests of that title."""

        def list_open() -> list[Commit]:
            found = self._api.get_repo_discussions(
                **self._names, discussion_type="pull_request", discussion_status="open"
            )
            return [
                Commit(self._read_head(request.git_reference) or "", request.url)
                for request in found
                if request.title == title and request.git_reference
            ]

        return self.retry(list_open)

    def name_commit(self, oid: str) -> Commit:
        """Return a commit of this repository with its address."""
        return Commit(oid, f"{self._api.endpoint}/datasets/{self.repo_id}/commit/{oid}")


def read_token(path: Path | None) -> str:
    """Return the token of a file, else the one in HF_TOKEN, else the one of `hf auth login`.

    Raises:
        InputError: there is none.
    """
    if path is None:
        token = get_token()
        if token is None:
            raise InputError("no token for the Hub: `hf auth login`, HF_TOKEN or --token-file")
        return token
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "is no text"
        raise InputError(f"--token-file {path}: {reason}") from error
    if len(token.split()) != 1:
        raise InputError(f"--token-file {path}: must hold one token and nothing else")
    return token


def limit_silence(seconds: float) -> None:
    """Make the Hub's client give up connections on which nothing comes, and be quiet itself.

    It waits for ever by default, and asks for that with some requests, so each one is changed.
    """
    session = get_session()
    kind, hooks = type(session), session.event_hooks["request"]

    def limit(request: Any) -> None:
        asked = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            phase: seconds if asked.get(phase) is None else asked[phase] for phase in PHASES
        }

    set_client_factory(
        lambda: kind(follow_redirects=True, event_hooks={"request": [*hooks, limit]})
    )
    disable_progress_bars()
    if not log.isEnabledFor(logging.DEBUG):
        # The client's warnings hold signed URLs, which are keys as long as they are valid.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
