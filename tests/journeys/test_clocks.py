"""A clock that is wrong by hours, at any moment, changes no byte and hides no change.

Clocks reach a build through the times of files alone, which are set here.
"""

import os
import time
from pathlib import Path

import pytest

from clip_kinetics700_builder.types import EncodedClip, Failure
from tests.support.damage.datasets import ChangedRows, SmallRows
from tests.support.datasets.builds import published_hashes
from tests.support.datasets.conversions import read_states
from tests.support.datasets.works import assemble_work, encode_small

TWO_HOURS = 7200
ORDERS = [(0, 0), (-TWO_HOURS, TWO_HOURS), (TWO_HOURS, -TWO_HOURS)]
"""By how many seconds the clocks of the parts and of the dataset are wrong."""


def set_clock(directory: Path, seconds: int) -> None:
    """Let all files have been written at a moment that is so far from now."""
    moment = time.time() + seconds
    for path in directory.rglob("*"):
        os.utime(path, (moment, moment))


@pytest.mark.parametrize(("work_seconds", "output_seconds"), ORDERS)
def test_what_is_current_stays(tmp_path: Path, work_seconds: int, output_seconds: int) -> None:
    """A dataset of these very parts is not written again, though a part was made again later."""
    work, output = tmp_path / "work", tmp_path / "out"
    encode_small(work)
    assemble_work(work, output)
    (work / "parts/train-00001.json").unlink()
    encode_small(work, seconds=9.5)
    set_clock(work, work_seconds)
    set_clock(output, output_seconds)
    before = read_states(output)
    assemble_work(work, output)
    assert read_states(output) == before


@pytest.mark.parametrize(("work_seconds", "output_seconds"), ORDERS)
def test_what_has_changed_is_assembled(
    tmp_path: Path, work_seconds: int, output_seconds: int
) -> None:
    """Parts that hold something else make another dataset, though their files look older."""
    work, output = tmp_path / "work", tmp_path / "out"
    encode_small(work)
    assemble_work(work, output)
    (work / "parts/train-00001.json").unlink()
    encode_small(work, ChangedRows())
    set_clock(work, work_seconds)
    set_clock(output, output_seconds)
    assemble_work(work, output)
    encode_small(tmp_path / "fresh", ChangedRows())
    assemble_work(tmp_path / "fresh", tmp_path / "expected")
    assert published_hashes(output) == published_hashes(tmp_path / "expected")


class FailedRows(SmallRows):
    """The same rows, but one that could be had at another time fails."""

    def result(self, split: str, row: int) -> EncodedClip | Failure:
        """Return what became of one row."""
        if (split, row) == ("train", 8):
            return Failure(row, "source", "timed_out", "nothing came")
        return super().result(split, row)


@pytest.mark.parametrize(("work_seconds", "output_seconds"), ORDERS)
def test_what_was_tried_again_counts(
    tmp_path: Path, work_seconds: int, output_seconds: int
) -> None:
    """A later try is the one that went right, though its files may look older than the first's."""
    work, output = tmp_path / "work", tmp_path / "out"
    encode_small(work, FailedRows())
    assemble_work(work, output)
    set_clock(work, work_seconds)
    encode_small(work, retries=True)
    set_clock(output, output_seconds)
    assemble_work(work, output)
    encode_small(tmp_path / "fresh")
    assemble_work(tmp_path / "fresh", tmp_path / "expected")
    assert published_hashes(output) == published_hashes(tmp_path / "expected")


def test_a_dataset_of_an_older_version_is_assembled_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nothing tells what a dataset was made of it is replaced, which is said."""
    work, output = tmp_path / "work", tmp_path / "out"
    encode_small(work)
    assemble_work(work, output)
    (output / ".build/assembly.json").unlink()
    before = published_hashes(output)
    with caplog.at_level("INFO"):
        assemble_work(work, output)
    assert "nothing says that it is of these very rows; a new one replaces it" in caplog.text
    assert published_hashes(output) == before
