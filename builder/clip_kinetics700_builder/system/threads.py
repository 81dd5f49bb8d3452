"""Shares work out to threads: numpy and torch release Python's lock while they work."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TypeVar

from clip_kinetics700_builder.system.machine import count_cores
from clip_kinetics700_builder.system.progress import Advance

Item = TypeVar("Item")
Result = TypeVar("Result")


def use_one_thread() -> None:
    """Keep this thread's calls of torch on one core."""
    import torch

    torch.set_num_threads(1)


@contextmanager
def keep_one_thread() -> Iterator[None]:
    """Keep this thread's calls of torch on one core within a block.

    Threads of torch that have nothing to do wait in loops, on the cores on which others compute.
    """
    import torch

    before = torch.get_num_threads()
    use_one_thread()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def share_rows(work: Callable[[int, int], Result], n_rows: int) -> list[Result]:
    """Return what `work(begin, end)` returns of each core's share of the rows, in order.

    The threads never wait for each other. Those within torch's calls do at every call, and all
    stand still as soon as another program takes one core for a moment.
    """
    n_threads = count_cores()
    ends = [n_rows * thread // n_threads for thread in range(n_threads + 1)]
    with ThreadPoolExecutor(n_threads, initializer=use_one_thread) as threads:
        return list(threads.map(work, ends[:-1], ends[1:]))


def work_off(
    work: Callable[[Item], Result], items: Iterable[Item], n_threads: int, advance: Advance
) -> list[Result]:
    """Return what `work` returns of each item, in order; the first error ends it.

    What has begun then is not waited for: who interrupts, or has no network, wants to see the end.
    """
    threads = ThreadPoolExecutor(n_threads)
    try:
        futures = [threads.submit(work, item) for item in items]
        for future in as_completed(futures):
            future.result()
            advance(1)
        return [future.result() for future in futures]
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
