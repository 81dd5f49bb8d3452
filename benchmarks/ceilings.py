"""These functions measure what the machine itself could do at most: products, decoding, reading."""

import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from clip_kinetics700_builder.encode.model_files import find_model
from clip_kinetics700_builder.encode.vision import load_model
from clip_kinetics700_builder.system.threads import use_one_thread

# Rows, inner and outer columns of the larger product in ViT-B/32's layers, at a batch of 32.
MATRIX = (1600, 768, 3072)
PRODUCTS = 60


def measure_matrix(dtype: str, n_cores: int) -> float:
    """Return GFLOP/s of matrix products, one on each core at a time."""
    kind = getattr(torch, dtype)
    rows, inner, columns = MATRIX

    def multiply(_: int) -> float:
        a, b = torch.randn(rows, inner).to(kind), torch.randn(inner, columns).to(kind)
        torch.mm(a, b)
        begin = time.perf_counter()
        for _ in range(PRODUCTS):
            torch.mm(a, b)
        return PRODUCTS * 2 * rows * inner * columns / (time.perf_counter() - begin) / 1e9

    with ThreadPoolExecutor(n_cores, initializer=use_one_thread) as threads:
        return sum(threads.map(multiply, range(n_cores)))


def measure_decode_pass(clips: Sequence[Path], directory: Path) -> float:
    """Return seconds a clip in which FFmpeg decodes every frame on one core and converts none.

    All clips are one input of one process, so that its start counts once.
    """
    names = directory / "clips.txt"
    names.write_text("".join(f"file '{clip}'\n" for clip in clips), encoding="utf-8")
    command = ["ffmpeg", "-v", "error", "-nostdin", "-threads", "1", "-f", "concat", "-safe", "0"]
    command += ["-i", str(names), "-map", "0:v", "-threads", "1", "-fps_mode", "passthrough"]
    begin = time.perf_counter()
    subprocess.run([*command, "-f", "null", "-"], check=True)
    return (time.perf_counter() - begin) / len(clips)


def measure_read(files: Sequence[Path]) -> float:
    """Return bytes a second of reading files in pieces of a megabyte, from a warm cache."""
    n_bytes, piece = 0, bytearray(1 << 20)
    begin = time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while count := stream.readinto(piece):
                n_bytes += count
    return n_bytes / (time.perf_counter() - begin)


def count_flops(model: Path) -> float:
    """Return the GFLOP of one frame in the whole model, of which we leave out a part."""
    whole = load_model(find_model(str(model), None), torch.float32).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        whole(pixel_values=torch.zeros(1, 3, 224, 224))
    return int(counter.get_total_flops()) / 1e9


def combine_limits(decode_seconds: float, clip_gflop: float, gflops: float, n_cores: int) -> float:
    """Return the clips a second that no build on these cores can exceed.

    Args:
        decode_seconds: time in which one core decodes every frame of a clip.
        clip_gflop: what the model computes for a clip.
        gflops: GFLOP/s of matrix products on all cores together.
        n_cores: number of those cores.
    """
    return n_cores / (decode_seconds + clip_gflop / (gflops / n_cores))
