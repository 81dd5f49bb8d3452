"""What is done beside the rest: hashing and writing release Python's lock, so cores share them.

In: tasks. Out: the same, done one after the other, and the error of one that failed.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import ParamSpec

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
