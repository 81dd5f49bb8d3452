"""For any duration and rate, sampling is what exact arithmetic says, and pieces of it join."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_kinetics700_builder.config import FRAMES_PER_TASK
from clip_kinetics700_builder.decode.preprocess import (
    SAME_TIME_SECONDS,
    count_frames,
    list_timestamps,
)

DURATIONS = st.floats(0, 1e5)
# Rates of videos, among which 30000/1001 and its like are no decimals, and any others.
RATES = st.floats(0.01, 240) | st.sampled_from([1.0, 2.0, 23.976, 29.97, 30000 / 1001, 1 / 3])
COUNTS = st.integers(0, 200_000)
TOLERANCE = Fraction(SAME_TIME_SECONDS)
# Two operations round by half a unit in the last place each, and their operand by as much.
ROUNDING = Fraction(3, 2**53)


@given(DURATIONS, RATES)
def test_the_count_is_the_exact_one(duration: float, rate: float) -> None:
    """As many k / rate are kept as lie a microsecond or more before the end, exactly computed."""
    count = count_frames(duration, rate)
    end = Fraction(duration) - TOLERANCE
    slack = ROUNDING * max(Fraction(duration), TOLERANCE)
    assert count >= 0
    if count:
        assert Fraction(count - 1) / Fraction(rate) < end + slack
    assert Fraction(count) / Fraction(rate) >= end - slack


@given(DURATIONS, RATES)
def test_every_time_lies_before_the_end(duration: float, rate: float) -> None:
    """No kept time is at or after the end of the clip, whatever was rounded."""
    count = count_frames(duration, rate)
    for k in (0, count // 2, count - 1):
        assert k >= count or k < 0 or Fraction(k) / Fraction(rate) < Fraction(duration)


@given(COUNTS, st.integers(1, 200), RATES)
def test_times_are_exact_and_increase(first: int, count: int, rate: float) -> None:
    """Time k is the float nearest to k / rate, and each is greater than the one before."""
    times = list_timestamps(first, first + count, frames_per_second=rate)
    exact = [Fraction(k) / Fraction(rate) for k in range(first, first + count)]
    assert times == [float(time) for time in exact]
    assert all(one < other for one, other in pairwise(times))


@given(st.lists(COUNTS, min_size=3, max_size=3), RATES)
def test_any_two_pieces_join(places: list[int], rate: float) -> None:
    """Times from a to b and from b to c are those from a to c, bit for bit."""
    first, middle, stop = sorted(places)
    first, stop = max(first, middle - 100), min(stop, middle + 100)
    head = list_timestamps(first, middle, frames_per_second=rate)
    tail = list_timestamps(middle, stop, frames_per_second=rate)
    assert head + tail == list_timestamps(first, stop, frames_per_second=rate)


@given(st.floats(0, 600), RATES)
def test_tasks_of_a_clip_join(duration: float, rate: float) -> None:
    """The tasks that a clip is cut into hold each of its times once."""
    count = min(count_frames(duration, rate), 1000)
    tasks = [range(k, min(k + FRAMES_PER_TASK, count)) for k in range(0, count, FRAMES_PER_TASK)]
    times = [
        time
        for task in tasks
        for time in list_timestamps(task.start, task.stop, frames_per_second=rate)
    ]
    assert times == list_timestamps(0, count, frames_per_second=rate)


@given(DURATIONS, st.floats(0, 100), RATES)
def test_more_video_keeps_no_fewer_frames(duration: float, more: float, rate: float) -> None:
    """The count never falls as the duration grows."""
    assert count_frames(duration, rate) <= count_frames(duration + more, rate)


@given(DURATIONS, RATES, RATES)
def test_a_higher_rate_keeps_no_fewer_frames(duration: float, one: float, other: float) -> None:
    """The count never falls as the rate grows."""
    lower, higher = sorted((one, other))
    assert count_frames(duration, lower) <= count_frames(duration, higher)


@given(COUNTS, RATES, st.floats(-4e-7, 4e-7))
def test_a_clip_that_ends_on_a_kept_time_does_not_keep_it(
    count: int, rate: float, noise: float
) -> None:
    """A duration of k / rate, though it misses that by half a microsecond, is k frames."""
    assert count_frames(count / rate + noise, rate) == count


@given(st.floats(0.000002, 1, exclude_max=True), st.integers(1, 50_000))
def test_part_of_a_second_is_one_more(part: float, seconds: int) -> None:
    """At one frame a second, whatever lies beyond the last whole second adds one frame."""
    assert count_frames(seconds + part - 1e-6, 1.0) in {seconds, seconds + 1}
    assert count_frames(seconds + part, 1.0) == seconds + 1


@given(st.floats(-1e5, SAME_TIME_SECONDS), RATES)
def test_no_video_keeps_no_frame(duration: float, rate: float) -> None:
    """A duration of nothing, or less, has no frame and is no error."""
    assert count_frames(duration, rate) == 0


@pytest.mark.parametrize("duration", [10.08, 10.08 - 1e-9, 10.5, 11.0])
def test_the_usual_clip_has_eleven(duration: float) -> None:
    """10.08 s at one frame a second keep eleven frames, at 0, 1, ... 10 s."""
    assert count_frames(duration, 1.0) == 11
    assert list_timestamps(0, 11, frames_per_second=1.0) == [float(k) for k in range(11)]
