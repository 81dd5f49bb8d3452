"""What is done beside the rest: hashing and writing release Python's lock, so cores share them.

In: tasks. Out: the same, done one after the other, and the error of one that failed.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from clip_kinetics700_builder.system.machine import count_cores

Result = TypeVar("Result")

P = ParamSpec("P")


class Background:
    """A thread that does tasks in their order, for one block after the other."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        """Run tasks in an executor of one thread."""
        self._executor = executor
        self._tasks: deque[Future[None]] = deque()

    def submit(self, task: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Put a task behind the others; raise what an earlier one raised."""
        while self._tasks and self._tasks[0].done():
            self._tasks.popleft().result()
        self._tasks.append(self._executor.submit(task, *args, **kwargs))

    def wait(self) -> None:
        """Wait for all tasks, and raise what one of them raised."""
        while self._tasks:
            self._tasks.popleft().result()

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Wait for the tasks of a block; of one that fails those are left out that have not begun.

        Nothing of a file may be written any more when it is removed.
        """
        try:
            yield
            self.wait()
        except BaseException:
            begun = [task for task in self._tasks if not task.cancel()]
            self._tasks.clear()
            wait(begun)
            raise


@contextmanager
def open_background() -> Iterator[Background]:
    """Yield a thread, which ends with the block."""
    with ThreadPoolExecutor(1) as executor:
        yield Background(executor)


def use_one_thread() -> None:
    """Keep this thread's calls of torch on one core."""
    import torch

    torch.set_num_threads(1)


def share_rows(work: Callable[[int, int], Result], n_rows: int) -> list[Result]:
    """Return what `work(begin, end)` returns of each core's share of the rows, in order.

    Threads that never wait for each other: those within torch's calls do at every call, and stand
    still together as soon as another program takes one core for a moment.
    """
    n_lanes = count_cores()
    ends = [n_rows * lane // n_lanes for lane in range(n_lanes + 1)]
    with ThreadPoolExecutor(n_lanes, initializer=use_one_thread) as lanes:
        return list(lanes.map(work, ends[:-1], ends[1:]))
