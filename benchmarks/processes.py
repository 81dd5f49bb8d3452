"""`run_watched` runs a command and watches the memory of its whole process tree."""

import subprocess
import time
from collections.abc import Sequence

import psutil

from benchmarks.server import ENVIRONMENT

WATCH_SECONDS = 0.05


def run_watched(command: Sequence[str]) -> tuple[str, float]:
    """Run a command to its good end; return its output and the peak of resident MiB.

    Raises:
        RuntimeError: it failed.
    """
    process = psutil.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    peak = 0
    while process.poll() is None:
        peak = max(peak, count_resident(process))
        time.sleep(WATCH_SECONDS)
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return output, peak / 2**20


def count_resident(process: psutil.Process) -> int:
    """Return the resident bytes of a process and all below it; 0 for those that have ended."""
    total = 0
    try:
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total
