"""Locks of what one process at a time may write; the kernel drops them when their owner dies.

In: the lock's file. Out: a block in which it is held, or one line about who else holds it.
"""

from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout

from builder.output import WORK_NAME
from builder.types import InputError


def take_lock(file: Path, taken: str, *, waits: bool = False) -> AbstractContextManager[object]:
    """Take a lock, which the block or the end of the process releases.

    Args:
        file: the lock's; its directory is there.
        taken: what to say where another process holds it.
        waits: until it is free, instead of saying so.

    Raises:
        InputError: another process holds it.
    """
    try:
        return FileLock(file).acquire(timeout=-1 if waits else 0)
    except Timeout as error:
        raise InputError(taken) from error


def lock_dataset(output: Path, *, waits: bool = False) -> AbstractContextManager[object]:
    """Take the lock of what writes the published files of a directory."""
    (output / WORK_NAME).mkdir(parents=True, exist_ok=True)
    taken = f"{output}: another process is assembling or converting there; wait for it"
    return take_lock(output / WORK_NAME / "assemble.lock", taken, waits=waits)
