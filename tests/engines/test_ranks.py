"""The rank of a process follows from its options, or from what Slurm says."""

import pytest

from clip_kinetics700_builder.engines.ranks import read_local_rank, resolve_rank
from clip_kinetics700_builder.types import InputError


def array(task: int, first: int = 0, last: int = 3, step: int = 1) -> dict[str, str]:
    """Return the environment of a task of a job array."""
    return {
        "SLURM_ARRAY_TASK_ID": str(task),
        "SLURM_ARRAY_TASK_MIN": str(first),
        "SLURM_ARRAY_TASK_MAX": str(last),
        "SLURM_ARRAY_TASK_STEP": str(step),
        "SLURM_ARRAY_TASK_COUNT": str((last - first) // step + 1),
    }


STEP = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        (array(2), (2, 4)),
        (array(7, first=5, last=8), (2, 4)),
        (array(40, first=10, last=70, step=10), (3, 7)),
        (STEP, (1, 2)),
        ({**array(2), **STEP}, (5, 8)),
        # A batch script without srun is one process, however many tasks it reserved.
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "17"}, (0, 1)),
    ],
)
def test_slurm_says_the_rank(environment: dict[str, str], expected: tuple[int, int]) -> None:
    """A task of an array and a process of srun are ranks, and multiply where both are in use."""
    assert resolve_rank(None, None, environment) == expected


@pytest.mark.parametrize(
    ("rank", "world_size", "expected"), [(3, 8, (3, 8)), (1, None, (1, 1)), (None, 8, (0, 8))]
)
def test_options_count_before_slurm(
    rank: int | None, world_size: int | None, expected: tuple[int, int]
) -> None:
    """One option is enough to keep Slurm's numbers out."""
    assert resolve_rank(rank, world_size, {**array(2), **STEP}) == expected


def test_the_ranks_of_an_array_are_each_once() -> None:
    """The tasks of an array with two processes each are the numbers below the world size."""
    ranks = {
        resolve_rank(None, None, {**array(task, 3, 9, 3), **STEP, "SLURM_PROCID": str(process)})
        for task in (3, 6, 9)
        for process in (0, 1)
    }
    assert ranks == {(rank, 6) for rank in range(6)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SLURM_ARRAY_TASK_COUNT": "2"}, "of an array of 2 tasks from 0 to 3, which is no range"),
        ({"SLURM_ARRAY_TASK_MIN": "x"}, "SLURM_ARRAY_TASK_MIN is 'x', Slurm sets a number"),
        ({"SLURM_ARRAY_TASK_MAX": ""}, "SLURM_ARRAY_TASK_MAX is ''"),
    ],
)
def test_an_array_that_is_no_range_is_refused(change: dict[str, str], message: str) -> None:
    """`--array=3,17` does not say how many ranks there are: the options are asked for."""
    with pytest.raises(InputError, match=message):
        resolve_rank(None, None, {**array(2), **change})


def test_the_place_on_a_machine_is_slurms_or_the_rank() -> None:
    """The GPU that a process takes goes by its place among those of its machine."""
    assert read_local_rank(5, {}) == 5
    assert read_local_rank(5, STEP) == 0
