"""The GPU check asks a GPU machine everything about this project, in one call of seven minutes.

Run `make bench-gpu`, or `python -m benchmarks.gpu.check [--cpu] [--only encode,nvdec]`. Each step
is timed, may fail alone, and writes OUT/result.json when it ends, so a call that is cut off still
says something. `--cpu` runs the same steps, tiny, where there is no GPU, to try the script.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torchcodec.decoders._video_decoder import VideoDecoder

from benchmarks.gpu.clips import ClipShape, make_clip
from benchmarks.gpu.encoder import compare_bits, measure_encode
from benchmarks.gpu.machine import Facts, Machine, run_python
from clip_kinetics700_builder.decode.pool import DecodePool
from clip_kinetics700_builder.decode.preprocess import resize_and_crop
from clip_kinetics700_builder.decode.video import DecodeTask, Decoding
from clip_kinetics700_builder.encode.model_files import find_model
from clip_kinetics700_builder.encode.vision import (
    read_preprocessing,
    save_random_model,
)
from clip_kinetics700_builder.types import Frames

RATE_LINE = re.compile(r"(\d+) clips in ([\d.]+) s")
MEMORY_PROGRAM = """
import psutil, sys
say = lambda what: print(what, psutil.Process().memory_info().rss >> 20, sep=";")
import torch; say("torch")
import clip_kinetics700_builder.decode.video as video; say("decode.video")
from clip_kinetics700_builder.config import WORKER_MEMORY_MIB
print("limit", WORKER_MEMORY_MIB, sep=";")
if sys.argv[2] == "cuda":
    before = torch.cuda.mem_get_info()[0]; say("context")
    x = torch.zeros(1, 3, 256, 340, device="cuda")
    torch.nn.functional.interpolate(x, (224, 224), mode="bicubic", antialias=True).cpu()
    say("resize")
    d = video.VideoDecoder(sys.argv[1], device="cuda", dimension_order="NHWC")
    d.get_frames_played_at([0.0, 5.0]); say("NVDEC")
    print("fallback", d.cpu_fallback, sep=";")
    print("GPU MiB beside the context", before - torch.cuda.mem_get_info()[0] >> 20, sep=";")
"""


def ask_environment(machine: Machine) -> Facts:
    """Return what the machine and the libraries are."""
    from torchcodec._core import ops

    facts = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "torchcodec": version("torchcodec"),
        "transformers": version("transformers"),
        "cores": os.cpu_count(),
        "ffmpeg": ops.get_ffmpeg_library_versions()["ffmpeg_version"],
    }
    if machine.on_gpu:
        facts |= {
            "gpu": torch.cuda.get_device_name(),
            "capability": torch.cuda.get_device_capability(),
            "cudnn tf32": torch.backends.cudnn.allow_tf32,
        }
    return facts


def make_inputs(machine: Machine) -> Facts:
    """Make the model, the clips and their tables."""
    work, on_gpu = machine.work, machine.on_gpu
    save_random_model(work / "model", tiny=not on_gpu)
    shapes = [ClipShape(work / f"hd{i}.mp4", 1280, 720, 6, i, 10) for i in range(8 * on_gpu)]
    seconds = 10 if on_gpu else 3
    shapes += [
        ClipShape(work / f"s{i}.mp4", 340, 256, 8, i, seconds) for i in range(machine.n_sources)
    ]
    with get_context("spawn").Pool(machine.n_workers) as pool:
        pool.map(make_clip, shapes, chunksize=1)
    for kind, n_clips in (("s", machine.n_clips), ("hd", machine.n_clips // 8 * on_gpu)):
        sources = sorted(work.glob(f"{kind}[0-9]*.mp4"))
        (work / kind).mkdir()
        for number in range(n_clips):
            (work / kind / f"{number}.mp4").hardlink_to(sources[number % len(sources)])
        rows = "".join(f"{number}.mp4,clip {number}\n" for number in range(n_clips))
        (work / f"{kind}.csv").write_text("path,caption\n" + rows, encoding="utf-8")
    return {shape.path.stem: shape.path.stat().st_size for shape in (shapes[0], shapes[-1])}


def ask_memory(machine: Machine) -> Facts:
    """Return resident MiB of a process as it becomes a decoder, beside a worker's limit."""
    done = run_python("-c", MEMORY_PROGRAM, machine.work / "s0.mp4", machine.device)
    said = dict(line.split(";", 1) for line in done.stdout.splitlines() if ";" in line)
    return said | {"error": done.stderr[-300:]} if done.returncode else said


def measure_decode(machine: Machine) -> Facts:
    """Return clips a second out of the worker processes, as a build uses them."""
    decoding = Decoding(1.0, read_preprocessing(find_model(str(machine.work / "model"), None)))
    runs = [("s", 1, 8), ("s", machine.n_workers, 1), ("hd", machine.n_workers, 1)]
    table: Facts = {}
    for kind, n_workers, share in runs if machine.on_gpu else runs[:2]:
        paths = sorted((machine.work / kind).iterdir())
        tasks = [
            DecodeTask(row, str(path), 0, decoding)
            for row, path in enumerate(paths[: len(paths) // share])
        ]
        with DecodePool(n_workers, 120.0) as pool:
            list(pool.decode(tasks[: 2 * n_workers]))
            start, own = time.perf_counter(), time.process_time()
            n_done = sum(isinstance(result, Frames) for result in pool.decode(tasks))
            seconds, own = time.perf_counter() - start, time.process_time() - own
        table[f"{kind}, {n_workers} workers"] = {
            "clips/s": round(n_done / seconds, 1),
            "ok": f"{n_done} of {len(tasks)}",
            "parent's CPU ms a clip": round(1e3 * own / max(n_done, 1), 2),
        }
    return table


def build(machine: Machine, name: str, *options: object, kind: str = "s") -> Facts:
    """Build a dataset with the command line; return its rate, digest and failures."""
    work, output = machine.work, machine.work / "out" / name
    words = ["--annotations", work / f"{kind}.csv", "--videos", work / kind]
    words += ["--model", work / "model", "--output", output, "--no-figures"]
    words += ["--device", machine.device, "--dtype", "bfloat16" if machine.on_gpu else "float32"]
    words += ["--decode-workers", machine.n_workers, *options]
    start = time.perf_counter()
    done = run_python("-m", "clip_kinetics700_builder", "build", *words)
    match = RATE_LINE.search(done.stdout + done.stderr)
    if match is None:
        return {"error": f"exit {done.returncode}: {(done.stdout + done.stderr).strip()[-400:]}"}
    files = sorted(p for p in output.rglob("*") if p.is_file() and ".build" not in p.parts)
    hashes = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)
    totals = json.loads((output / "manifest.json").read_text(encoding="utf-8"))["totals"]
    return {
        "clips/s": round(int(match[1]) / max(float(match[2]), 0.01), 1),
        "exit": done.returncode,
        "seconds in all": round(time.perf_counter() - start, 1),
        "digest": hashlib.sha256(hashes).hexdigest()[:16],
        "samples": totals["samples"],
        "failures": totals["failures_by_reason"],
    }


def measure_builds(machine: Machine) -> Facts:
    """Return whole builds: eager, with half of the workers, compiled; and whether bytes agree."""
    half = max(1, machine.n_workers // 2)
    eager = build(machine, "eager", "--compile", "no")
    fewer = build(machine, "half", "--compile", "no", "--decode-workers", half)
    return {
        "eager": eager,
        "half the workers": fewer,
        "same bytes": eager.get("digest") == fewer.get("digest", ""),
        "compiled": build(machine, "compiled", "--compile", "yes"),
    }


def measure_nvdec(machine: Machine) -> Facts:
    """Return whether NVDEC decodes, which pictures, and how many clips a second in threads."""
    if not machine.on_gpu:
        return {"left out": "it needs a GPU"}
    work = machine.work
    preprocessing = read_preprocessing(find_model(str(work / "model"), None))
    times = [second + 1e-4 for second in range(10)]

    def decode(path: Path, device: str = "cuda") -> tuple[Any, torch.Tensor]:
        decoder = VideoDecoder(
            str(path), device=device, dimension_order="NHWC", num_ffmpeg_threads=1
        )
        frames = decoder.get_frames_played_at(times).data
        return decoder, resize_and_crop(frames, preprocessing).cpu()

    decoder, on_gpu = decode(work / "s0.mp4")
    difference = (on_gpu.int() - decode(work / "s0.mp4", "cpu")[1].int()).abs().float()
    facts: Facts = {
        "fallback": str(decoder.cpu_fallback),
        "mean, max difference": (difference.mean().item(), difference.max().item()),
    }
    for kind, n_threads in (("s", 1), ("s", 7), ("s", 16), ("hd", 1), ("hd", 7), ("hd", 16)):
        paths = sorted((work / kind).iterdir())[: 20 * n_threads]
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(decode, paths[:n_threads]))
            start, own = time.perf_counter(), time.process_time()
            n_done = len(list(pool.map(decode, paths)))
            seconds, own = time.perf_counter() - start, time.process_time() - own
        facts[f"{kind}, {n_threads} threads"] = {
            "clips/s": round(n_done / seconds, 1),
            "CPU ms a clip": round(1e3 * own / n_done, 1),
        }
    for kind in ("s", "hd"):
        options = ("--compile", "no", "--decode-device", "cuda")
        facts[f"build {kind}"] = build(machine, f"nvdec_{kind}", *options, kind=kind)
    return facts


def run_tests(machine: Machine) -> Facts:
    """Run the encoder's tests, which skip what needs a GPU where there is none."""
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not nvdec"]
    words += ["tests/encode/test_vision_gpu.py", "tests/encode/test_devices.py"]
    done = run_python(*words)
    (machine.out / "pytest.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    return {"exit": done.returncode, "last line": done.stdout.strip().splitlines()[-1:]}


STEPS: dict[str, Callable[[Machine], Facts]] = {
    "environment": ask_environment,
    "inputs": make_inputs,
    "memory": ask_memory,
    "decode": measure_decode,
    "builds": measure_builds,
    "nvdec": measure_nvdec,
    "encode": measure_encode,
    "bits": compare_bits,
    "tests": run_tests,
}


def main() -> None:
    """Run the steps and write the result after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="tiny, where there is no GPU")
    parser.add_argument("--only", default="", help="steps by name, besides environment and inputs")
    parser.add_argument("--seconds", type=float, default=420.0, help="no step starts after these")
    parser.add_argument("--out", type=Path, default=Path("gpu_check_out"))
    arguments = parser.parse_args()
    wanted = {"environment", "inputs", *(arguments.only.split(",") if arguments.only else STEPS)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="gpu_check_"))
    machine = Machine(on_gpu=not arguments.cpu, out=arguments.out, work=work)
    began, result, seconds = time.monotonic(), Facts(), Facts()
    for name in [name for name in STEPS if name in wanted]:
        start = time.monotonic()
        try:
            late = start - began >= arguments.seconds
            result[name] = {"left out": "no time left"} if late else STEPS[name](machine)
        except Exception:  # each step may fail alone, and the next ones still say something
            result[name] = {"error": traceback.format_exc()[-1500:]}
        seconds[name] = round(time.monotonic() - start, 1)
        document = json.dumps({**result, "seconds": seconds}, indent=1, default=str)
        (arguments.out / "result.json").write_text(document, encoding="utf-8")
        print(f"== {name}, {seconds[name]} s: {json.dumps(result[name], default=str)}", flush=True)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
