"""Tells an outage of a disk, a network or a machine from what is wrong with one file, and waits.

An outage is never put on record as the fault of the file that was being read: work waits for its
end, and stops after a while, so that the same command goes on.
"""

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import RLock
from typing import TypeVar

from clip_kinetics700_builder.types import OutageError

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# What the system says of one file that is not there, or that this user may not read.
FAULTS_OF_A_FILE = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)
# Nobody but the user ends these.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
LONGEST_PAUSE_SECONDS = 30.0


class LastingOutageError(OutageError):
    """An outage that was waited for as long as is allowed; nobody waits for it again."""


class Patience:
    """Waits for the end of outages; all threads that share it wait for one of them."""

    def __init__(self, seconds: float) -> None:
        """Take how long an outage may last before work stops."""
        self._seconds = seconds
        # What is tried again may wait for an outage of its own.
        self._lock = RLock()

    def outlast(self, attempt: Callable[[], Result]) -> Result:
        """Return what an attempt returns, made again after each pause while there is an outage.

        Raises:
            LastingOutageError: it lasts longer than this patience, or than that of the attempt.
        """
        pauses = list_pauses(self._seconds)
        with ExitStack() as waiting:
            while True:
                try:
                    return attempt()
                except LastingOutageError:
                    raise
                except OutageError as error:
                    pause = next(pauses, None)
                    if pause is None:
                        advice = "once that is mended, run the same command again to go on"
                        raise LastingOutageError(f"{error}; {advice}") from error
                    waiting.enter_context(self._lock)
                    log.warning("%s; another try in %g s", error, pause)
                time.sleep(pause)


NO_PATIENCE = Patience(0)
"""Waits for nothing."""


def list_pauses(seconds: float) -> Iterator[float]:
    """Yield pauses that add up to so many seconds; each is twice the one before, up to 30 s."""
    pause = 1.0
    while seconds > 0:
        yield min(pause, seconds)
        seconds -= pause
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def explain_outage(error: OSError, path: Path) -> OutageError | None:
    """Return the outage that an error of reading a file tells of, None where the file is at fault.

    A file is not gone for itself where the directory that held it is gone or empty, too: a disk was
    unmounted, or somebody has moved the directory.
    """
    if error.errno in FAULTS_OF_A_FILE:
        is_gone = error.errno in (errno.ENOENT, errno.ENOTDIR)
        return explain_absence(path) if is_gone else None
    return OutageError(f"{path}: {error.strerror or type(error).__name__}")


def explain_absence(path: Path) -> OutageError | None:
    """Return the outage that a file's absence tells of, None where it alone is gone."""
    directory = path.parent
    try:
        with os.scandir(directory) as entries:
            is_empty = next(entries, None) is None
    except OSError as error:
        return OutageError(f"{directory}: {error.strerror}: was it moved, or is a disk missing?")
    if is_empty:
        return OutageError(f"{directory}: is empty now: is a disk not mounted?")
    return None
