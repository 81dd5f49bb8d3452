"""How fast `build` is: clips a second of its stages and of the whole, on this machine.

Run as `python -m benchmarks.build [--clips 24] [--json FILE]`. The clips are generated: ten
seconds of H.264 at 340x256 and 30 frames a second, like Kinetics' as most people store it. The
model has the exact ViT-B/32 configuration with random weights, whose speed is that of real ones.
"""

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from builder.config import AssembleConfig, EncodeConfig
from builder.decode import DecodeTask, Decoding, decode_frames
from builder.devices import resolve_dtype
from builder.encode import load_encoder, read_preprocessing, save_random_model
from builder.model_files import find_model
from builder.output import WORK_NAME
from builder.pipeline import build
from builder.tower import EncoderShape
from builder.types import Frames

BATCH_SIZE = 32
REPEATS = 3


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is measured on."""

    model: Path
    table: Path
    videos: Path
    n_clips: int


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        inputs = make_inputs(Path(name), arguments.clips)
        figures = {
            "decode one core, ms a clip": measure_decode(inputs),
            **{f"encode {dtype}, frames/s": measure_encode(inputs, dtype) for dtype in dtypes()},
            **{f"build {dtype}, clips/s": measure_build(inputs, dtype) for dtype in dtypes()},
        }
    print_figures(figures, inputs)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


def dtypes() -> list[str]:
    """Return float32 and, where `auto` is something else here, that too."""
    return list(dict.fromkeys(["float32", resolve_dtype("auto", "cpu")]))


def make_inputs(directory: Path, n_clips: int) -> Inputs:
    """Generate clips that differ, their table and the model."""
    videos = directory / "videos"
    videos.mkdir()
    rows = ["path,caption"]
    for number in range(n_clips):
        source = f"testsrc2=size=340x256:rate=30:duration=10,hue=h={number * 15}"
        command = ["ffmpeg", "-v", "error", "-nostdin", "-f", "lavfi", "-i", source]
        command += ["-c:v", "libx264", "-pix_fmt", "yuv420p", str(videos / f"{number}.mp4")]
        subprocess.run(command, check=True)
        rows.append(f"{number}.mp4,clip {number}")
    table = directory / "table.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    save_random_model(directory / "vit_b_32", tiny=False)
    return Inputs(directory / "vit_b_32", table, videos, n_clips)


def measure_decode(inputs: Inputs) -> float:
    """Return milliseconds to decode and crop one clip in one process with one thread."""
    torch.set_num_threads(1)
    preprocessing = read_preprocessing(find_model(str(inputs.model), None))
    seconds = []
    for path in sorted(inputs.videos.iterdir()):
        task = DecodeTask(0, str(path), 0, Decoding(1.0, preprocessing))
        begin = time.perf_counter()
        decoded = decode_frames(task)
        seconds.append(time.perf_counter() - begin)
        if not isinstance(decoded, Frames):
            raise RuntimeError(decoded.message)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return 1000 * median(seconds)


def measure_encode(inputs: Inputs, dtype: str) -> float:
    """Return frames a second of the model alone, on all cores."""
    files = find_model(str(inputs.model), None)
    encoder = load_encoder(
        files,
        read_preprocessing(files),
        EncoderShape(dtype=dtype, batch_size=BATCH_SIZE, compiled=False),
        device="cpu",
    )
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE, 224, 224, 3), np.uint8)
    encoder.encode(pixels)
    seconds = []
    for _ in range(REPEATS * 3):
        begin = time.perf_counter()
        encoder.encode(pixels)
        seconds.append(time.perf_counter() - begin)
    return BATCH_SIZE / median(seconds)


def measure_build(inputs: Inputs, dtype: str) -> float:
    """Return clips a second of decoding, encoding and writing parts, start-up left out."""
    rates = []
    for _ in range(REPEATS):
        output = inputs.table.parent / "out"
        shutil.rmtree(output, ignore_errors=True)
        encode_config = EncodeConfig(
            annotations=(inputs.table,),
            videos=inputs.videos,
            work=output / WORK_NAME,
            model=str(inputs.model),
            dtype=dtype,
            device="cpu",
        )
        assemble_config = AssembleConfig(source=output, output=output)
        summary, _ = build(encode_config, assemble_config, quiet=True)
        rates.append(summary.n_clips / summary.seconds)
    return median(rates)


def print_figures(figures: dict[str, Any], inputs: Inputs) -> None:
    """Print medians as a table."""
    table = Table("what", "figure")
    for name, value in figures.items():
        table.add_row(name, f"{value:.2f}")
    console = Console(soft_wrap=True)
    console.print(f"medians: {REPEATS} runs of {inputs.n_clips} clips, {os.cpu_count()} cores")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
