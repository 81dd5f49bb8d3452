"""This benchmark measures what it costs that a hostile file cannot stop a build.

Run as `python -m benchmarks.isolation [--clips 24] [--turns 7] [--long] [--json FILE]`. Worker
processes and threads decode the same clips in turn, as many as there are cores, once all are
started. `--long` also makes a video of 8 hours in 4K (3.5 GB of disk) and watches the memory of the
worker that decodes pieces of its start, middle and end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median

import psutil
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.generated_clips import make_inputs
from clip_kinetics700_builder.config import FRAMES_PER_TASK
from clip_kinetics700_builder.decode.pool import DecodePool
from clip_kinetics700_builder.decode.video import DecodeTask, Decoding, decode_frames
from clip_kinetics700_builder.encode.model_files import find_model
from clip_kinetics700_builder.encode.vision import read_preprocessing
from clip_kinetics700_builder.types import Failure, Frames

LONG_SECONDS = 8 * 3600
LOOP_SECONDS = 10
TIMEOUT_SECONDS = 600.0


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        inputs = make_inputs(Path(name), arguments.clips)
        preprocessing = read_preprocessing(find_model(str(inputs.model), None))
        task = DecodeTask(0, "", 0, Decoding(1.0, preprocessing))
        tasks = [
            replace(task, row=row, path=str(path))
            for row, path in enumerate(sorted(inputs.videos.iterdir()))
        ]
        figures = measure_isolation(tasks, arguments.turns)
        if arguments.long:
            long = replace(task, path=str(make_long_video(Path(name))))
            figures["worker on 8 hours of 4K, MiB at most"] = measure_memory(long)
    print_figures(figures, f"medians of {arguments.turns} turns, {arguments.clips} clips each")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


def measure_isolation(tasks: list[DecodeTask], n_turns: int) -> dict[str, float]:
    """Return clips a second of threads and of worker processes, and the ratio's median."""
    n_workers = len(os.sched_getaffinity(0))
    torch.set_num_threads(1)
    in_threads, in_processes = list[float](), list[float]()
    with (
        DecodePool(n_workers, TIMEOUT_SECONDS) as pool,
        ThreadPoolExecutor(n_workers) as threads,
    ):
        # The first clips wait for the workers' imports.
        drain(pool.decode(tasks))
        drain(threads.map(decode_frames, tasks))
        for _ in range(n_turns):
            begin = time.perf_counter()
            drain(threads.map(decode_frames, tasks))
            middle = time.perf_counter()
            drain(pool.decode(tasks))
            in_threads.append(len(tasks) / (middle - begin))
            in_processes.append(len(tasks) / (time.perf_counter() - middle))
    ratios = [a / b for a, b in zip(in_processes, in_threads, strict=True)]
    return {
        "decode in threads, clips/s": median(in_threads),
        "decode in worker processes, clips/s": median(in_processes),
        "processes / threads": median(ratios),
    }


def drain(results: Iterable[Frames | Failure]) -> None:
    """Take all results."""
    for result in results:
        if isinstance(result, Failure):
            raise RuntimeError(result.message)


def make_long_video(directory: Path) -> Path:
    """Return 8 hours of 4K at 30 frames a second: ten seconds, again and again."""
    source = f"testsrc2=size=3840x2160:rate=30:duration={LOOP_SECONDS}"
    loop, path = directory / "loop.mp4", directory / "long.mp4"
    command = ["ffmpeg", "-v", "error", "-nostdin", "-f", "lavfi", "-i", source, "-c:v", "libx264"]
    command += ["-preset", "ultrafast", "-crf", "45", "-g", "60", "-pix_fmt", "yuv420p", str(loop)]
    subprocess.run(command, check=True)
    times = str(LONG_SECONDS // LOOP_SECONDS - 1)
    command = ["ffmpeg", "-v", "error", "-nostdin", "-stream_loop", times, "-i", str(loop)]
    subprocess.run([*command, "-c", "copy", str(path)], check=True)
    return path


def measure_memory(task: DecodeTask) -> float:
    """Return the most MiB that the worker held, resident, in three pieces of a long video."""
    n_frames = LONG_SECONDS
    ended = threading.Event()
    peak = [0]
    with DecodePool(1, TIMEOUT_SECONDS, memory_mib=16_384) as pool:
        # One child only keeps books for multiprocessing.
        children = psutil.Process().children()

        def watch() -> None:
            while not ended.wait(0.005):
                peak[0] = max(peak[0], *(child.memory_info().rss for child in children))

        watching = threading.Thread(target=watch)
        watching.start()
        for first in (0, n_frames // 2, n_frames - FRAMES_PER_TASK):
            # The pool goes on to the end of a clip by itself: only the first piece is wanted.
            result = next(iter(pool.decode([replace(task, first=first)])))
            drain([result])
        ended.set()
        watching.join()
    return peak[0] / 2**20


def print_figures(figures: dict[str, float], title: str) -> None:
    """Print figures as a table."""
    table = Table("what", "figure")
    for name, value in figures.items():
        table.add_row(name, f"{value:.3g}" if value < 1 else f"{value:.1f}")
    console = Console(soft_wrap=True)
    console.print(f"{title}, {os.cpu_count()} cores")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
