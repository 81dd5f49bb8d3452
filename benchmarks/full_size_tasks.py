"""This program does one thing with a dataset and prints what it took.

`benchmarks.full_size` runs it as `python -m benchmarks.full_size_tasks TASK SOURCE`. It prints one
line of JSON: seconds of the imports and of the task, the peak of the resident memory (on Linux
alone), and what the task found.
"""

import hashlib
import json
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

CLASS_NAME = "yoga"


def open_and_count(source: str) -> dict[str, Any]:
    """Open a dataset and take its length."""
    import clip_kinetics700

    return {"samples": len(clip_kinetics700.open(source))}


def read_class(source: str) -> dict[str, Any]:
    """Read every sample of one class of 700; the digest is over all that they hold."""
    import clip_kinetics700

    count, digest = 0, hashlib.sha256()
    for sample in clip_kinetics700.open(source).select(classes=[CLASS_NAME]):
        digest.update(json.dumps([sample.caption, sample.meta]).encode())
        digest.update(sample.embeddings.tobytes())
        count += 1
    return {"samples": count, "sha256": digest.hexdigest()}


def read_first_batch(source: str) -> dict[str, Any]:
    """Make the first shuffled batch of the training split."""
    from clip_kinetics700 import batches

    return {"samples": len(next(iter(batches(source, "train", shuffle=True)))["keys"])}


def read_all(source: str) -> dict[str, Any]:
    """Read every sample, every byte of its array included."""
    import clip_kinetics700

    count = checksum = 0
    for sample in clip_kinetics700.open(source):
        checksum = zlib.adler32(sample.embeddings.data, checksum)
        count += 1
    return {"samples": count, "adler32": checksum}


def read_epoch(source: str) -> dict[str, Any]:
    """Read a shuffled epoch of the training split in batches."""
    from clip_kinetics700 import batches

    epoch = batches(source, "train", shuffle=True, dtype="float16")
    return {"samples": sum(len(batch["keys"]) for batch in epoch)}


# A task, and the modules that it would import while it is timed.
TASKS: dict[str, tuple[Callable[[str], dict[str, Any]], tuple[str, ...]]] = {
    "open": (open_and_count, ("clip_kinetics700.dataset",)),
    "class": (read_class, ("clip_kinetics700.dataset",)),
    "batch": (read_first_batch, ("clip_kinetics700.training.batches",)),
    "all": (read_all, ("clip_kinetics700.dataset",)),
    "epoch": (read_epoch, ("clip_kinetics700.training.batches",)),
}


def read_peak_mib() -> float | None:
    """Return the peak of this process's resident memory; getrusage would tell the parent's too."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    lines = status.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Do one task and print what it took."""
    name, source = sys.argv[1:]
    task, modules = TASKS[name]
    begin = time.perf_counter()
    for module in modules:
        __import__(module)
    imported = time.perf_counter()
    found = task(source)
    seconds = time.perf_counter() - imported
    took = {"import_seconds": imported - begin, "seconds": seconds, "peak_mib": read_peak_mib()}
    print(json.dumps({**took, **found}))


if __name__ == "__main__":
    main()
