"""This benchmark compares assembling finished parts with copying the result by `cp`.

Run as `python -m benchmarks.assembly [--samples 40000] [--scattered] [--repeats 3] [--directory
DIR] [--json FILE]`; 634,987 samples are the 65 shards of Kinetics-700 and take 36 GB of disk. A
process of its own, whose resident memory is watched, assembles generated parts in both formats.
The result is copied on the same file system: into the page cache, and until `sync` says that it is
on the disk, where assembly has every file before it gives it its name.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.generated_parts import write_work
from benchmarks.processes import run_watched
from benchmarks.timing import WIDTH, write_json

# Bytes of the parts, of the layout assembled from them and of a copy of it.
BYTES_PER_SAMPLE = 11_000 + 2 * 24_000
WANTED_SHARE = 0.5
WANTED_MIB = 500


def main() -> int:
    """Generate, measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=40_000)
    parser.add_argument("--scattered", action="store_true", help="parts are those of archives")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="on the file system to measure")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    # A run that is stopped removes its gigabytes too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        document = measure_assembly(
            Path(name),
            arguments.samples,
            repeats=arguments.repeats,
            is_scattered=arguments.scattered,
        )
    print_assembly(document)
    write_json(arguments.json, document)
    return 0


def measure_assembly(
    directory: Path, n_samples: int, *, repeats: int = 3, is_scattered: bool = False
) -> dict[str, Any]:
    """Generate parts in an empty directory; return what assembling and copying them takes.

    Args:
        directory: an empty one on the file system that is measured; its files stay.
        n_samples: clips, each of which has a sample.
        repeats: number of turns of assembling and copying; medians over them are returned.
        is_scattered: rows lie as archives have them, all over the plan.

    Raises:
        SystemExit: the disk has no room for it.
    """
    needed, free = n_samples * BYTES_PER_SAMPLE, shutil.disk_usage(directory).free
    if free < needed:
        raise SystemExit(f"{directory}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} free")
    work = directory / "work"
    write_work(work, n_samples, is_scattered=is_scattered)
    turns = [measure_turn(work, directory) for _ in range(repeats)]
    medians = {name: median(turn[name] for turn in turns) for name in turns[0]}
    return {**medians, "is_scattered": is_scattered, "repeats": repeats, "turns": turns}


def measure_turn(work: Path, directory: Path) -> dict[str, float]:
    """Assemble and copy once; return seconds, bytes and the shares of the copies' speed."""
    output, copy = directory / "assembled", directory / "copy"
    for path in (output, copy):
        shutil.rmtree(path, ignore_errors=True)
    # Bytes still on their way to the disk would slow down what is measured.
    os.sync()
    turn = run_assembly(work, output)
    files = sorted(path for path in output.rglob("*") if path.is_file())
    seconds = turn["open_seconds"] + turn["assemble_seconds"]
    os.sync()
    copied, synced = copy_files(output, copy)
    shutil.rmtree(copy)
    return {
        **turn,
        "bytes": sum(path.stat().st_size for path in files),
        "seconds": seconds,
        "samples_per_second": turn["samples"] / seconds,
        "cp_seconds": copied,
        "cp_sync_seconds": synced,
        "share_of_cp": copied / seconds,
        "share_of_cp_sync": synced / seconds,
    }


def run_assembly(work: Path, output: Path) -> dict[str, float]:
    """Assemble in a fresh process; return its figures, and the peak of its resident memory."""
    task = [sys.executable, "-m", "benchmarks.assembly_task", str(work), str(output)]
    answer, peak = run_watched(task)
    return {**json.loads(answer), "peak_mib": peak}


def copy_files(source: Path, copy: Path) -> tuple[float, float]:
    """Copy a directory with `cp`; return the seconds until it ends, and until all is on disk."""
    begin = time.perf_counter()
    subprocess.run(["cp", "-r", str(source), str(copy)], check=True)
    copied = time.perf_counter() - begin
    subprocess.run(["sync", *map(str, copy.rglob("*"))], check=True)
    return copied, time.perf_counter() - begin


def print_assembly(document: dict[str, Any]) -> None:
    """Print medians as a table."""
    lie = "all over the plan" if document["is_scattered"] else "in runs"
    gigabytes = document["bytes"] / 1e9
    print(f"{document['samples']:,.0f} samples, {gigabytes:.2f} GB of files,", end=" ")
    print(f"rows of parts lie {lie};", end=" ")
    print(f"medians of {document['repeats']} runs, {os.cpu_count()} cores")
    table = Table("what", "wanted")
    table.add_column("measured", justify="right")
    for name, wanted, text in list_lines(document):
        table.add_row(name, wanted, text)
    Console(width=WIDTH).print(table)


def list_lines(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the lines of the table: name, wanted value, measured value."""

    def speed(name: str) -> str:
        return f"{document['bytes'] / document[name] / 1e6:,.0f} MB/s"

    wanted = f">= {WANTED_SHARE}"
    return [
        ("assembly, every file synced", "", speed("seconds")),
        ("samples a second", "", f"{document['samples_per_second']:,.0f}"),
        ("of it opening the parts", "", f"{document['open_seconds']:.2f} s"),
        ("cp, then sync of every file", "", speed("cp_sync_seconds")),
        ("share of it", wanted, f"{document['share_of_cp_sync']:.2f}"),
        ("cp into the page cache", "", speed("cp_seconds")),
        ("share of it", "", f"{document['share_of_cp']:.2f}"),
        ("peak of the resident memory", f"<= {WANTED_MIB} MiB", f"{document['peak_mib']:,.0f} MiB"),
    ]


if __name__ == "__main__":
    sys.exit(main())
