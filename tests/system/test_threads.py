"""Tasks of another thread are done in order, and their errors come back."""

import time
from threading import Event

import pytest

from clip_kinetics700_builder.system.threads import Background, open_background


class BrokenError(Exception):
    """The error of a task."""


def fail() -> None:
    """Fail, as a task may."""
    raise BrokenError


def test_tasks_are_done_in_order() -> None:
    """Every task is done when the block ends, one after the other."""
    done: list[int] = []
    with open_background() as thread:
        with thread.finishing():
            for number in range(20):
                thread.submit(done.append, number)
        assert done == list(range(20))


def test_an_error_of_a_task_ends_the_block() -> None:
    """The block raises the error of its task when it waits for it."""
    with open_background() as thread, pytest.raises(BrokenError), thread.finishing():
        thread.submit(fail)


def submit_for_ever(thread: Background) -> None:
    """Submit a task that fails, and others after it."""
    with thread.finishing():
        thread.submit(fail)
        while True:
            thread.submit(lambda: None)


def test_an_error_of_a_task_is_raised_by_a_later_one() -> None:
    """Nobody goes on for long with a file that cannot be written."""
    with open_background() as thread, pytest.raises(BrokenError):
        submit_for_ever(thread)


def fail_beside(thread: Background, done: list[int]) -> None:
    """Fail in a block while the first of its two tasks runs."""
    has_begun = Event()

    def take_long() -> None:
        has_begun.set()
        time.sleep(0.2)
        done.append(0)

    with thread.finishing():
        thread.submit(take_long)
        thread.submit(done.append, 1)
        has_begun.wait()
        raise BrokenError


def test_a_block_that_fails_starts_no_other_task() -> None:
    """The task that runs is waited for, those behind it are left out, and the thread goes on."""
    done: list[int] = []
    with open_background() as thread:
        with pytest.raises(BrokenError):
            fail_beside(thread, done)
        assert done == [0]
        with thread.finishing():
            thread.submit(done.append, 2)
    assert done == [0, 2]
