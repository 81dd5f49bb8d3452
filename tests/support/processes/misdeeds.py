"""A worker of a pool misbehaves where the path of its task says so."""

import math
import os
import signal
import sys
import threading
from collections.abc import Callable

import torch

from clip_kinetics700_builder.decode.pool import DecodePool
from clip_kinetics700_builder.decode.preprocess import count_frames, resize_and_crop
from clip_kinetics700_builder.decode.video import DecodeTask, decode_frames
from clip_kinetics700_builder.types import Failure, Frames
from tests.support.media.videos import UNCHANGED


def hang() -> None:
    """Say so, and do nothing more."""
    os.write(1, b"hanging\n")
    threading.Event().wait()


def balloon() -> None:
    """Run out of memory, as Python says it."""
    raise MemoryError


def grow() -> None:
    """Take more and more memory."""
    blocks = []
    while True:
        blocks.append(bytearray(b"x") * 2**23)


MISDEEDS: dict[str, Callable[[], object]] = {
    "hang": hang,
    "die": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "leave": lambda: os._exit(0),
    "balloon": balloon,
    "grow": grow,
    "allocate": lambda: torch.empty(2**50, dtype=torch.uint8),
    "forever": lambda: count_frames(math.inf, 1.0),
    "shrink": lambda: resize_and_crop(torch.zeros((1, 0, 0, 3), dtype=torch.uint8), UNCHANGED),
    "quit": lambda: sys.exit("enough\nsaid"),
    "err": lambda: dict[str, int]()["name"],
}


def misbehave(task: DecodeTask) -> Frames | Failure:
    """Decode, or do what the path says; runs in a worker."""
    MISDEEDS.get(task.path, lambda: None)()
    return decode_frames(task)


def worker_pids(pool: DecodePool) -> list[int]:
    """Return the ids of the processes that decode now."""
    pids = [worker._process.pid for worker in pool._workers]
    return [pid for pid in pids if pid is not None]
