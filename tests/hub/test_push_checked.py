"""What is published is what was checked, whatever happens to the files meanwhile."""

import errno
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clip_kinetics700_builder.dataset.staging import lock_dataset
from clip_kinetics700_builder.types import InputError
from tests.support.damage.datasets import flip_byte
from tests.support.datasets.builds import run_cli, run_cli_process
from tests.support.hub.publishing import REPOSITORY, PublishingHub, assert_published, expect_tree
from tests.support.processes.checkout import SOURCE_PATHS
from tests.support.processes.failing_disk import FailingDisk
from tests.support.processes.permissions import run_without_override


def test_what_is_being_assembled_is_not_published(copy: Path) -> None:
    """A push is refused while another process holds the dataset, before it talks to the Hub."""
    with lock_dataset(copy):
        outcome = run_cli("push", copy, REPOSITORY)
    assert outcome.returncode == 2
    assert "another process is assembling, converting or publishing it" in outcome.stderr


@pytest.mark.slow
def test_what_was_checked_is_published(hub: PublishingHub, copy: Path) -> None:
    """Files that are sent with the commit are those that were checked, and the lock is held.

    All files but the card were checked when the request for it comes.
    """
    expected = expect_tree(copy)
    hub.fail("POST .*/preupload/", "delay", seconds=3, skip=len(expected) - 1)
    process = hub.start_push(copy, REPOSITORY, "--max-workers", "1", xet=False)
    while not hub.state.faults[0].hits:
        assert process.poll() is None
        time.sleep(0.01)
    with pytest.raises(InputError, match="another process"), lock_dataset(copy):
        pass
    for name in ("manifest.json", "splits.csv", "README.md"):
        (copy / name).write_text("changed", encoding="utf-8")
    output = process.communicate()[0]
    assert process.returncode == 0, output
    tree = hub.read_tree()
    assert {name: tree[name] for name in expected} == expected


@pytest.mark.slow
def test_a_directory_for_reading_only_is_published(hub: PublishingHub, copy: Path) -> None:
    """Where no lock can be taken nothing can be assembled either, so the push goes on."""
    copy.chmod(0o555)
    outcome = run_without_override("push", copy, REPOSITORY, **hub.environment(xet=False))
    copy.chmod(0o755)
    assert outcome.returncode == 0, outcome.stderr
    assert_published(hub, copy)
    assert not (copy / ".build").exists()


LFS_ALONE = """
import clip_kinetics700_builder
from clip_kinetics700_builder.hub import push
push.MAX_GIT_BYTES = 0
clip_kinetics700_builder.main()
"""


@pytest.mark.parametrize(
    "words",
    [("-m", "clip_kinetics700_builder"), pytest.param(("-c", LFS_ALONE), marks=pytest.mark.slow)],
    ids=["small", "large"],
)
def test_a_changed_file_is_not_published(
    hub: PublishingHub, copy: Path, words: tuple[str, str]
) -> None:
    """Other bytes than the manifest's end the push with the file's name, before any commit."""
    flip_byte(copy / "ds_000000.tar", 5000)
    outcome = subprocess.run(
        [sys.executable, *words, "push", str(copy), REPOSITORY],
        env={**os.environ, "PYTHONPATH": SOURCE_PATHS, **hub.environment(xet=False)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 2
    assert re.search(r"ds_000000.tar: has the sha256 \w{64}, manifest.json says", outcome.stderr)
    assert hub.repository() is None or hub.count_commits() == 0


@pytest.mark.slow
@pytest.mark.parametrize("fault", [("open", errno.ESTALE), ("read", errno.EIO)])
def test_an_error_of_the_disk_publishes_nothing(
    fault: tuple[str, int], hub: PublishingHub, copy: Path, failing_disk: FailingDisk,
    tmp_path: Path,
) -> None:  # fmt: skip
    """The same push goes on once the disk does."""
    call, number = fault
    switch = tmp_path / "on"
    switch.touch()
    fails = failing_disk.environment(call, number, f"{copy}/ds_000001.tar", switch)
    words = ("push", copy, REPOSITORY)
    outcome = run_cli_process(*words, **hub.environment(xet=False), **fails)
    assert outcome.returncode == 1, outcome.stderr
    assert os.strerror(number) in outcome.stderr
    assert hub.repository() is None or hub.count_commits() == 0
    switch.unlink()
    outcome = run_cli_process(*words, **hub.environment(xet=False), **fails)
    assert outcome.returncode == 0, outcome.stderr
    assert_published(hub, copy)
