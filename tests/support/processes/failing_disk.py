"""Lets calls of a process on some files fail, by a library that is loaded before the system's."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


@dataclass(frozen=True, slots=True)
class FailingDisk:
    """The library."""

    library: Path

    def environment(self, call: str, number: int, path: Path | str, switch: Path) -> dict[str, str]:
        """Return the variables of a process for which calls fail with a number.

        They fail for files whose path holds `path`, as long as the file `switch` is there.
        """
        return {
            "LD_PRELOAD": str(self.library),
            "FAILING_CALLS": call,
            "FAILING_ERRNO": str(number),
            "FAILING_PATH": str(path),
            "FAILING_ON": str(switch),
        }


def compile_failing_disk(directory: Path) -> FailingDisk | None:
    """Return the library, compiled into a directory; None where that cannot be done."""
    if sys.platform != "linux" or shutil.which("cc") is None:
        return None
    library = directory / "failing_disk.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    return FailingDisk(library)
