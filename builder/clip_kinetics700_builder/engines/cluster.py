"""Makes the options of a build fit a Ray cluster: its tasks run elsewhere and share the nodes.

It knows nothing of Ray, which need not be installed.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from clip_kinetics700.remote import is_remote
from clip_kinetics700_builder.config import EncodeConfig
from clip_kinetics700_builder.types import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Share:
    """What one task takes of a cluster."""

    config: EncodeConfig
    """The options of a task, with `auto` resolved as far as the nodes tell."""
    n_cpus: int
    n_gpus: int
    """1 where the encoder or the decoder runs on a GPU, else 0."""
    n_slots: int
    """How many tasks the nodes run at a time, at least 1."""


def check_engine(config: EncodeConfig) -> None:
    """Raise InputError for options that are another engine's, or an engine not installed."""
    if config.run.engine == "local":
        if config.run.ray_address is not None or config.run.ray_cpus is not None:
            raise InputError("--ray-address and --ray-cpus are for --engine ray")
        return
    if config.run.rank is not None or config.run.world_size is not None:
        raise InputError("--engine ray shares out the parts itself: no --rank and --world-size")
    if ":" in config.model.device:
        raise InputError(f"--device {config.model.device}: Ray gives each task its GPU; use cuda")
    if find_spec("ray") is None:
        raise InputError("ray is not installed: pip install 'clip-kinetics700[ray]'")


def make_portable(config: EncodeConfig) -> EncodeConfig:
    """Return the options with absolute paths: a task has a working directory of its own."""
    clips, model, base = config.clips, config.model, config.clips.annotations.base_url
    base = base if is_remote(base) else str(Path(base).absolute())
    videos = None if clips.videos is None else clips.videos.absolute()
    name = str(Path(model.name).absolute()) if Path(model.name).is_dir() else model.name
    return replace(
        config,
        work=config.work.absolute(),
        clips=replace(clips, videos=videos, annotations=replace(clips.annotations, base_url=base)),
        model=replace(model, name=name),
    )


def divide_nodes(config: EncodeConfig, nodes: Iterable[Mapping[str, float]]) -> Share:
    """Return what a task takes: as much as fits on every node that can do the work.

    Raises:
        InputError: no node can do the work, and the options do not say what a task takes.
    """
    nodes = list(nodes)
    device = config.model.device
    if device == "auto":
        device = "cuda" if any(node.get("GPU", 0) >= 1 for node in nodes) else "cpu"
    n_gpus = int("cuda" in (device, config.model.decode_device))
    # The head node of many a cluster offers no CPU at all.
    able = [node for node in nodes if node.get("CPU", 0) >= 1 and node.get("GPU", 0) >= n_gpus]
    # The CPUs of each node, and how many tasks share them.
    rooms = [(int(node["CPU"]), int(node["GPU"]) if n_gpus else 1) for node in able]
    and_gpu = " and a GPU" if n_gpus else ""
    if not rooms and config.run.ray_cpus is None:
        raise InputError(
            f"no node of the Ray cluster has a CPU{and_gpu} to offer; "
            "give --ray-cpus to wait for one that has, or another --device"
        )
    n_cpus = config.run.ray_cpus or min(max(1, cpus // n_tasks) for cpus, n_tasks in rooms)
    n_slots = sum(
        min(cpus // n_cpus, n_tasks) if n_gpus else cpus // n_cpus for cpus, n_tasks in rooms
    )
    if n_slots == 0:
        wanted = f"{n_cpus} CPUs{and_gpu}"
        log.warning("no node of the Ray cluster has %s yet: waiting for one", wanted)
    return Share(
        config=replace(
            config,
            model=replace(config.model, device=device),
            run=replace(
                config.run,
                ray_cpus=n_cpus,
                # Ray counts cores but binds no process to them.
                decode_workers=config.run.decode_workers or n_cpus,
                encode_lanes=config.run.encode_lanes or (None if device == "cuda" else n_cpus),
            ),
        ),
        n_cpus=n_cpus,
        n_gpus=n_gpus,
        n_slots=max(1, n_slots),
    )
