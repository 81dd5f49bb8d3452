"""Tells which of several processes this one is, by its options or by what Slurm says."""

from collections.abc import Mapping

from clip_kinetics700_builder.types import InputError


def resolve_rank(
    rank: int | None, world_size: int | None, environment: Mapping[str, str]
) -> tuple[int, int]:
    """Return rank and world size.

    Options count before the environment. Each task of a job array is a rank, and so is each process
    that `srun` starts; where both are in use they multiply. A batch script that calls no `srun` is
    one process, whatever number of tasks it reserved.

    Raises:
        InputError: Slurm's variables are no numbers, or those of an array that is no range.
    """
    if rank is not None or world_size is not None:
        return rank or 0, world_size or 1
    task, n_tasks = read_array(environment)
    process, n_processes = read_step(environment)
    return task * n_processes + process, n_tasks * n_processes


def read_array(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return place and size of this task's job array, (0, 1) outside of one."""
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return 0, 1
    index = read_number(environment, "SLURM_ARRAY_TASK_ID")
    first = read_number(environment, "SLURM_ARRAY_TASK_MIN")
    step = read_number(environment, "SLURM_ARRAY_TASK_STEP", default=1)
    count = read_number(environment, "SLURM_ARRAY_TASK_COUNT")
    last = read_number(environment, "SLURM_ARRAY_TASK_MAX")
    # In an array such as 3,17 nothing tells how many ranks there were before.
    if step < 1 or first + (count - 1) * step != last:
        raise InputError(
            f"SLURM_ARRAY_TASK_ID {index} is of an array of {count} tasks from {first} to {last}, "
            "which is no range; give --rank and --world-size"
        )
    return (index - first) // step, count


def read_step(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return this process's place among those that `srun` started and their number, else (0, 1)."""
    if "SLURM_STEP_NUM_TASKS" not in environment:
        return 0, 1
    return (
        read_number(environment, "SLURM_PROCID"),
        read_number(environment, "SLURM_STEP_NUM_TASKS"),
    )


def read_local_rank(rank: int, environment: Mapping[str, str]) -> int:
    """Return this process's place on its machine, by which it takes one of several GPUs."""
    if "SLURM_STEP_NUM_TASKS" in environment and "SLURM_LOCALID" in environment:
        return read_number(environment, "SLURM_LOCALID")
    return rank


def read_number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """Return a variable's number."""
    text = environment.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise InputError(f"{name} is {text!r}, Slurm sets a number; give --rank and --world-size")
    return int(text)
