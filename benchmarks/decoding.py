"""Measures how fast clips are decoded on one core, in this tree and in another, side by side.

Run as `python -m benchmarks.decoding [--other TREE] [--videos DIR] [--clips 8] [--repeats 5]
[--json FILE]`. Clips like Kinetics' are generated at 340x256, 1280x720 and 1920x1080, with
B-frames as x264 makes them and, at 340x256, without; `--videos` adds real ones. Each turn decodes
all clips of a kind in both trees, each in a process of its own, and ratios are those of one turn.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.generated_clips import H264, KINETICS_SIZE, make_clip
from benchmarks.timing import WIDTH, write_json

HERE = Path(__file__).parent.parent
SIZES = {"340x256": KINETICS_SIZE, "1280x720": (1280, 720), "1920x1080": (1920, 1080)}
WITHOUT_B_FRAMES = (*H264, "-bf", "0")
# It runs in either tree, so it uses what both have; the first clip warms up.
PROGRAM = """
import sys, time, torch
from clip_kinetics700_builder.decode.preprocess import Preprocessing
from clip_kinetics700_builder.decode.video import DecodeTask, Decoding, decode_frames
torch.set_num_threads(1)
clip = Preprocessing(
    shortest_edge=224, resample="bicubic", crop=(224, 224), rescale_factor=1 / 255,
    mean=(0.5,) * 3, std=(0.5,) * 3,
)
paths = sys.argv[1:]
for path in (paths[0], *paths):
    if path == paths[0]:
        begin = time.process_time()
    decode_frames(DecodeTask(0, path, 0, Decoding(1.0, clip)))
print(time.process_time() - begin)
"""


def main() -> int:
    """Generate, measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", type=Path, help="checkout of another commit")
    parser.add_argument("--videos", type=Path, help="directory of real clips")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    trees = {"this": HERE} | ({"other": arguments.other.resolve()} if arguments.other else {})
    with tempfile.TemporaryDirectory() as name:
        kinds = make_clips(Path(name), arguments.clips)
        if arguments.videos:
            kinds["real"] = sorted(arguments.videos.rglob("*.*"))
        turns = [
            {kind: {tree: measure(trees[tree], kinds[kind]) for tree in trees} for kind in kinds}
            for _ in range(arguments.repeats)
        ]
    print_figures(turns, kinds)
    write_json(arguments.json, {"turns": turns})
    return 0


def make_clips(directory: Path, n_clips: int) -> dict[str, list[Path]]:
    """Return generated clips by kind; there are fewer of larger ones."""
    kinds: dict[str, list[Path]] = {}
    for name, size in SIZES.items():
        n_times = size[0] * size[1] / (KINETICS_SIZE[0] * KINETICS_SIZE[1])
        kinds[name] = [
            directory / f"{name}_{number}.mp4" for number in range(max(2, round(n_clips / n_times)))
        ]
        for number, path in enumerate(kinds[name]):
            make_clip(path, seed=number, size=size)
    kinds["340x256, no B-frames"] = [directory / f"plain_{number}.mp4" for number in range(n_clips)]
    for number, path in enumerate(kinds["340x256, no B-frames"]):
        make_clip(path, seed=number, options=WITHOUT_B_FRAMES)
    return kinds


def measure(tree: Path, paths: list[Path]) -> float:
    """Return the milliseconds of processor time that a clip takes in a tree, in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": f"{tree}:{tree / 'builder'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, *map(str, paths)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout) * 1000 / len(paths)


def print_figures(turns: list[dict[str, dict[str, float]]], kinds: dict[str, list[Path]]) -> None:
    """Print the medians of all turns as a table, and the median ratio where there are two trees."""
    table = Table("clips", "ms a clip", "before", "times as fast")
    for kind, paths in kinds.items():
        here = [turn[kind]["this"] for turn in turns]
        before = [turn[kind]["other"] for turn in turns if "other" in turn[kind]]
        ratios = [old / new for old, new in zip(before, here, strict=False)]
        others = [f"{median(before):.1f}", f"{median(ratios):.2f}"] if before else ["", ""]
        table.add_row(f"{len(paths)} {kind}", f"{median(here):.1f}", *others)
    Console(width=WIDTH).print(table)


if __name__ == "__main__":
    sys.exit(main())
