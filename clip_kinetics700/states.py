"""Notes the state of each file of a source when it is first seen, and refuses a file that changed.

Whoever has opened a dataset may read it for days. Places that an index gives say nothing about
another file, and samples of two states of a dataset must not be mixed without a word.
"""

import os
from datetime import datetime, timezone
from typing import NamedTuple


class ChangedError(ValueError):
    """A file is no longer what it was when its dataset was opened."""


class FileState(NamedTuple):
    """By what two states of a file are told apart; None where nobody says."""

    nbytes: int | None
    version: str | tuple[int, int] | None
    """ETag or time of a remote file; time in nanoseconds and inode of a local one."""

    def __str__(self) -> str:
        size = "unknown size" if self.nbytes is None else f"{self.nbytes:,} bytes"
        if isinstance(self.version, tuple):
            seconds = self.version[0] // 1_000_000_000
            return f"{size} of {datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S}"
        return size if self.version is None else f"{size}, {self.version}"


class FileStates(dict[str, FileState]):
    """The states of files by path or URL; it goes to workers with the dataset it is of."""

    def check(self, path: str, state: FileState) -> None:
        """Note the state of a file.

        Raises:
            ChangedError: another one was noted before.
        """
        noted = self.setdefault(path, state)
        if noted == state:
            return
        for then, now in zip(noted, state, strict=True):
            if then is not None and now is not None and then != now:
                raise ChangedError(
                    f"{path}: has changed since its dataset was opened ({noted} then, {state} "
                    "now): open the dataset again"
                )


def local_state(status: os.stat_result) -> FileState:
    """Return the state of a local file."""
    return FileState(status.st_size, (status.st_mtime_ns, status.st_ino))
