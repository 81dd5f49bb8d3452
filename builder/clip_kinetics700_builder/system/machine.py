"""Says how many cores this process may use, and which errors mean that memory is short."""

import os
from collections.abc import Mapping
from pathlib import Path

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
# How torch's allocators, FFmpeg and the C++ below them say that memory is short.
MEMORY_WORDS = (
    "allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "DefaultCPUAllocator",
    "failed to map segment",  # of a library that is being loaded
)


def count_cores(
    environment: Mapping[str, str] = os.environ, quota_file: Path = CGROUP_QUOTA
) -> int:
    """Return the cores that this process may keep busy, at least one.

    Args:
        environment: the variables of the process, among them Slurm's.
        quota_file: `cpu.max` of control groups version 2, which holds a container's limit.
    """
    counts = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()]
    counts.append(read_quota(quota_file))
    # Clusters that do not bind tasks to cores still say how many were asked for.
    slurm = environment.get("SLURM_CPUS_PER_TASK", "")
    counts.append(int(slurm) if slurm.isdecimal() else None)
    return max(1, min(count for count in counts if count is not None))


def read_quota(file: Path) -> int | None:
    """Return the whole cores of a quota such as `200000 100000`; None for `max` or no file."""
    try:
        quota, period = file.read_text(encoding="ascii").split()
        return int(quota) // int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory is short."""
    return isinstance(error, MemoryError) or any(word in str(error) for word in MEMORY_WORDS)
