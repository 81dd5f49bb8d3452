"""Ends the process on a signal: through every `with` on the way, on a second one at once.

Nothing that is finished depends on a clean end: files appear whole, locks die with their owner.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

# Ctrl-C; Slurm and systemd; a closed terminal.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class TerminatedError(Exception):
    """A signal, the only argument, asked the process to end."""


@contextmanager
def catch_signals() -> Iterator[None]:
    """Let signals raise in the block; those that are ignored, as under nohup, stay so."""
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}
    caught = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, raise_once)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, before[number])


def raise_once(number: int, _frame: FrameType | None) -> NoReturn:
    """Raise KeyboardInterrupt or TerminatedError; the next signal will not wait for the rest."""
    for other in SIGNALS:
        if signal.getsignal(other) is raise_once:
            signal.signal(other, end_at_once)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise TerminatedError(number)


def end_at_once(number: int, _frame: FrameType | None) -> NoReturn:
    """End without cleaning up; the kernel ends the workers."""
    os.write(2, b"clip-kinetics700: ended at once; run it again to go on\n")
    os._exit(128 + number)


def leave(code: int) -> NoReturn:
    """End with an exit code; after a failure do not wait for threads that wait for a server."""
    threads = [thread for thread in threading.enumerate() if not thread.daemon]
    if code != 0 and threads != [threading.main_thread()]:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
