"""Asks which of how many ranks this process is, when reading begins."""

import inspect
import os
import sys
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class World:
    """One rank of a number of processes that train together."""

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"world_size must be at least 1, got {self.size}")
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank {self.rank} is none of a world of {self.size}")

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.size}"


def ask_torch() -> World | None:
    """Return what torch.distributed says, None where it is not initialised."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    return World(torch.distributed.get_rank(), torch.distributed.get_world_size())


def ask_environment() -> World | None:
    """Return what `RANK` and `WORLD_SIZE` say, which torchrun and accelerate set; else None.

    Raises:
        ValueError: they are no numbers, or no rank of a world.
    """
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if not rank or not size:
        return None
    try:
        return World(int(rank), int(size))
    except ValueError as error:
        raise ValueError(f"RANK={rank} and WORLD_SIZE={size} in the environment: {error}") from None


def is_shared_by_accelerate(dataset: object) -> bool:
    """Tell whether accelerate's loader, which iterates over a dataset now, shares it among ranks.

    `prepare` takes every iterable dataset for one that all ranks read whole: one process reads
    and hands slices to the others, or each process reads all and keeps its slice.

    Raises:
        RuntimeError: it would have to share batches, and cannot.
    """
    state = sys.modules.get("accelerate.state")
    if state is None or not state.GradientState().initialized:
        return False
    loader = state.GradientState().active_dataloader
    read = getattr(loader, "dataset", None)
    if read is dataset:
        return bool(hasattr(loader, "slice_fn"))
    if getattr(read, "dataset", None) is not dataset:
        return False
    if getattr(read, "batch_size", None) is None:
        raise RuntimeError(
            "accelerate cannot share whole batches with dispatch_batches=False: do not prepare "
            "this DataLoader, as `batches` gives each rank its own share, or leave "
            "dispatch_batches as it is"
        )
    return True


def is_counted_by_accelerate() -> bool:
    """Tell whether the length is asked for by an accelerate loader that shares among ranks.

    The Trainer of transformers does so before it iterates, and nothing but the callers tells.
    """
    if "accelerate.data_loader" not in sys.modules:
        return False
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name in {
        is_counted_by_accelerate.__name__,
        "__len__",
    }:
        if hasattr(frame.f_locals.get("self"), "slice_fn"):
            return True
        frame = frame.f_back
    return False
