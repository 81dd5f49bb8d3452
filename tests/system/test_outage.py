"""Outages are told from faults of one file, and waited for."""

import errno
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from clip_kinetics700_builder.system.outage import Patience, explain_outage, list_pauses
from clip_kinetics700_builder.types import OutageError


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM])
def test_errors_that_name_no_fault_of_a_file_are_outages(number: int, tmp_path: Path) -> None:
    """A disk, a server of files or the machine is at fault."""
    assert explain_outage(OSError(number, "why"), tmp_path / "file") is not None


@pytest.mark.parametrize("number", [errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT])
def test_errors_of_one_file_are_none(number: int, tmp_path: Path) -> None:
    """Others lie beside it, so its disk is there."""
    (tmp_path / "other").touch()
    assert explain_outage(OSError(number, "why"), tmp_path / "file") is None


@pytest.mark.parametrize(("name", "word"), [("empty", "is empty now"), ("gone", "was it moved")])
def test_a_file_that_is_gone_with_all_others_is_an_outage(
    name: str, word: str, tmp_path: Path
) -> None:
    """Its directory is gone too, or empty."""
    (tmp_path / "empty").mkdir()
    outage = explain_outage(OSError(errno.ENOENT, "why"), tmp_path / name / "file")
    assert outage is not None
    assert word in str(outage)


def test_pauses_add_up_to_the_patience() -> None:
    """They get longer, up to half a minute."""
    assert list(list_pauses(100)) == [1, 2, 4, 8, 16, 30, 30, 9]


def test_an_outage_that_lasts_is_raised_with_advice() -> None:
    """The last error is the one that is told."""
    outages = iter(["first", "last"])

    def fail() -> None:
        raise OutageError(next(outages))

    with pytest.raises(OutageError, match=r"^last; once that is mended, run the same command"):
        Patience(0.01).outlast(fail)


def test_nobody_waits_again_for_what_was_waited_for() -> None:
    """Where one attempt holds another one that waits, the time does not multiply."""
    patience, n_attempts = Patience(0.01), count()

    def fail() -> None:
        raise OutageError(f"attempt {next(n_attempts)}")

    with pytest.raises(OutageError, match=r"^attempt 1; once"):
        patience.outlast(lambda: patience.outlast(fail))


def test_what_is_tried_again_may_wait_in_its_turn() -> None:
    """A clip may meet an outage while its archive is read anew after another one."""
    patience, outer, inner = Patience(0.01), iter([OutageError("outer")]), iter([OutageError("in")])

    def fail_once(errors: Iterator[OutageError]) -> None:
        for error in errors:
            raise error

    def attempt() -> None:
        fail_once(outer)
        patience.outlast(lambda: fail_once(inner))

    patience.outlast(attempt)
    assert not [*outer, *inner]
