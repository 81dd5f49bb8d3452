"""These fixtures are shared by the tests of the probes."""

from collections.abc import Iterator

import pytest

from clip_kinetics700_builder.system.threads import keep_one_thread


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small products wait for other processes' threads longer than they compute."""
    with keep_one_thread():
        yield
