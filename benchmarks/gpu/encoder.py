"""How fast the encoder is on a GPU, and whether a row of it always has the same bits."""

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.gpu.machine import Facts, Machine, run_python
from clip_kinetics700_builder.encode.batches import EncoderThreads
from clip_kinetics700_builder.encode.model_files import find_model
from clip_kinetics700_builder.encode.tower import ClipVisionEncoder, EncoderShape
from clip_kinetics700_builder.encode.vision import load_encoder, read_preprocessing

GFLOP_PER_FRAME = 8.2  # ViT-B/32, in its last layer the class token alone
COMPILED_PROGRAM = """
import hashlib, sys
from pathlib import Path
from benchmarks.gpu.encoder import load, random_pixels
from benchmarks.gpu.machine import Machine
machine = Machine(on_gpu=sys.argv[2] == "cuda", out=Path(), work=Path(sys.argv[1]))
encoder = load(machine, int(sys.argv[3]), compiled=True)
print(hashlib.sha256(encoder.encode(random_pixels(int(sys.argv[3])))).hexdigest())
"""

Pixels = npt.NDArray[np.uint8]


def load(
    machine: Machine, batch_size: int, dtype: str = "bfloat16", *, compiled: bool = False
) -> ClipVisionEncoder:
    """Load the random model."""
    files = find_model(str(machine.work / "model"), None)
    shape = EncoderShape(dtype=dtype, batch_size=batch_size, compiled=compiled)
    return load_encoder(files, read_preprocessing(files), shape, device=machine.device)


def random_pixels(n: int) -> Pixels:
    """Return (n, 224, 224, 3) uint8 pictures of coarse blocks."""
    coarse = np.random.default_rng(0).integers(0, 256, (n, 28, 28, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, axis=1).repeat(8, axis=2))


def rate_of(call: Callable[[], object], n_frames: int) -> int:
    """Return frames a second of a call that has run before: the median of five measurements."""
    rates = []
    for _ in range(5):
        start, n_calls = time.perf_counter(), 0
        while time.perf_counter() - start < 0.2:
            call()
            n_calls += 1
        rates.append(n_calls * n_frames / (time.perf_counter() - start))
    return round(sorted(rates)[2])


def measure_encode(machine: Machine) -> Facts:
    """Return frames a second through a build's threads; on a GPU also of the tower and a graph."""
    dtype = "bfloat16" if machine.on_gpu else "float32"
    table: Facts = {}
    for compiled, batch in [(False, n) for n in machine.batches] + [(True, machine.batches[1])]:
        encoder = load(machine, batch, dtype, compiled=compiled)
        row: Facts = {}
        with EncoderThreads(encoder, 2, is_pinned=machine.on_gpu) as threads:
            buffers = [threads.make_batch((224, 224, 3)) for _ in range(4)]
            for buffer in buffers:
                buffer[:] = random_pixels(batch)
            start = time.perf_counter()
            threads.submit(buffers[0]).result()
            row["first call s"] = round(time.perf_counter() - start, 2)

            def encode_all(
                threads: EncoderThreads = threads, buffers: list[Pixels] = buffers
            ) -> None:
                for future in [threads.submit(buffer) for buffer in buffers]:
                    future.result()

            row["threads"] = rate_of(encode_all, 4 * batch)
        if machine.on_gpu:
            row |= measure_tower(encoder, batch, with_graph=not compiled)
        table[f"{'compiled' if compiled else 'eager'} {batch}"] = row
    return table


def measure_tower(encoder: ClipVisionEncoder, batch: int, *, with_graph: bool) -> Facts:
    """Return frames a second of the tower alone, and as a CUDA graph."""
    tower, pixels = encoder.tower, torch.from_numpy(random_pixels(batch)).cuda()
    row: dict[str, float] = {}
    with torch.inference_mode():

        def run_tower() -> None:
            tower(pixels)
            torch.cuda.synchronize()

        row["tower"] = rate_of(run_tower, batch)
        if with_graph:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                tower(pixels)

            def replay() -> None:
                graph.replay()
                torch.cuda.synchronize()

            row["graph"] = rate_of(replay, batch)
    return {**row, "TFLOP/s": round(max(row.values()) * GFLOP_PER_FRAME / 1000, 1)}


def compare_bits(machine: Machine) -> Facts:
    """Return whether a row has the same bits twice, elsewhere, loaded anew, in a new process."""
    batch = machine.batches[1]
    pixels, order = random_pixels(batch), np.random.default_rng(1).permutation(batch)
    on_cpu = Machine(on_gpu=False, out=machine.out, work=machine.work)
    right = load(on_cpu, batch, "float32").encode(pixels).astype(np.float64)
    facts: Facts = {}
    for dtype in ("bfloat16", "float32", "float16") if machine.on_gpu else ("float32",):
        encoder = load(machine, batch, dtype)
        rows = encoder.encode(pixels)
        norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(right, axis=1)
        facts[dtype] = {
            "twice": bool((encoder.encode(pixels) == rows).all()),
            "elsewhere": bool((encoder.encode(pixels[order]) == rows[order]).all()),
            "loaded anew": bool((load(machine, batch, dtype).encode(pixels) == rows).all()),
            "1 - cosine to float32 on the CPU": float(1 - ((rows * right).sum(1) / norms).min()),
        }
    words = ("-c", COMPILED_PROGRAM, machine.work, machine.device, batch)
    # A cache of its own each: nothing is taken over from the other process.
    caches = [str(machine.work / f"cache{number}") for number in range(2)]
    done = [run_python(*words, TORCHINDUCTOR_CACHE_DIR=cache) for cache in caches]
    said = [one.stdout.strip() or one.stderr[-300:] for one in done]
    return {**facts, "compiled, in two processes": said[0] == said[1], "digests": said}
