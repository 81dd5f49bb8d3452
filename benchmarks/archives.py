"""This benchmark shows what bounds a build that streams archives, stage by stage and as a whole.

Run as `python -m benchmarks.archives [--clips 24] [--json FILE]`. The archive is a `.tar.gz` of
generated clips, as in `benchmarks.bench`, from a web server in a process of its own; stages are
in MB of archive a second, and a build from a directory of the same clips stands beside.
"""

import argparse
import gzip
import io
import json
import logging
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.build import measure_decode
from benchmarks.generated_clips import Inputs, make_inputs
from benchmarks.server import serve
from clip_kinetics700.streams import open_stream
from clip_kinetics700_builder import build
from clip_kinetics700_builder.decode.preprocess import Preprocessing
from clip_kinetics700_builder.decode.video import DecodeTask, Decoding
from clip_kinetics700_builder.engines.archive_stream import ArchiveStream
from clip_kinetics700_builder.sources.archive import read_clips
from clip_kinetics700_builder.types import Archive

REPEATS = 5
BUILDS = 3
# Fetching and unpacking a few clips takes no time that could be measured.
COPIES = 12
MEGABYTE = 1e6


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        inputs = make_inputs(Path(name), arguments.clips)
        tree = Path(name) / "tree"
        names = make_tree(inputs, tree)
        with serve(tree) as served:
            figures = measure_stages(inputs, tree, served.url, names)
            figures |= measure_builds(inputs, served.url)
    print_figures(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


def make_tree(inputs: Inputs, tree: Path) -> list[str]:
    """Write a tree like CVDF's: one archive of the clips, one of many copies, as gzip and plain."""
    folder = tree / "400/train"
    folder.mkdir(parents=True)
    videos = sorted(inputs.videos.iterdir())
    rows = ["label,youtube_id,time_start,time_end,split"]
    rows += [f"yoga,{name_clip(n)[:11]},0,10,train" for n in range(len(videos))]
    (inputs.videos.parent / "train.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for stem, copies in (("part_0", 1), ("many", COPIES)):
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as archive:
            for number, video in enumerate(videos * copies):
                archive.add(video, f"{name_clip(number)}.mp4")
        (folder / f"{stem}.tar").write_bytes(tar.getvalue())
        (folder / f"{stem}.tar.gz").write_bytes(gzip.compress(tar.getvalue(), 6))
    address = "https://s3.amazonaws.com/kinetics/400/train/part_0.tar.gz\n"
    (folder / "k400_train_path.txt").write_text(address, encoding="utf-8")
    with tarfile.open(tree / "400/replacement_for_corrupted_k400.tgz", "w:gz"):
        pass  # nothing is to be replaced
    kinetics = inputs.videos.parent / "kinetics"
    kinetics.mkdir()
    for number, video in enumerate(videos):
        (kinetics / f"{name_clip(number)}.mp4").symlink_to(video)
    return [name_clip(number) for number in range(len(videos) * COPIES)]


def name_clip(number: int) -> str:
    """Return the name of a clip, without its extension."""
    return f"clip{number:07d}_000000_000010"


def measure_stages(inputs: Inputs, tree: Path, url: str, names: list[str]) -> dict[str, float]:
    """Return MB of archive a second for each stage alone, and for all that come before decoding."""
    packed, plain = tree / "400/train/many.tar.gz", tree / "400/train/many.tar"
    address = f"{url}/400/train/many.tar.gz"
    spool, rows = inputs.videos.parent / "spool", {name: row for row, name in enumerate(names)}
    ways: dict[str, Callable[[], Iterator[object]]] = {
        "fetch from the web server": lambda: read_pieces(address),
        "gunzip": lambda: unzip_pieces(packed),
        "walk the tar": lambda: read_clips(str(plain), lambda _: True),
        "fetch, gunzip, walk": lambda: read_clips(address, lambda _: True),
        "the same, and spool to disk": lambda: spool_clips(address, spool, rows),
    }
    megabytes = packed.stat().st_size / MEGABYTE
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(REPEATS + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            for _ in way():
                pass
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    figures = {f"{name}, MB/s": megabytes / median(each) for name, each in seconds.items()}
    clip_megabytes = megabytes / len(names)
    figures["decode and crop, one core, MB/s"] = clip_megabytes / measure_decode(inputs)
    return figures


def read_pieces(address: str) -> Iterator[bytes]:
    """Yield a file in pieces."""
    with open_stream(address) as stream:
        while piece := stream.read(1 << 20):
            yield piece


def unzip_pieces(path: Path) -> Iterator[bytes]:
    """Yield what gzip makes of a file, in pieces."""
    with gzip.open(path) as stream:
        while piece := stream.read(1 << 20):
            yield piece


def spool_clips(address: str, spool: Path, rows: dict[str, int]) -> Iterator[int]:
    """Yield the rows of an archive's clips while each is a file for a moment."""
    preprocessing = Preprocessing.__new__(Preprocessing)

    def make_task(row: int, path: Path) -> DecodeTask:
        return DecodeTask(row, str(path), 0, Decoding(1.0, preprocessing))

    stream = ArchiveStream(Archive("many", address, "train"), spool, rows)
    with stream.open_tasks(make_task) as tasks:
        for task in tasks:
            stream.drop(task.row)
            yield task.row


def measure_builds(inputs: Inputs, url: str) -> dict[str, float]:
    """Return clips a second of whole builds, from a directory and from the archive, in turns."""
    sources: dict[str, dict[str, object]] = {
        "build from a directory, clips/s": {"videos": inputs.videos.parent / "kinetics"},
        "build from the archive, clips/s": {
            "source": "cvdf",
            "version": "400",
            "base_url": url,
        },
    }
    rates: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(BUILDS):
        for name, source in sources.items():
            output = inputs.videos.parent / "out"
            shutil.rmtree(output, ignore_errors=True)
            options: dict[str, Any] = {**source, "model": str(inputs.model), "device": "cpu"}
            summary = build(
                output, annotations=inputs.videos.parent / "train.csv", **options
            ).encoded
            rates[name].append(summary.n_clips / summary.seconds)
    return {name: median(each) for name, each in rates.items()}


def print_figures(figures: dict[str, float]) -> None:
    """Print medians as a table."""
    table = Table("what", "median")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.1f}")
    Console(soft_wrap=True).print(table)


if __name__ == "__main__":
    sys.exit(main())
