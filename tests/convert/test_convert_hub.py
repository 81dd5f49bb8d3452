"""`convert` reads a repository at one commit, whatever its branch does meanwhile."""

from pathlib import Path

import pytest

import clip_kinetics700
from tests.support.datasets.builds import Outcome, run_cli_process
from tests.support.datasets.conversions import assert_one_line, assert_same_rows
from tests.support.datasets.dialects import write_flat_upstream
from tests.support.hub.hubs import upload_dataset


def convert_repository(output: Path, hub: dict[str, str], *options: str) -> Outcome:
    """Convert the repository with five samples a shard."""
    words: list[str | Path] = ["alice/kinetics", output, "--samples-per-shard", "5", *options]
    return run_cli_process("convert", *words, **hub)


@pytest.mark.slow
def test_a_repository_is_converted_and_known_again(tmp_path: Path, hub: dict[str, str]) -> None:
    """Upstream's repository is row-exact; while its commit stays nothing is written again."""
    source = write_flat_upstream(tmp_path / "source")
    upload_dataset(source, "alice/kinetics", hub)
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
