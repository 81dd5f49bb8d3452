"""Sampling keeps the frames that its arithmetic promises."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_kinetics700_builder.decode.preprocess import (
    SAME_TIME_SECONDS,
    count_frames,
    list_timestamps,
)

DURATIONS = st.floats(0, 1e5)
RATES = st.floats(0.01, 240)


@pytest.mark.parametrize(
    ("duration", "rate", "expected"),
    [
        (0.0, 1, 0),
        (0.04, 1, 1),
        (0.4, 1, 1),
        (1.0, 1, 1),
        (1.001, 1, 2),
        (10.0, 1, 10),
        (10.000000000000002, 1, 10),
        (9.999999999999998, 1, 10),
        (10.08, 1, 11),
        (10.0, 2.5, 25),
        (300.0, 1 / 3, 100),
        (3.0, 29.97, 90),
    ],
)
def test_known_counts(duration: float, rate: float, expected: int) -> None:
    """A duration gives one frame for each k / rate before its end."""
    assert count_frames(duration, rate) == expected


@given(DURATIONS, RATES)
def test_times_fill_the_duration(duration: float, rate: float) -> None:
    """Every kept time lies before the end, and the next one would not."""
    count = count_frames(duration, rate)
    *_, last, after = [
        -math.inf,
        *list_timestamps(max(0, count - 1), count + 1, frames_per_second=rate),
    ]
    assert last < duration or count == 0
    assert after >= duration - 1.001 * SAME_TIME_SECONDS


@given(st.integers(1, 100_000), st.floats(-1e-9, 1e-9))
def test_rounding_adds_no_frame(n_seconds: int, noise: float) -> None:
    """A duration that misses whole seconds by rounding counts as those seconds."""
    assert count_frames(n_seconds + noise, 1.0) == n_seconds


@given(DURATIONS, DURATIONS, RATES)
def test_longer_videos_keep_no_fewer_frames(one: float, other: float, rate: float) -> None:
    """The count grows with the duration."""
    shorter, longer = sorted((one, other))
    assert count_frames(shorter, rate) <= count_frames(longer, rate)


@given(st.integers(0, 500), st.integers(0, 500), RATES)
def test_pieces_join(first: int, second: int, rate: float) -> None:
    """The times of two consecutive pieces are the times of the whole, bit for bit."""
    whole = list_timestamps(0, first + second, frames_per_second=rate)
    head = list_timestamps(0, first, frames_per_second=rate)
    assert head + list_timestamps(first, first + second, frames_per_second=rate) == whole


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_impossible_rates_are_refused(rate: float) -> None:
    """A rate that is not a positive number is an error that shows it."""
    with pytest.raises(ValueError, match=f"frames per second must be above 0, got {rate}"):
        count_frames(1.0, rate)


@pytest.mark.parametrize("duration", [math.nan, math.inf])
def test_impossible_durations_are_refused(duration: float) -> None:
    """A duration that is not a finite number is an error that shows it."""
    with pytest.raises(ValueError, match=f"finite number of seconds, got {duration}"):
        count_frames(duration, 1.0)
