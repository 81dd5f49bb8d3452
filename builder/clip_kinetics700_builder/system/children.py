"""Processes that decode or draw import the script that started them, which must not start again."""

import multiprocessing
import os

NO_GUARD = 77
ADVICE = (
    'the script needs `if __name__ == "__main__":` around what it calls, '
    "because the processes that decode and draw import it"
)


def refuse_children() -> None:
    """End a process that is about to run the script of its parent once more."""
    # multiprocessing marks a process so while it imports the main module.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # The server that forks workers would make another code of SystemExit.
        os._exit(NO_GUARD)
