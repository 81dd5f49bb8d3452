"""This benchmark measures the time and memory that a push of 65 tars and 65 Parquet files takes.

    python -m benchmarks.push [--megabytes 16] [--turns 1]

The Hub is `tests/support/hub/minihub.py` in a process of its own on this machine, once with Xet
and once with LFS; the files are noise.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.support.hub.hubs import start_hub
from tests.support.hub.publishing import REPOSITORY, write_layout

N_SHARDS = 65
CODE = """
import sys, clip_kinetics700_builder.cli.app
code = clip_kinetics700_builder.cli.app.run(sys.argv[1:])
lines = open("/proc/self/status").read().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
sys.exit(code)
"""


def measure_push(layout: Path, *, xet: bool) -> tuple[float, float]:
    """Push to a new Hub; return seconds and the most MiB the process held."""
    with tempfile.TemporaryDirectory(dir=layout.parent) as name, start_hub(Path(name)) as hub:
        environment = hub.environment(HF_HUB_DISABLE_XET="0" if xet else "1")
        begin = time.monotonic()
        words = [sys.executable, "-c", CODE, "push", str(layout), REPOSITORY]
        done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        return time.monotonic() - begin, int(done.stdout.split()[-1]) / 1024


def main() -> None:
    """Print one line for each protocol and turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=16.0, help="of each of the 130 files")
    parser.add_argument("--turns", type=int, default=1)
    options = parser.parse_args()
    table = Table("protocol", "MB", "seconds", "MB/s", "peak MiB")
    with tempfile.TemporaryDirectory() as name:
        n_bytes = int(options.megabytes * 1e6)
        layout = write_layout(Path(name) / "dataset", n_shards=N_SHARDS, shard_bytes=n_bytes)
        total = 2 * N_SHARDS * options.megabytes
        for xet in (True, False) * options.turns:
            seconds, peak = measure_push(layout, xet=xet)
            row = (total, seconds, total / seconds, peak)
            table.add_row("Xet" if xet else "LFS", *(f"{value:,.0f}" for value in row))
    Console().print(table)


if __name__ == "__main__":
    main()
