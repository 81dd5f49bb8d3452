"""Runs a Hub in this process, and tells what the pushes of other processes did to it."""

import hashlib
import json
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_kinetics700_builder.dataset.manifest import (
    describe_file,
    make_manifest,
    write_manifest,
)
from clip_kinetics700_builder.dataset.totals import Totals
from tests.support.datasets.builds import Outcome, command_line, run_cli_process
from tests.support.hub import minihub
from tests.support.processes.checkout import SOURCE_PATHS

ALICE = "hf_alice"
REPOSITORY = "alice/CLIP-Kinetics700"
ATTRIBUTES = ".gitattributes"


@dataclass(slots=True)
class PublishingHub:
    """A server of which tests know everything."""

    endpoint: str
    state: Any
    home: Path

    def environment(self, *, xet: bool, token: str = ALICE) -> dict[str, str]:
        """Return the variables that make a process use this Hub."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": token,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_XET": "0" if xet else "1",
        }

    def push(self, *words: str | Path, xet: bool = False, token: str = ALICE) -> Outcome:
        """Push in a process of its own."""
        environment = self.environment(xet=xet, token=token)
        return run_cli_process("push", *words, **environment)

    def start_push(self, *words: str | Path, xet: bool) -> "subprocess.Popen[str]":
        """Begin to push in a process of its own."""
        environment = {**os.environ, "PYTHONPATH": SOURCE_PATHS, **self.environment(xet=xet)}
        return subprocess.Popen(
            command_line("push", *words),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def fail(self, match: str, action: str, **options: Any) -> None:
        """Let the next request whose line holds the pattern go wrong."""
        with self.state.mu:
            self.state.faults.append(minihub.Fault(match, action, **options))

    def heal(self) -> None:
        """Let nothing go wrong any more."""
        with self.state.mu:
            self.state.faults.clear()

    def repository(self, name: str = REPOSITORY) -> Any:
        """Return the server's own view of a repository, None where there is none."""
        return self.state.store.get("dataset", name)

    def count_commits(self, name: str = REPOSITORY, *, branch: str = "main") -> int:
        """Return how many commits a branch has, the repository's first one not counted."""
        repository = self.repository(name)
        return sum(1 for _ in repository.log(repository.resolve(branch))) - 1

    def read_tree(self, name: str = REPOSITORY, *, branch: str = "main") -> dict[str, str]:
        """Return the sha256 of every file of a branch, as its bytes lie on the server."""
        return hash_all(next(self.read_commits(name, branch=branch)))

    def read_commits(
        self, name: str = REPOSITORY, *, branch: str = "main"
    ) -> Iterator[dict[str, bytes]]:
        """Yield the files of each commit of a branch, the last one first."""
        repository, path_of = self.repository(name), self.state.store.path_of
        for commit in repository.log(repository.resolve(branch)):
            yield {
                name: Path(path_of(entry)).read_bytes() for name, entry in commit["tree"].items()
            }

    def list_requests(self, begin: str = "") -> list[dict[str, Any]]:
        """Return the requests whose line begins so, in order."""
        with self.state.mu:
            return [entry for entry in self.state.logs if entry["line"].startswith(begin)]

    def count_put_bytes(self) -> int:
        """Return the bytes of files that were sent, also those of requests that broke off."""
        return sum(entry["bytes_in"] for entry in self.list_requests("PUT "))


@contextmanager
def run_hub(root: Path, *words: str) -> Iterator[PublishingHub]:
    """Yield a Hub of alice and bob, and of the organisation `lab` that alice is a member of."""
    options = ["--root", str(root / "hub"), "--port", "0", "--org", "lab:alice", *words]
    endpoint, state, stop = minihub.start(minihub.make_args(options))
    try:
        yield PublishingHub(endpoint, state, root / "home")
    finally:
        stop()


def expect_tree(directory: Path, repository: str = REPOSITORY) -> dict[str, str]:
    """Return what a repository must hold: the manifest's files, the manifest and the card."""
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    names = [*manifest["files"], "manifest.json"]
    tree = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in names}
    card = (directory / "README.md").read_text(encoding="utf-8")
    text = card.replace("PATH_OR_REPOSITORY", repository)
    return {**tree, "README.md": hashlib.sha256(text.encode()).hexdigest()}


def assert_published(hub: PublishingHub, directory: Path, *, n_commits: int = 1) -> None:
    """Check that the repository is the dataset, byte for byte, after so many commits.

    In none of these did a manifest lie beside files of another dataset.
    """
    tree = hub.read_tree()
    assert tree.pop(ATTRIBUTES)
    assert tree == expect_tree(directory)
    assert hub.count_commits() == n_commits
    for files in hub.read_commits():
        if data := files.get("manifest.json"):
            entries = json.loads(data)["files"]
            stated = {name: entry["sha256"] for name, entry in entries.items()}
            assert hash_all(files).items() >= stated.items()


def hash_all(files: dict[str, bytes]) -> dict[str, str]:
    """Return the sha256 of every file."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def write_layout(directory: Path, *, n_shards: int, shard_bytes: int, seed: int = 0) -> Path:
    """Write files with the names of a dataset, a manifest of them and a card; the bytes are noise.

    `push` compares files with the manifest and looks into none.
    """
    random_bytes = random.Random(seed).randbytes
    (directory / "data").mkdir(parents=True)
    names = [f"ds_{number:06d}.tar" for number in range(n_shards)]
    names += [f"data/train-{number:05d}-of-{n_shards:05d}.parquet" for number in range(n_shards)]
    for name in names:
        (directory / name).write_bytes(random_bytes(shard_bytes))
    (directory / "index.parquet").write_bytes(random_bytes(1000))
    (directory / "failures.parquet").write_bytes(b"")
    (directory / "splits.csv").write_text("tar_file,split\n", encoding="utf-8")
    rows = {"index.parquet": n_shards, "splits.csv": n_shards, "failures.parquet": 0}
    files = {
        name: describe_file(directory / name, n_rows)
        for name, n_rows in {**dict.fromkeys(names, 1), **rows}.items()
    }
    formats = ["parquet", "webdataset"]
    manifest = make_manifest(
        configuration={"embedding_width": 512, "formats": formats, "samples_per_shard": 1},
        class_names=None,
        splits={"train": Totals(rows=n_shards, samples=n_shards)},
        files=files,
        canary=None,
        date=None,
    )
    write_manifest(directory, manifest)
    card = '---\nlicense: mit\n---\n\nload_dataset("PATH_OR_REPOSITORY")\n'
    (directory / "README.md").write_text(card, encoding="utf-8")
    return directory
