"""Shares rows out to threads: numpy and torch release Python's lock while they work."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from clip_kinetics700_builder.system.machine import count_cores

Result = TypeVar("Result")


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
