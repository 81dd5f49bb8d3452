"""A process takes no more cores than it was given."""

import os
from pathlib import Path

import pytest

from clip_kinetics700_builder.system.machine import count_cores

NO_QUOTA = Path("/nonexistent/cpu.max")
ALL = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", ALL), ("100000 100000", 1), ("50000 100000", 1), ("junk", ALL), ("", ALL)],
)
def test_a_containers_quota_counts(tmp_path: Path, quota: str, expected: int) -> None:
    """A quota of one core's time is one core, less is one too; no quota or junk is all."""
    (tmp_path / "cpu.max").write_text(f"{quota}\n", encoding="ascii")
    assert count_cores({}, tmp_path / "cpu.max") == expected


def test_slurms_word_counts() -> None:
    """The cores that Slurm gave a task are not exceeded; nonsense in its variable is ignored."""
    assert count_cores({"SLURM_CPUS_PER_TASK": "1"}, NO_QUOTA) == 1
    assert count_cores({"SLURM_CPUS_PER_TASK": "lots"}, NO_QUOTA) == ALL


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no such call on this system")
def test_the_schedulers_mask_counts() -> None:
    """A process that is bound to one core counts one."""
    mask = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mask)})
    try:
        assert count_cores({}, NO_QUOTA) == 1
    finally:
        os.sched_setaffinity(0, mask)
