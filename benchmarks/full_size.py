"""This benchmark measures opening, selecting from and reading a dataset of Kinetics-700's size.

Run as `python -m benchmarks.full_size [--samples 634987] [--repeats 3] [--directory DIR]
[--json FILE]`. It writes 8.5 GB of generated tars with their index, which are deleted again unless
a directory is given; a dataset that is there already is measured as it is. Each task runs in a
process of its own; the page cache is warm where memory holds the tars.
"""

import argparse
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.server import ENVIRONMENT, serve
from benchmarks.synthetic import COUNTS, share_out, write_dataset
from benchmarks.timing import WIDTH, write_json
from clip_kinetics700.schema import INDEX_NAME, MANIFEST_NAME
from clip_kinetics700_builder.system.progress import track_progress

BYTES_PER_SAMPLE = 13_400
LATENCY_SECONDS = 0.05
# The title of each task of full_size_tasks, and the limit that is wanted of it.
TASKS = (
    ("len", "open", "< 2 s"),
    ("one class, whole", "class", "< 2 s"),
    ("first shuffled batch", "batch", "< 2 s"),
    ("all samples", "all", "< 1024 MiB"),
    ("shuffled epoch", "epoch", "< 1024 MiB"),
)


def main() -> int:
    """Write, measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=sum(COUNTS.values()))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # A run that is stopped removes its gigabytes too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with ExitStack() as stack:
        directory = arguments.directory
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "dataset"
        if not (directory / MANIFEST_NAME).is_file():
            write_full_size(directory, arguments.samples)
        document = measure_all(directory, arguments.repeats)
    print_tasks(document)
    print_remote(document)
    write_json(arguments.json, document)
    return 0


def write_full_size(directory: Path, n_samples: int) -> None:
    """Generate the dataset, its splits in the proportions of Kinetics-700.

    Raises:
        SystemExit: the disk has no room for it.
    """
    counts = share_out(n_samples)
    needed = n_samples * BYTES_PER_SAMPLE
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise SystemExit(f"{directory}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} free")
    with track_progress("writing", n_samples, unit="samples") as advance:
        write_dataset(directory, counts, formats=("webdataset",), advance=advance)
    # Gigabytes still on their way to the disk would slow down the first task.
    os.sync()


def measure_all(directory: Path, repeats: int) -> dict[str, Any]:
    """Return what the dataset holds and what every task took."""
    manifest = json.loads((directory / MANIFEST_NAME).read_text(encoding="utf-8"))
    nbytes = {name: entry["bytes"] for name, entry in manifest["files"].items()}
    tasks: dict[str, dict[str, Any]] = {}
    for title, task, wanted in TASKS:
        turns = [run_task(task, str(directory)) for _ in range(repeats)]
        tasks[title] = {**take_medians(turns), "wanted": wanted}
    return {
        "samples": manifest["totals"]["samples"],
        "tars": sum(name.endswith(".tar") for name in nbytes),
        "bytes": sum(nbytes.values()),
        "index_bytes": nbytes[INDEX_NAME],
        "repeats": repeats,
        "tasks": tasks,
        "remote": measure_remote(directory, repeats),
    }


def measure_remote(directory: Path, repeats: int) -> dict[str, Any]:
    """Return what reading one class over the web takes, and whether it gives the same samples."""
    local = run_task("class", str(directory))
    turns = []
    with serve(directory, latency_seconds=LATENCY_SECONDS) as served:
        for _ in range(repeats):
            served.take_counts()
            turns.append({**run_task("class", served.url), **served.take_counts()})
    same = all(turn["sha256"] == local["sha256"] for turn in turns)
    return {**take_medians(turns), "equals_local": same, "latency_seconds": LATENCY_SECONDS}


def run_task(task: str, source: str) -> dict[str, Any]:
    """Run a task in a process of its own and return its figures."""
    command = [sys.executable, "-m", "benchmarks.full_size_tasks", task, source]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT)
    return dict(json.loads(done.stdout))


def take_medians(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each number; what else there is is the same in all turns."""
    return {
        name: median(turn[name] for turn in turns) if isinstance(value, int | float) else value
        for name, value in turns[0].items()
    }


def print_tasks(document: dict[str, Any]) -> None:
    """Print what the tasks on disk took."""
    print(f"{document['samples']:,} samples in {document['tars']} tars,", end=" ")
    print(
        f"{document['bytes'] / 1e9:.2f} GB, index {document['index_bytes'] / 1e6:.1f} MB;", end=" "
    )
    print(f"medians of {document['repeats']} runs")
    table = Table("open and ...", "wanted")
    for name in ("samples", "takes", "imports", "peak RSS"):
        table.add_column(name, justify="right")
    for title, row in document["tasks"].items():
        peak = "unknown" if row["peak_mib"] is None else f"{row['peak_mib']:,.0f} MiB"
        seconds, imports = f"{row['seconds']:.2f} s", f"{row['import_seconds']:.2f} s"
        table.add_row(title, row["wanted"], f"{row['samples']:,.0f}", seconds, imports, peak)
    Console(width=WIDTH).print(table)


def print_remote(document: dict[str, Any]) -> None:
    """Print what reading one class from a web server took."""
    row = document["remote"]
    milliseconds = 1000 * row["latency_seconds"]
    table = Table(f"one class over HTTP, {milliseconds:.0f} ms a request", "wanted")
    table.add_column("measured", justify="right")
    share = row["bytes"] / document["bytes"]
    table.add_row("seconds, imports left out", "< 10", f"{row['seconds']:.2f}")
    table.add_row("samples", "", f"{row['samples']:,.0f}")
    table.add_row("requests", "", f"{row['requests']:,.0f}")
    table.add_row("MB transferred, index included", "", f"{row['bytes'] / 1e6:.1f}")
    table.add_row("share of the dataset", "< 3 %", f"{100 * share:.2f} %")
    table.add_row("equals the local read", "yes", "yes" if row["equals_local"] else "NO")
    Console(width=WIDTH).print(table)


if __name__ == "__main__":
    sys.exit(main())
