"""`push` makes one commit and sends nothing twice, whatever the Hub does on the way.

The Hub is `minihub` in this process; pushes are processes of their own, since huggingface_hub reads
HF_ENDPOINT when it is imported.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from clip_kinetics700_builder.dataset.manifest import (
    describe_file,
    require_manifest,
    seal_manifest,
    write_manifest,
)
from tests.support.datasets.builds import run_cli
from tests.support.hub.hubs import ALICE
from tests.support.hub.publishing import (
    ATTRIBUTES,
    REPOSITORY,
    PublishingHub,
    assert_published,
    expect_tree,
)
from tests.support.processes.checkout import SOURCE_PATHS


def rewrite(directory: Path, name: str, data: bytes) -> None:
    """Give a file other bytes, and enter them in the manifest."""
    (directory / name).write_bytes(data)
    manifest = require_manifest(directory)
    n_rows = manifest.files[name].rows if name in manifest.files else 0
    write_manifest(directory, manifest.with_file(name, describe_file(directory / name, n_rows)))


def upload(hub: PublishingHub, name: str) -> None:
    """Put a file that is of no dataset into the repository, as somebody may by hand."""
    api = HfApi(endpoint=hub.endpoint, token=ALICE)
    api.upload_file(
        path_or_fileobj=b"mine", path_in_repo=name, repo_id=REPOSITORY, repo_type="dataset"
    )


@pytest.mark.parametrize(
    "xet",
    [pytest.param(False, id="lfs", marks=pytest.mark.slow), pytest.param(True, id="xet")],
)
def test_a_dataset_is_published_by_one_commit(
    hub: PublishingHub, dataset: Path, *, xet: bool
) -> None:
    """The first push makes one commit of exactly the dataset, the second one makes none."""
    first = hub.push(dataset, REPOSITORY, xet=xet)
    assert first.returncode == 0, first.stderr
    assert_published(hub, dataset)
    sent = "PUT /_lfs/xorb/" if xet else "PUT /_lfs/upload/"
    n_files = sum(not name.endswith((".csv", ".json", ".md")) for name in expect_tree(dataset))
    assert len(hub.list_requests(sent)) == len(hub.list_requests("PUT ")) == n_files
    second = hub.push(dataset, REPOSITORY, xet=xet)
    assert second.returncode == 0, second.stderr
    assert "0 files of 0.0 MB added, 0 deleted" in second.stdout
    assert_published(hub, dataset)
    assert len(hub.list_requests("PUT ")) == n_files


def test_only_what_changed_is_sent(hub: PublishingHub, copy: Path) -> None:
    """Another push after one file has changed sends that file, and deletes what is gone."""
    picture = "figures/class_balance.png"
    (copy / "figures").mkdir()
    rewrite(copy, picture, b"a picture")
    assert hub.push(copy, REPOSITORY).returncode == 0
    document = dict(require_manifest(copy).document)
    document["files"] = {n: entry for n, entry in document["files"].items() if n != picture}
    write_manifest(copy, seal_manifest(document))
    rewrite(copy, "ds_000001.tar", b"other bytes" * 1000)
    n_puts = len(hub.list_requests("PUT "))
    outcome = hub.push(copy, REPOSITORY)
    assert "2 files of 0.0 MB added, 1 deleted, 7 there already" in outcome.stdout
    assert len(hub.list_requests("PUT ")) == n_puts + 1
    assert_published(hub, copy, n_commits=2)


@pytest.mark.slow
def test_extra_files_go_unless_they_are_kept(hub: PublishingHub, layout: Path) -> None:
    """What is not of the dataset is deleted by the same commit, and stays with --keep-extra."""
    assert hub.push(layout, REPOSITORY).returncode == 0
    upload(hub, "notes.txt")
    kept = hub.push(layout, REPOSITORY, "--keep-extra")
    assert kept.returncode == 0
    assert "notes.txt" in hub.read_tree()
    assert hub.push(layout, REPOSITORY).returncode == 0
    assert_published(hub, layout, n_commits=3)


@pytest.mark.slow
def test_a_loading_script_is_not_kept(hub: PublishingHub, layout: Path) -> None:
    """--keep-extra is refused where it would keep the script that datasets >= 4 dies of."""
    assert hub.push(layout, REPOSITORY).returncode == 0
    upload(hub, "CLIP-Kinetics700.py")
    outcome = hub.push(layout, REPOSITORY, "--keep-extra")
    assert outcome.returncode == 2
    assert "holds CLIP-Kinetics700.py, for which datasets >= 4 refuses" in outcome.stderr
    assert hub.push(layout, REPOSITORY).returncode == 0
    assert_published(hub, layout, n_commits=3)


def test_a_dry_run_writes_nothing(hub: PublishingHub, layout: Path) -> None:
    """A dry run says what would be sent, and makes not even the repository."""
    outcome = hub.push(layout, REPOSITORY, "--dry-run")
    assert outcome.returncode == 0, outcome.stderr
    assert "9 files of 0.4 MB added" in outcome.stdout
    assert hub.repository() is None
    assert {entry["line"].split()[0] for entry in hub.list_requests()} == {"GET"}


@pytest.mark.slow
def test_options_of_the_commit(hub: PublishingHub, layout: Path) -> None:
    """A private repository, a new branch, a message and a token from a file are as they were given.

    The main branch stays as it was.
    """
    token_file = hub.home.parent / "token"
    token_file.write_text("hf_alice\n", encoding="utf-8")
    words = ("--private", "--revision", "v2", "--message", "Second try", "--token-file", token_file)
    outcome = hub.push(layout, "lab/dataset", *words, token="")
    assert outcome.returncode == 0, outcome.stderr
    repository = hub.repository("lab/dataset")
    assert repository.meta["private"]
    assert next(repository.log(repository.resolve("v2")))["title"] == "Second try"
    tree = hub.read_tree("lab/dataset", branch="v2")
    assert tree.keys() - {ATTRIBUTES} == expect_tree(layout).keys()
    assert hub.count_commits("lab/dataset") == 0


@pytest.mark.slow
def test_a_pull_request_is_opened_once(hub: PublishingHub, copy: Path) -> None:
    """--create-pr leaves the branch alone, also if its answer is lost, and opens no second one."""
    assert hub.push(copy, REPOSITORY).returncode == 0
    rewrite(copy, "ds_000001.tar", b"other bytes" * 1000)
    hub.fail("POST .*/commit/", "lost")
    for _ in range(2):
        outcome = hub.push(copy, REPOSITORY, "--create-pr", "--message", "Better")
        assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.endswith("/discussions/1\n")
    assert [pull["title"] for pull in hub.repository().meta["pulls"]] == ["Better"]
    assert hub.count_commits() == 1
    tree = hub.read_tree(branch="refs/pr/1")
    assert {name: tree[name] for name in expect_tree(copy)} == expect_tree(copy)


def test_a_pull_request_needs_a_repository(hub: PublishingHub, layout: Path) -> None:
    """Without a repository --create-pr is refused, and creates none."""
    outcome = hub.push(layout, REPOSITORY, "--create-pr")
    assert outcome.returncode == 2
    assert "is not there, so no pull request can be opened" in outcome.stderr
    assert hub.repository() is None


@pytest.mark.slow
def test_what_is_public_stays_public(hub: PublishingHub, layout: Path) -> None:
    """--private is refused for a public repository: what should be private would be published."""
    assert hub.push(layout, REPOSITORY).returncode == 0
    outcome = hub.push(layout, REPOSITORY, "--private")
    assert outcome.returncode == 2
    assert "is public, and --private is for what is created" in outcome.stderr


FAULTS = {
    "busy": ("PUT ", "status", {"code": 503, "times": 2}),
    "too many": ("POST .*/preupload/", "status", {"code": 429, "retry_after": 1}),
    "reset": ("PUT ", "reset", {"after": 20_000}),
    "lost bytes": ("PUT ", "lost", {}),
    "expired": ("PUT ", "expire", {"times": 2}),
    "listing": ("GET .*/tree/", "status", {"code": 500, "times": 2}),
    "lost creation": ("POST .*/repos/create", "lost", {}),
    "refused commit": ("POST .*/commit/", "status", {"code": 503, "times": 2}),
    "lost commit": ("POST .*/commit/", "lost", {}),
    "broken-off commit": ("POST .*/commit/", "reset", {"after": 10}),
    "card": ("POST .*/validate-yaml", "status", {"code": 502}),
}


@pytest.mark.slow
@pytest.mark.parametrize("xet", [False, True], ids=["lfs", "xet"])
@pytest.mark.parametrize("fault", FAULTS)
def test_failures_in_passing_are_overcome(
    hub: PublishingHub, layout: Path, fault: str, *, xet: bool
) -> None:
    """The push goes on by itself, and there is one commit, also if the answer to it was lost."""
    match, action, options = FAULTS[fault]
    hub.fail(match, action, **options)
    outcome = hub.push(layout, REPOSITORY, xet=xet)
    assert outcome.returncode == 0, outcome.stderr
    assert hub.state.faults[0].hits
    assert_published(hub, layout)


IMPATIENT = """
import clip_kinetics700_builder
from clip_kinetics700_builder.config import PushConfig
PushConfig.__init__.__kwdefaults__["timeout_seconds"] = 1
clip_kinetics700_builder.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("match", ["PUT ", "POST .*/commit/", "GET .*/tree/", "GET .*/revision/"])
def test_a_stalled_connection_is_given_up(hub: PublishingHub, layout: Path, match: str) -> None:
    """A server that says nothing for longer than the time-out is asked again."""
    hub.fail(match, "stall", seconds=60)
    environment = {**os.environ, "PYTHONPATH": SOURCE_PATHS, **hub.environment(xet=False)}
    words = [sys.executable, "-c", IMPATIENT, "push", str(layout), REPOSITORY]
    subprocess.run(words, env=environment, check=True, timeout=40)
    assert_published(hub, layout)


@pytest.mark.slow
def test_somebody_elses_commit_is_not_overwritten(
    hub: PublishingHub, copy: Path, layout: Path
) -> None:
    """A commit that lands while bytes are sent ends the push before its own; the next goes on."""
    assert hub.push(layout, REPOSITORY).returncode == 0
    rewrite(copy, "ds_000001.tar", b"other bytes" * 1000)
    hub.fail("PUT ", "delay", seconds=2)
    n_batches = len(hub.list_requests("POST /datasets/"))
    process = hub.start_push(copy, REPOSITORY, xet=False)
    while len(hub.list_requests("POST /datasets/")) == n_batches:
        assert process.poll() is None
    repository = hub.repository()
    tree = dict(repository.commit(repository.resolve("main"))["tree"])
    tree["theirs.txt"] = tree[ATTRIBUTES]
    theirs = repository.add_commit("main", tree, "theirs", "", "bob", repository.resolve("main"))
    output = process.communicate()[0]
    assert process.returncode == 1
    assert f"somebody else has made the commit {theirs[:12]} meanwhile" in output
    assert repository.resolve("main") == theirs
    assert hub.push(copy, REPOSITORY).returncode == 0
    assert_published(hub, copy, n_commits=3)


@pytest.mark.parametrize(
    ("token", "repository", "said"),
    [
        ("hf_wrong", REPOSITORY, "the Hub answers 401: Invalid credentials"),
        ("hf_bob", REPOSITORY, "the Hub answers 403: You don't have the rights"),
        ("", REPOSITORY, "no token for the Hub: `hf auth login`, HF_TOKEN or --token-file"),
        ("hf_alice", "nameless", "REPO_ID 'nameless': must be NAMESPACE/NAME"),
        ("hf_alice", "a/b/c", "Repo id must be in the form"),
        ("hf_alice", "alice/.x", "alice/.x"),
    ],
)
def test_refusals_are_one_line(
    hub: PublishingHub, layout: Path, token: str, repository: str, said: str
) -> None:
    """A bad token or name ends with code 2 and a line that says why, without the token."""
    outcome = hub.push(layout, repository, token=token)
    assert outcome.returncode == 2
    assert said in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert not token or token not in outcome.stdout + outcome.stderr
    assert hub.repository() is None


@pytest.mark.slow
def test_the_token_is_told_to_nobody(hub: PublishingHub, layout: Path) -> None:
    """Neither failures nor --debug write it, nor the signature of a link."""
    secret = "hf_" + "S3cretOfAlice"
    error = json.dumps({"error": f"no {secret}"})
    hub.state.tokens[secret] = ("alice", "write")
    hub.fail("PUT ", "expire", times=2)
    hub.fail("POST .*/commit/", "status", code=503, body=error)
    outcomes = [hub.push(layout, REPOSITORY, token=secret)]
    hub.fail("POST .*/preupload/", "status", code=400, times=-1)
    outcomes += [hub.push(layout, "alice/other", "--debug", token=secret)]
    assert [outcome.returncode == 0 for outcome in outcomes] == [True, False]
    text = "".join(outcome.stdout + outcome.stderr for outcome in outcomes)
    assert secret not in text
    assert not re.search(r"[?&]sig=", outcomes[0].stderr)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("manifest.json", "holds no manifest.json, so it is no finished dataset"),
        ("README.md", "README.md: is missing"),
        ("ds_000001.tar", "ds_000001.tar: is missing; manifest.json lists it"),
    ],
)
def test_an_incomplete_dataset_is_refused(copy: Path, name: str, said: str) -> None:
    """A missing file is named before the Hub is asked for anything."""
    (copy / name).unlink()
    outcome = run_cli("push", copy, REPOSITORY)
    assert outcome.returncode == 2
    assert said in outcome.stderr


@pytest.mark.slow
def test_a_listing_that_differs_is_told(hub: PublishingHub, copy: Path) -> None:
    """A file that the Hub holds otherwise after the commit is a failure that names it."""
    assert hub.push(copy, REPOSITORY).returncode == 0
    rewrite(copy, "ds_000001.tar", b"other bytes" * 1000)
    repository = hub.repository()
    store_file, spoiled = repository.add_commit, "splits.csv"

    def forget(branch: str, files: dict[str, object], *rest: object) -> str:
        return str(store_file(branch, {k: v for k, v in files.items() if k != spoiled}, *rest))

    repository.add_commit = forget
    outcome = hub.push(copy, REPOSITORY)
    assert outcome.returncode == 1
    assert re.search(
        r"1 files of commit \w{12} are not as manifest.json says: splits.csv", outcome.stderr
    )
