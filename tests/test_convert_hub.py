"""`convert` of a repository: read at one commit, whatever its branch does meanwhile."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import clip_kinetics700
from tests.builds import PROJECT, Outcome, run_cli_process
from tests.conversions import assert_one_line, assert_same_rows
from tests.dialects import write_flat_upstream

UPLOAD = """
import sys
from huggingface_hub import HfApi
HfApi().create_repo("alice/kinetics", repo_type="dataset", exist_ok=True)
HfApi().upload_folder(repo_id="alice/kinetics", folder_path=sys.argv[1], repo_type="dataset")
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a Hub that runs on this machine while the test does."""
    ready = tmp_path / "ready.json"
    words = ["--root", tmp_path / "hub", "--port", "0", "--ready-file", ready]
    command = [sys.executable, "tests/minihub.py", *map(str, words), "--token", "alice:hf_alice"]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)
    try:
        while not ready.exists():
            assert process.poll() is None
            time.sleep(0.02)
        yield {
            "HF_ENDPOINT": json.loads(ready.read_text(encoding="utf-8"))["endpoint"],
            "HF_TOKEN": "hf_alice",
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
    finally:
        process.terminate()
        process.wait()


def upload(directory: Path, hub: dict[str, str]) -> None:
    """Put the files of a directory into the repository."""
    command = [sys.executable, "-c", UPLOAD, str(directory)]
    subprocess.run(command, env={**os.environ, **hub}, check=True, capture_output=True)


def convert_repository(output: Path, hub: dict[str, str], *options: str) -> Outcome:
    """Convert the repository with five samples a shard."""
    words: list[str | Path] = ["alice/kinetics", output, "--samples-per-shard", "5", *options]
    return run_cli_process("convert", *words, **hub)


@pytest.mark.slow
def test_a_repository_is_converted_and_known_again(tmp_path: Path, hub: dict[str, str]) -> None:
    """Upstream's repository is row-exact; while its commit stays nothing is written again."""
    source = write_flat_upstream(tmp_path / "source")
    upload(source, hub)
    outcome = convert_repository(tmp_path / "out", hub)
    assert outcome.returncode == 0, outcome.stderr
    output = clip_kinetics700.open(tmp_path / "out")
    assert_same_rows(clip_kinetics700.open(source), output)
    assert not (tmp_path / "out/.build/source").exists()
    outcome = convert_repository(tmp_path / "out", hub)
    assert "is complete, nothing to write" in outcome.stderr
    assert "fetch:" not in outcome.stderr
    outcome = convert_repository(tmp_path / "b", hub, "--revision", "nowhere", "--quiet")
    assert_one_line(outcome, 2, "no dataset alice/kinetics@nowhere on the Hub")
