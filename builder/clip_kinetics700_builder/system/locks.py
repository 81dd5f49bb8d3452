"""Keeps two processes from one directory: by the kernel's locks, or by leases where there are none.

The kernel's locks end with their process. Some file systems of clusters have none; there a file
says who holds the lock, and that it still does: whoever sees no sign of that for `LEASE_SECONDS`
takes it.
"""

import errno
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, LeaseCompromise, SoftFileLease, Timeout

from clip_kinetics700_builder.system.files import make_printable
from clip_kinetics700_builder.types import InputError

log = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
# A lease is given up only after so many times its duration without a sign.
PATIENCE = 1.5
# What file systems say that have no locks.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextmanager
def hold_lock(file: Path, taken: str | None = None) -> Iterator[None]:
    """Hold a lock within the block; the end of the process releases it too.

    Args:
        file: of the lock, in a directory that is there.
        taken: what is wrong where another process holds it; None waits for it.

    Raises:
        InputError: another process holds it; it says `taken`.
    """
    try:
        lock = acquire_lock(file, -1 if taken is None else 0)
    except Timeout as error:
        raise InputError(taken) from error
    try:
        yield
    finally:
        lock.release()


def acquire_lock(file: Path, seconds: float) -> BaseFileLock:
    """Return a lock that this process holds from now on.

    It waits for so many seconds, -1 for any time; for a lease at least until it has expired.

    Raises:
        Timeout: another process holds it.
    """
    lock = FileLock(file, fallback_to_soft=False)
    try:
        lock.acquire(timeout=seconds)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return acquire_lease(file, seconds)
    return lock


def acquire_lease(file: Path, seconds: float) -> BaseFileLock:
    """Return a lease, which a thread keeps alive from now on; raise what `acquire_lock` does."""
    lease = SoftFileLease(file, lease_duration=LEASE_SECONDS, on_compromise=end_process)
    # The attempt to lock the file has made it.
    with suppress(FileNotFoundError):
        if file.stat().st_size == 0:
            file.unlink()
    try:
        lease.acquire(timeout=0)
        return lease
    except Timeout:
        owner = name_owner(file)
        log.warning("%s: %s has it; waiting %g s for a sign of that", file, owner, LEASE_SECONDS)
    is_lease = lease.owner is not None
    try:
        endless = seconds < 0 and is_lease
        lease.acquire(timeout=-1 if endless else max(seconds, PATIENCE * LEASE_SECONDS))
    except Timeout:
        if is_lease:
            raise
        # Nobody writes again what earlier versions have written.
        file.unlink(missing_ok=True)
        lease.acquire(timeout=0)
    log.warning("%s: taken from %s, which gave no sign", file, owner)
    return lease


def name_owner(file: Path) -> str:
    """Return who holds a lease, as its file says."""
    with suppress(OSError, ValueError):
        words = file.read_text(encoding="utf-8").split()
        if len(words) > 1:
            return make_printable(f"process {words[0]} of {words[1]}"[:100])
    return "another process"


def end_process(_lost: LeaseCompromise) -> None:
    """End this process as a signal would: another one took its lock, as nothing was heard of it."""
    log.error("%s: another process took the lock while this one stood still", _lost.lock_file)
    os.kill(os.getpid(), signal.SIGTERM)
