"""These functions measure how fast `build` is, stage by stage and as a whole.

The rates and ceilings of one turn are measured within the same minutes. Each build is the command
line in a process of its own, and the memory of its whole process tree is watched.
"""

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from benchmarks.ceilings import combine_limits, count_flops, measure_decode_pass, measure_matrix
from benchmarks.generated_clips import FRAMES_PER_CLIP, Inputs
from benchmarks.processes import run_watched
from clip_kinetics700_builder.decode.video import DecodeTask, Decoding, decode_frames
from clip_kinetics700_builder.encode.batches import EncoderThreads
from clip_kinetics700_builder.encode.devices import (
    find_missing_tool,
    resolve_batch_size,
    resolve_dtype,
)
from clip_kinetics700_builder.encode.model_files import find_model
from clip_kinetics700_builder.encode.tower import ClipVisionEncoder, EncoderShape
from clip_kinetics700_builder.encode.vision import load_encoder, read_preprocessing
from clip_kinetics700_builder.system.machine import count_cores
from clip_kinetics700_builder.types import Frames

ENCODE_SECONDS = 5.0
RATE_LINE = re.compile(r"(\d+) clips in ([\d.]+) s")


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the model."""

    dtype: str
    compiled: bool

    @property
    def name(self) -> str:
        """The name of the variant in tables."""
        return f"{self.dtype} {'compiled' if self.compiled else 'eager'}"


def list_variants() -> list[Variant]:
    """Return float32, and what `auto` takes here for short and for long jobs."""
    dtype = resolve_dtype("auto", "cpu")
    variants = [Variant("float32", compiled=False), Variant(dtype, compiled=False)]
    if find_missing_tool() is None:
        variants.append(Variant(dtype, compiled=True))
    return list(dict.fromkeys(variants))


def load_variants(inputs: Inputs, variants: list[Variant]) -> dict[Variant, ClipVisionEncoder]:
    """Load the model once for each way to run it."""
    files = find_model(str(inputs.model), None)
    preprocessing = read_preprocessing(files)
    batch_size = resolve_batch_size(None, "cpu")
    return {
        variant: load_encoder(
            files,
            preprocessing,
            EncoderShape(dtype=variant.dtype, batch_size=batch_size, compiled=variant.compiled),
            device="cpu",
        )
        for variant in variants
    }


def measure_turn(inputs: Inputs, encoders: dict[Variant, ClipVisionEncoder]) -> dict[str, float]:
    """Measure everything once; the ceilings stand between what is compared with them."""
    n_cores, turn = count_cores(), dict[str, float]()
    turn["cores"] = n_cores
    turn["GFLOP a frame"] = count_flops(inputs.model)
    for variant, encoder in encoders.items():
        turn[f"matrix {variant.dtype}"] = measure_matrix(variant.dtype, n_cores)
        turn[f"encode {variant.name}"] = measure_encode(encoder, n_cores)
    for variant in encoders:
        turn[f"decode pass beside {variant.name}"] = measure_decode_pass(
            inputs.clips, inputs.table.parent
        )
        turn[f"matrix beside {variant.name}"] = measure_matrix(variant.dtype, n_cores)
        turn |= measure_build(inputs, variant)
        turn[f"limit {variant.name}"] = combine_limits(
            turn[f"decode pass beside {variant.name}"],
            turn["GFLOP a frame"] * FRAMES_PER_CLIP,
            turn[f"matrix beside {variant.name}"],
            n_cores,
        )
    turn["decode pass"] = measure_decode_pass(inputs.clips, inputs.table.parent)
    turn["decode"] = measure_decode(inputs)
    turn["peer"] = measure_peer(inputs)
    return turn


def measure_decode(inputs: Inputs) -> float:
    """Return seconds to decode and crop one clip in one process with one thread."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    decoding = Decoding(1.0, read_preprocessing(find_model(str(inputs.model), None)))
    seconds = []
    for path in inputs.clips:
        begin = time.perf_counter()
        decoded = decode_frames(DecodeTask(0, str(path), 0, decoding))
        seconds.append(time.perf_counter() - begin)
        if not isinstance(decoded, Frames):
            raise RuntimeError(decoded.message)
    torch.set_num_threads(n_threads)
    return median(seconds)


def measure_encode(encoder: ClipVisionEncoder, n_threads: int) -> float:
    """Return frames a second of the encoder alone, in a thread for each core."""
    shape = (encoder.batch_size, 224, 224, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with EncoderThreads(encoder, n_threads) as threads:
        threads.submit(pixels).result()
        begin = time.perf_counter()
        threads.submit(pixels).result()
        seconds = time.perf_counter() - begin
        n_batches = n_threads * max(1, round(ENCODE_SECONDS / seconds))
        begin = time.perf_counter()
        for future in [threads.submit(pixels) for _ in range(n_batches)]:
            future.result()
        return n_batches * encoder.batch_size / (time.perf_counter() - begin)


def measure_build(inputs: Inputs, variant: Variant) -> Iterator[tuple[str, float]]:
    """Yield clips a second without start-up, seconds with it, and MiB of the process tree."""
    output = inputs.table.parent / "out"
    shutil.rmtree(output, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "clip_kinetics700_builder",
        "build",
    ]
    command += ["--annotations", str(inputs.table), "--videos", str(inputs.videos)]
    command += ["--model", str(inputs.model), "--output", str(output), "--device", "cpu"]
    command += ["--dtype", variant.dtype, "--compile", "yes" if variant.compiled else "no"]
    begin = time.perf_counter()
    printed, peak = run_watched(command)
    yield f"seconds in all {variant.name}", time.perf_counter() - begin
    match = RATE_LINE.search(printed)
    if match is None or int(match[1]) != inputs.n_clips:
        raise RuntimeError(f"build printed {printed!r}")
    yield f"build {variant.name}", inputs.n_clips / float(match[2])
    yield f"MiB {variant.name}", peak


def measure_peer(inputs: Inputs) -> float:
    """Return clips a second of the plain script of `datasets`."""
    output = inputs.table.parent / "peer.parquet"
    command = [sys.executable, "-m", "benchmarks.peer_build", str(inputs.videos)]
    # The cache of `datasets` would answer the second time.
    os.environ["HF_DATASETS_CACHE"] = str(inputs.table.parent / "cache")
    shutil.rmtree(inputs.table.parent / "cache", ignore_errors=True)
    printed, _ = run_watched([*command, str(inputs.model), str(output)])
    answer = json.loads(printed)
    return float(answer["clips"] / answer["seconds"])
