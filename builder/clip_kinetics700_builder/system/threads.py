"""Runs work in other threads: hashing, writing and torch release Python's lock while they work."""

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
        """Wait for the tasks of a block; if the block fails, drop those that have not started."""
        try:
            yield
            self.wait()
        except BaseException:
            started = [task for task in self._tasks if not task.cancel()]
            self._tasks.clear()
            # The block's caller removes the file, which nothing may write to any more then.
            wait(started)
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

    The threads never wait for each other. Those within torch's calls do at every call, and all
    stand still as soon as another program takes one core for a moment.
    """
    n_threads = count_cores()
    ends = [n_rows * thread // n_threads for thread in range(n_threads + 1)]
    with ThreadPoolExecutor(n_threads, initializer=use_one_thread) as threads:
        return list(threads.map(work, ends[:-1], ends[1:]))
