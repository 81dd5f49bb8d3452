"""Runs a Hub on this machine, `minihub`, and processes that use it.

The clients are processes of their own because huggingface_hub reads HF_ENDPOINT when it is
imported.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
from huggingface_hub import HfApi

from tests.support.datasets.builds import Outcome, command_line
from tests.support.processes.checkout import PROJECT, SOURCE_PATHS

# The tokens of the Hub's users.
ALICE, BOB = "hf_alice", "hf_bob"

BEGIN = """
import json, logging, sys
import clip_kinetics700
import psutil
from huggingface_hub import HfApi
arguments = sys.argv[1:]
"""
KEYS = """
source, options, words = arguments[0], json.loads(arguments[1]), json.loads(arguments[2])
dataset = clip_kinetics700.open(source, **options).select(**words)
print(json.dumps([sample.key for sample in iter(dataset)]))
"""
OPEN = """
for source, revision in json.loads(arguments[0]):
    try:
        found = [sample.key for sample in clip_kinetics700.open(source, revision=revision)]
    except FileNotFoundError as error:
        found = f"FileNotFoundError: {error}"
    print(json.dumps(found))
"""
LOAD = """
for source, options in json.loads(arguments[0]):
    loaded = clip_kinetics700.load_dataset(source, **options)
    print(json.dumps([row["meta"]["key"] for part in loaded.values() for row in part]))
"""


@dataclass
class Hub:
    """A Hub that runs, and the processes that use it."""

    endpoint: str
    home: Path
    process: "subprocess.Popen[bytes]"

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a process that uses it: its own cache, LFS, user alice."""
        return {
            **os.environ,
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": ALICE,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PYTHONPATH": SOURCE_PATHS,
            "PYTHONWARNINGS": "ignore",
            **more,
        }

    def run_command(self, *words: str | Path, **environment: str) -> Outcome:
        """Run the command line in a process of its own."""
        return run_process(command_line(*words), self.environment(**environment))

    def try_to_run(self, code: str, *arguments: str, **environment: str) -> Outcome:
        """Run code in a process of its own and return how it ended."""
        command = [sys.executable, "-c", BEGIN + code, *arguments]
        return run_process(command, self.environment(**environment))

    def run(self, code: str, *arguments: str, **environment: str) -> str:
        """Run code in a process of its own and return what it prints."""
        done = self.try_to_run(code, *arguments, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def run_watched(
        self, code: str, *arguments: str, **environment: str
    ) -> tuple[Outcome, set[str]]:
        """Run code; return also the command lines of all processes it starts, its own included."""
        command = [sys.executable, "-c", BEGIN + code, *arguments]
        return run_watched(command, self.environment(**environment))

    def run_command_watched(self, *words: str, **environment: str) -> tuple[Outcome, set[str]]:
        """Run the command line; return also the command lines of all processes it starts."""
        return run_watched(command_line(*words), self.environment(**environment))

    def publish(
        self,
        directory: Path,
        repository: str,
        *,
        branch: str | None = None,
        private: bool = False,
    ) -> str:
        """Make a repository, or a branch of it, hold a directory's files but the hidden ones.

        Returns:
            The commit.
        """
        api = HfApi(endpoint=self.endpoint, token=ALICE)
        api.create_repo(repository, repo_type="dataset", exist_ok=True, private=private)
        if branch is not None:
            api.create_branch(repository, branch=branch, repo_type="dataset", exist_ok=True)
        done = api.upload_folder(
            repo_id=repository,
            folder_path=directory,
            repo_type="dataset",
            delete_patterns="*",
            ignore_patterns=".*",
            revision=branch,
        )
        return str(done.oid)

    def keys(self, source: str, *, revision: str | None = None, **words: Any) -> list[str]:
        """Return the keys that `open(source, revision=...).select(...)` gives."""
        options = json.dumps({"revision": revision})
        return list(json.loads(self.run(KEYS, source, options, json.dumps(words))))

    def open(self, *sources: tuple[str, str | None]) -> list[list[str] | str]:
        """Return the keys of each repository at a revision, or the error where there is none.

        One process opens them all: each loads numpy and Arrow for half a second.
        """
        return [json.loads(line) for line in self.run(OPEN, json.dumps(sources)).splitlines()]

    def load(self, *loads: tuple[str, dict[str, Any]]) -> list[list[str]]:
        """Return the keys that each `load_dataset(source, ...)` gives."""
        return [json.loads(line) for line in self.run(LOAD, json.dumps(loads)).splitlines()]

    def control(self, name: str, body: Any = None) -> Any:
        """Ask the server for its log, to forget it, or for faults."""
        connection = HTTPConnection(self.endpoint.removeprefix("http://"))
        data = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", f"/_minihub/{name}", data)
        answer = json.load(connection.getresponse())
        connection.close()
        return answer

    def heal(self) -> None:
        """Let nothing go wrong from now on."""
        connection = HTTPConnection(self.endpoint.removeprefix("http://"))
        connection.request("DELETE", "/_minihub/faults")
        connection.getresponse().read()
        connection.close()

    def requests(self, pattern: str) -> list[dict[str, Any]]:
        """Return the requests whose path holds a pattern."""
        return [entry for entry in self.control("log") if pattern in entry["line"]]


def upload_dataset(directory: Path, repository: str, environment: Mapping[str, str]) -> None:
    """Put the files of a directory into a dataset repository, as the user of an environment."""
    api = HfApi(endpoint=environment["HF_ENDPOINT"], token=environment["HF_TOKEN"])
    api.create_repo(repository, repo_type="dataset", exist_ok=True)
    api.upload_folder(repo_id=repository, folder_path=directory, repo_type="dataset")


def run_process(command: list[str], environment: dict[str, str]) -> Outcome:
    """Run a command to its end."""
    done = subprocess.run(
        command, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def run_watched(command: list[str], environment: dict[str, str]) -> tuple[Outcome, set[str]]:
    """Run a command; return how it ended and every command line of its tree of processes."""
    seen: set[str] = set()
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(
            command, env=environment, cwd=PROJECT, stdout=stdout, stderr=stderr
        )
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                own = psutil.Process(process.pid)
                for one in [own, *own.children(recursive=True)]:
                    with suppress(psutil.NoSuchProcess):
                        seen.add(" ".join(one.cmdline()))
            time.sleep(0.005)
        texts = []
        for stream in (stdout, stderr):
            stream.seek(0)
            texts.append(stream.read())
    return Outcome(process.returncode, *texts), seen


@contextmanager
def start_hub(root: Path) -> Iterator[Hub]:
    """Run a Hub, its signed links on another host name, as huggingface_hub 1.33 needs it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {"--root": root / "hub", "--port": 0, "--ready-file": root / "ready.json"}
    options |= {"--cdn-port": port, "--cdn-url": f"http://localhost:{port}"}
    command = [
        sys.executable,
        str(PROJECT / "tests/support/hub/minihub.py"),
        *chain(*options.items()),
    ]
    command += ["--token", f"alice:{ALICE}", "--token", f"bob:{BOB}"]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL) as process:
        try:
            while not (root / "ready.json").exists():
                assert process.poll() is None
                time.sleep(0.01)
            endpoint = json.loads((root / "ready.json").read_text())["endpoint"]
            yield Hub(endpoint, root / "home", process)
        finally:
            process.terminate()
