"""The options that say where and how fast a build runs, and never what comes of it.

Which numbers an option takes is here too, for all of them.
"""

import math
from typing import Any

import click

from builder.clip_options import DEFAULTS, add_options
from builder.config import ENGINES, MIN_WORKER_MEMORY_MIB


class FiniteRange(click.FloatRange):
    """A range of numbers that are numbers: `nan` and `inf` are refused."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


# More than anything counted here; beyond it, numbers stop fitting where they are used.
COUNT = click.IntRange(min=1, max=10**9)
POSITIVE = FiniteRange(min=0, max=10**6, min_open=True)

run_options = add_options(
    click.option(
        "--encode-lanes",
        type=COUNT,
        default=DEFAULTS.encode_lanes,
        help="Batches in the encoder at a time; default: one a core, two on a GPU.",
    ),
    click.option(
        "--decode-workers",
        type=COUNT,
        default=DEFAULTS.decode_workers,
        help="Processes that decode; default: one a core.",
    ),
    click.option(
        "--task-timeout",
        "task_timeout_seconds",
        type=POSITIVE,
        default=DEFAULTS.task_timeout_seconds,
        show_default=True,
        help="Seconds after which decoding 64 frames of a clip is given up.",
    ),
    click.option(
        "--worker-memory",
        "worker_memory_mib",
        type=click.IntRange(min=MIN_WORKER_MEMORY_MIB),
        default=DEFAULTS.worker_memory_mib,
        show_default=True,
        help="MiB at which a process that decodes is stopped and its clip given up.",
    ),
    click.option(
        "--rank",
        type=click.IntRange(min=0),
        default=DEFAULTS.rank,
        help="Number of this process among several on one output; default: Slurm's, else 0.",
    ),
    click.option(
        "--world-size",
        type=COUNT,
        default=DEFAULTS.world_size,
        help="How many processes share the output; default: Slurm's, else 1.",
    ),
    click.option(
        "--engine",
        type=click.Choice(ENGINES),
        default=DEFAULTS.engine,
        show_default=True,
        help="local: this machine, or this rank of several; ray: a Ray cluster.",
    ),
    click.option(
        "--ray-address",
        metavar="HOST:PORT",
        default=DEFAULTS.ray_address,
        help="Or auto, or local; default: RAY_ADDRESS, else a cluster on this machine.",
    ),
    click.option(
        "--ray-cpus",
        type=COUNT,
        default=DEFAULTS.ray_cpus,
        help="CPUs of one task; default: those of the smallest node, shared among its GPUs.",
    ),
)
