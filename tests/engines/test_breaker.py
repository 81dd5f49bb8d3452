"""A run in which one clip after the other fails for one reason is stopped."""

import pytest

from clip_kinetics700_builder.engines.breaker import WINDOW_CLIPS, Breaker
from clip_kinetics700_builder.types import Failure, OutageError

DAMAGED = Failure(0, "decode", "decode_error", "the frame at 1.00 s is damaged")


def note(breaker: Breaker, *outcomes: tuple[Failure | None, int]) -> None:
    """Let clips come out, so many of each kind."""
    for failure, count in outcomes:
        for _ in range(count):
            breaker.note(failure)


def test_many_failures_in_a_row_stop_a_run() -> None:
    """The reason is named, and that of the last clip with it."""
    breaker = Breaker(0.5)
    note(breaker, (DAMAGED, WINDOW_CLIPS - 1))
    with pytest.raises(OutageError, match="200 of the last 200 clips failed with decode_error"):
        breaker.note(DAMAGED)


def test_a_share_of_the_last_ones_stops_a_run() -> None:
    """What came before does not make up for it."""
    breaker = Breaker(0.1)
    note(breaker, (None, 1000), (DAMAGED, 20))
    with pytest.raises(OutageError, match=r"^21 of the last 200 clips"):
        breaker.note(DAMAGED)


@pytest.mark.parametrize(
    ("max_share", "failure"),
    [(1.0, DAMAGED), (0.0, None), (0.0, Failure(0, "source", "missing", "no file"))],
)
def test_what_is_borne_stops_nothing(max_share: float, failure: Failure | None) -> None:
    """Any share may fail where that is said, and clips without a file are known before."""
    note(Breaker(max_share), (failure, 2 * WINDOW_CLIPS))
