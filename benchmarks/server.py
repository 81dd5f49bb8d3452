"""`serve` runs the tests' web server in another process, so what is measured loses no time to it.

The process is `python -m benchmarks.server DIRECTORY LATENCY_SECONDS`; it ends with its input.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.support.hub import servers

PROJECT = Path(__file__).parent.parent
# Other processes run the code of this checkout, whatever is installed.
SOURCE_PATHS = os.pathsep.join((str(PROJECT), str(PROJECT / "builder")))
ENVIRONMENT = {**os.environ, "PYTHONPATH": SOURCE_PATHS}


@dataclass(frozen=True, slots=True)
class Served:
    """A directory that another process serves."""

    url: str
    questions: IO[str]
    answers: IO[str]

    def take_counts(self) -> dict[str, int]:
        """Return `requests` and `bytes` since the last call."""
        self.questions.write("\n")
        self.questions.flush()
        return dict(json.loads(self.answers.readline()))


@contextmanager
def serve(directory: Path, *, latency_seconds: float = 0.0) -> Iterator[Served]:
    """Serve a directory in another process while the block runs."""
    command = [sys.executable, "-m", "benchmarks.server"]
    command += [str(directory.absolute()), str(latency_seconds)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=ENVIRONMENT) as process:
        if process.stdin is None or process.stdout is None:
            raise AssertionError
        yield Served(process.stdout.readline().strip(), process.stdin, process.stdout)


def main() -> None:
    """Serve, and print counts of requests and bytes whenever a line comes in."""
    directory, latency_seconds = Path(sys.argv[1]), float(sys.argv[2])
    with servers.serve(directory, latency_seconds=latency_seconds) as served:
        print(served.url, flush=True)
        for _ in sys.stdin:
            counts = {"requests": len(served.requests), "bytes": served.nbytes()}
            served.forget()
            print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main()
