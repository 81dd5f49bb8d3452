"""Says how many hostile cases a test runs: some in every run of the suite, all in `make torture`.

Each test says how many it ran at the end of pytest's output; seeds are recorded in the tests.
"""

import os

IS_FULL = os.environ.get("CLIP_KINETICS700_TORTURE") == "full"
lines: list[str] = []
"""Lines of this session's tests for conftest's terminal summary."""


def count_cases(suite: int, *, full: int) -> int:
    """Return how many cases to run: `suite` of them, or `full` with `make torture`."""
    return full if IS_FULL else suite


def say_count(line: str) -> None:
    """Let one line, as `200 mutated videos, seed 5: 31 decoded`, stand at the end of the output."""
    lines.append(line)
