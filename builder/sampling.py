"""Which moments of a video are kept: a duration and a rate in, times out.

Pure arithmetic: t_k = k / rate for k = 0, 1, ... while t_k < duration. Every process that
touches a clip computes the same times from it, so none of them has to be sent around.
"""

import math

# Durations are differences of two rounded times: ten seconds may come as 10.000000000000002
# and must not gain an eleventh frame. Video clocks tick 1 to 100,000 times a second, so a
# microsecond lies well above the rounding and well below any frame.
SAME_TIME_SECONDS = 1e-6


def count_frames(duration_seconds: float, frames_per_second: float) -> int:
    """Return how many times k / rate lie in the half-open range [0, duration).

    Times within one microsecond of each other are the same time.

    Raises:
        ValueError: the duration is not a number of seconds, or the rate is not positive.
    """
    if not math.isfinite(duration_seconds):
        raise ValueError(f"duration must be a finite number of seconds, got {duration_seconds}")
    _check_rate(frames_per_second)
    return max(0, math.ceil((duration_seconds - SAME_TIME_SECONDS) * frames_per_second))


def list_timestamps(first: int, stop: int, *, frames_per_second: float) -> list[float]:
    """Return the times of frames `first` to `stop` (excluded), in seconds since the begin.

    Raises:
        ValueError: the rate is not positive.
    """
    _check_rate(frames_per_second)
    return [k / frames_per_second for k in range(first, stop)]


def _check_rate(frames_per_second: float) -> None:
    if not (math.isfinite(frames_per_second) and frames_per_second > 0):
        raise ValueError(f"frames per second must be above 0, got {frames_per_second}")
