"""`download` brings every clip that there is and says of the others why, whatever fails."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from clip_kinetics700_builder.clips.releases import RELEASES
from clip_kinetics700_builder.config import AnnotationsConfig, DownloadConfig
from clip_kinetics700_builder.download.download import plan_download
from clip_kinetics700_builder.types import InputError
from tests.support.datasets.builds import command_line, run_cli
from tests.support.hub.servers import serve
from tests.support.kinetics.cvdf import CvdfTree
from tests.support.kinetics.downloads import download_tree, list_clips, read_ledger, whole_clips
from tests.support.kinetics.miniature import ROWS
from tests.support.processes.checkout import SOURCE_PATHS


@pytest.mark.parametrize("version", RELEASES)
def test_every_clip_comes_with_its_bytes(
    version: str, trees: dict[str, CvdfTree], tmp_path: Path
) -> None:
    """All clips of a release come, through every trap of its archives, and nothing else does."""
    tree = trees[version]
    with serve(tree.root) as served:
        download_tree(tree, tmp_path, base_url=served.url)
    assert list_clips(tmp_path) == whole_clips(tree)


def test_what_does_not_come_has_a_reason(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """Each row is on record once: got, or failed with a typed reason."""
    tree = trees["700-2020"]
    download_tree(tree, tmp_path)
    attempts = read_ledger(tmp_path)
    assert len(attempts) == len({attempt.identity for attempt in attempts}) == len(ROWS)
    failed = {attempt.youtube_id: attempt.reason for attempt in attempts if attempt.reason}
    assert failed == {
        "---QUuC4vJs": "not_in_archive",
        "--3ouPhoy2A": "not_in_archive",
        "zerobytes_1": "empty_file",
    }
    sizes = {attempt.bytes for attempt in attempts if attempt.outcome == "got"}
    assert sizes == {len(data) for data in whole_clips(tree).values()}


def test_a_second_run_asks_for_nothing(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """Clips that are there or have failed are not fetched again; only --retry-errors asks again."""
    tree = trees["600"]
    with serve(tree.root) as served:
        download_tree(tree, tmp_path, base_url=served.url)
        served.forget()
        download_tree(tree, tmp_path, base_url=served.url)
        assert served.requests == []
        download_tree(tree, tmp_path, base_url=served.url, retry_errors=("bot_wall",))
        assert served.requests == []
        download_tree(tree, tmp_path, base_url=served.url, retry_errors=())
        assert served.requests


def test_a_larger_request_fetches_what_is_new(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """A second request asks only for the archives of its new classes."""
    tree = trees["600"]
    with serve(tree.root) as served:
        download_tree(tree, tmp_path, base_url=served.url, classes=("yoga",))
        assert {path.split("_0")[0] for path in list_clips(tmp_path)} == {
            "yoga-yoga-1",
            "Tw2yXa6CzWE",
        }
        served.forget()
        download_tree(tree, tmp_path, base_url=served.url, classes=("yoga", "archery"))
        fetched = {request.path for request in served.requests if ".tar" in request.path}
    assert fetched == {"/600/train/archery.tar.gz", "/600/val/archery.tar.gz"}


def test_a_dry_run_says_what_it_would_take(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """A dry run counts clips, archives and bytes, and writes nothing."""
    tree = trees["600"]
    with serve(tree.root) as served:
        annotations = AnnotationsConfig(
            files=tuple(tree.annotations), version="600", base_url=served.url, splits=("train",)
        )
        config = DownloadConfig(
            output=tmp_path / "out", annotations=annotations, classes=("yoga", "archery")
        )
        plan = plan_download(config)
    sizes = [path.stat().st_size for path in tree.archives if path.parent.name == "train"
             and path.name in ("yoga.tar.gz", "archery.tar.gz")]  # fmt: skip
    assert (plan.n_to_get, plan.n_archives, plan.n_bytes) == (2, 2, sum(sizes))
    assert not (tmp_path / "out").exists()


def test_what_is_running_is_not_run_twice(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """A second download into one directory is refused in one line."""
    (tmp_path / ".download").mkdir()
    held = FileLock(tmp_path / ".download/download.lock")
    with held, pytest.raises(InputError, match="another download is running"):
        download_tree(trees["600"], tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--source", "nowhere"), "is no directory, nor cvdf or youtube"),
        (("--classes", "yoda"), "no clip is of class 'yoda'; near names: yoga"),
        (("--retry-errors", "bad_luck"), "'bad_luck' is no reason"),
        (("--max-samples", "0"), "--max-samples"),
    ],
)
def test_misuse_is_one_line(
    options: tuple[str, ...], message: str, trees: dict[str, CvdfTree], tmp_path: Path
) -> None:
    """An option that makes no sense ends with exit code 2 and one line."""
    tree = trees["600"]
    words = ["--version", "600", "--base-url", str(tree.root), "--output", str(tmp_path / "out")]
    outcome = run_cli("download", "--annotations", *tree.annotations, *words, *options)
    assert (outcome.returncode, outcome.stderr.count("\n")) == (2, 1)
    assert message in outcome.stderr


def test_status_tells_the_missing_share(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """`status` counts clips here and reasons for the others, by split, source and class."""
    from clip_kinetics700_builder.status import read_status

    download_tree(trees["700-2020"], tmp_path)
    document = read_status(tmp_path).document()
    assert document["splits"]["train"]["clips"] == 17
    assert document["splits"]["train"]["reasons"] == {"not_in_archive": 1, "empty_file": 1}
    assert document["classes"]["testifying"] == {"clips": 1, "missing": 1}
    assert document["sources"]["cvdf"]["got"] == 25
    outcome = run_cli("status", tmp_path)
    assert outcome.returncode == 0
    assert "not_in_archive" in outcome.stdout


@pytest.mark.slow
def test_fifty_kills_lose_nothing_and_repeat_nothing(
    trees: dict[str, CvdfTree], tmp_path: Path
) -> None:
    """After each of 50 `kill -9` the next run goes on; what was complete is not fetched again."""
    tree = trees["600"]
    output = tmp_path / "out"
    with serve(tree.root, latency_seconds=0.05) as served:
        words = ["--version", "600", "--base-url", served.url, "--output", str(output)]
        command = command_line(
            "download", "--annotations", *tree.annotations, *words, "--num-workers", "1"
        )
        environment = {**os.environ, "PYTHONPATH": SOURCE_PATHS}
        n_killed = 0
        for number in range(50):
            done = {a.archive for a in read_ledger(output) if a.archive}
            if len(list_clips(output)) == len(whole_clips(tree)):
                shutil.rmtree(output)
                done = set()
            served.forget()
            with subprocess.Popen(
                command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                start_new_session=True,
            ) as process:  # fmt: skip
                wait_for_request(served, process)
                time.sleep(random.Random(number).uniform(0, 0.6))
                n_killed += process.poll() is None
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
            asked = {request.path for request in served.requests if ".tar" in request.path}
            assert not {name for name in done if f"/{name_path(name)}" in asked}
            assert list_clips(output).items() <= whole_clips(tree).items()
        assert n_killed > 40
        assert subprocess.run(command, env=environment, check=False).returncode == 0
    assert list_clips(output) == whole_clips(tree)
    got = [attempt.identity for attempt in read_ledger(output) if attempt.outcome == "got"]
    assert len(got) == len(set(got))


def wait_for_request(served: Any, process: "subprocess.Popen[bytes]") -> None:
    """Return when the download has begun to fetch, or is done."""
    while process.poll() is None and not served.requests:
        time.sleep(0.005)


def name_path(name: str) -> str:
    """Return where the archive of class-wise Kinetics 600 lies."""
    split, _, label = name.partition("-")
    return f"600/{'val' if split == 'validation' else split}/{label.replace('_', ' ')}.tar.gz"
