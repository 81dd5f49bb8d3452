"""The ledger keeps every attempt that was written, whatever cut it off."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clip_kinetics700_builder.sources.ledger import (
    FetchError,
    Ledger,
    check_reasons,
    failed,
    got,
    is_passing,
    read_attempts,
    try_again,
)
from clip_kinetics700_builder.types import Clip, InputError

CLIP = Clip("train", "-_aaaaaaaa-", 1, 11, "yoga", "yoga")


def test_attempts_come_back_as_they_were(tmp_path: Path) -> None:
    """Success and failure keep all that is known of them."""
    error = FetchError("http_404", "a line")
    attempts = [
        got(CLIP, "cvdf", bytes=5, seconds=0.5, archive="a"),
        failed(CLIP, "youtube", error),
    ]
    Ledger(tmp_path / "ledger").write(attempts)
    assert list(read_attempts(tmp_path / "ledger")) == attempts


@pytest.mark.parametrize("cut", [1, 10, 100])
def test_a_torn_line_is_cut_off(tmp_path: Path, cut: int) -> None:
    """The rest of a line that a kill cut off goes; the lines before and after it stay."""
    path = tmp_path / "ledger"
    attempt = got(CLIP, "cvdf", bytes=5)
    Ledger(path).write([attempt, attempt])
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(read_attempts(path)) == [attempt]
    Ledger(path).write([attempt])
    assert list(read_attempts(path)) == [attempt, attempt]


def test_threads_do_not_mix_lines(tmp_path: Path) -> None:
    """Eight threads write four hundred attempts, each of which is whole."""
    path = tmp_path / "ledger"
    attempt = got(CLIP, "cvdf", bytes=5)
    ledger = Ledger(path)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: ledger.write([attempt] * 4), range(100)))
    assert list(read_attempts(path)) == [attempt] * 400


def test_a_foreign_line_is_named(tmp_path: Path) -> None:
    """A file that is no ledger is refused with its line."""
    (tmp_path / "ledger").write_text('{"a": 1}\n')
    with pytest.raises(InputError, match="line 1: is not a line of ours"):
        list(read_attempts(tmp_path / "ledger"))


@pytest.mark.parametrize(
    ("reason", "passes"),
    [("http_503", True), ("http_404", False), ("timed_out", True), ("gone", False)],
)
def test_what_may_pass_is_told_from_what_will_not(reason: str, passes: object) -> None:
    """Errors of servers and connections may pass, a video that is gone will not come back."""
    check_reasons([reason])
    assert is_passing(reason) == passes


class Flaky:
    """Fails for one reason after the other, then returns."""

    def __init__(self, *reasons: str) -> None:
        """Fail for these reasons."""
        self.reasons = list(reasons)

    def __call__(self) -> str:
        """Fail, or return once there are no more reasons."""
        if self.reasons:
            raise FetchError(self.reasons.pop(0), "a line")
        return "clip"


def test_what_may_pass_is_tried_again() -> None:
    """There are as many further tries as pauses, also for a reason that may pass only here."""
    assert try_again(Flaky("timed_out", "http_503"), (0.0, 0.0)) == "clip"
    assert try_again(Flaky("refused"), (0.0,), also=("refused",)) == "clip"


@pytest.mark.parametrize("reasons", [("gone",), ("timed_out", "gone"), ("timed_out",) * 3])
def test_what_will_not_pass_is_raised(reasons: tuple[str, ...]) -> None:
    """A lasting reason ends the tries at once, and so does the last try, whatever its reason."""
    flaky = Flaky(*reasons, "not_reached")
    with pytest.raises(FetchError, match="a line") as error:
        try_again(flaky, (0.0, 0.0))
    assert error.value.reason == reasons[-1]
    assert flaky.reasons == ["not_reached"]
