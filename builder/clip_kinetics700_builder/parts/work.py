"""Keeps what a build has decided once, its plan and its sources, in its work directory.

Ranks share the directory: the first one stores, and one that comes with another configuration is
refused, since its parts could not stand beside the others'.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from clip_kinetics700_builder.clips.plan import write_plan
from clip_kinetics700_builder.system.files import (
    hash_file,
    read_sealed_json,
    seal_json,
    write_json,
)
from clip_kinetics700_builder.system.locks import hold_lock
from clip_kinetics700_builder.types import Clip, InputError

log = logging.getLogger(__name__)

CONFIG_NAME = "config.json"
PLAN_NAME = "plan.parquet"
PARTS_NAME = "parts"
SOURCES_NAME = "sources.json"
SPOOL_NAME = "spool"


@dataclass(frozen=True, slots=True)
class WorkConfig:
    """Everything that a resumed run or another rank must agree on."""

    configuration: dict[str, Any]
    """All that can change a byte of the data; the manifest holds it as it is."""
    class_names: list[str] | None
    """Names by label id; None for videos without classes."""
    device_type: str
    """`cpu` or `cuda`: their bits differ, so one directory takes one of them."""
    rows_per_part: int
    plan_file_sha256: str | None = field(default=None, compare=False)
    """Hash of the plan's file, known once that is stored; older versions stored none."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the clips of a build come from; later runs may add sources, and none is forgotten."""

    has_videos: bool = True
    """Whether a videos directory is a source: then the plan is cut into parts for it."""
    archives: tuple[str, ...] = ()
    """Names of archives, each of which is a part, in the order in which they are preferred."""
    directories: tuple[str, ...] = ()
    """Absolute paths of directories that held several videos: a later run misses them."""


def parts_directory(work: Path) -> Path:
    """Return where the parts of a work directory lie."""
    return work / PARTS_NAME


def is_work_directory(directory: Path) -> bool:
    """Tell whether a directory holds a stored configuration and plan."""
    return (directory / CONFIG_NAME).is_file() and (directory / PLAN_NAME).is_file()


def read_work_config(work: Path) -> WorkConfig | None:
    """Return the stored configuration, or None where there is none yet.

    Raises:
        InputError: the file is there and is not ours.
    """
    path = work / CONFIG_NAME
    if not path.is_file():
        return None
    try:
        config = WorkConfig(**read_sealed_json(path))
        if isinstance(config.configuration, dict):
            return config
    except (ValueError, TypeError):
        pass
    raise InputError(
        f"{path}: is not the configuration of a build, or is damaged; bring it back, or delete it "
        "and run encode again with the same options"
    )


def store_work(
    work: Path, resolve: Callable[[WorkConfig | None], WorkConfig], clips: list[Clip]
) -> WorkConfig:
    """Store configuration and plan, or check that the stored ones are the same.

    This run's configuration is made from the stored one, which knows what `auto` meant. A plan that
    is damaged is written again.

    Raises:
        InputError: another configuration is stored there; every difference is named.
    """
    parts_directory(work).mkdir(parents=True, exist_ok=True)
    # Ranks start at the same moment: the first one stores, the others compare.
    with hold_lock(work / "config.lock"):
        stored = read_work_config(work)
        config = resolve(stored)
        if stored is not None:
            config = replace(config, plan_file_sha256=stored.plan_file_sha256)
            refuse_differences(work, asdict(stored), asdict(config))
        plan = work / PLAN_NAME
        if config.plan_file_sha256 is None or not is_plan(plan, config):
            if config.plan_file_sha256 is not None:
                log.warning("%s: is damaged, and is written again", plan)
            write_plan(plan, clips)
            # The configuration comes last: where it is, so is the plan.
            config = replace(config, plan_file_sha256=hash_file(plan))
            write_json(work / CONFIG_NAME, seal_json(asdict(config)))
        return config


def is_plan(path: Path, config: WorkConfig) -> bool:
    """Tell whether a plan is there and is the one that was stored with a configuration."""
    return path.is_file() and config.plan_file_sha256 in (None, hash_file(path))


def require_work(work: Path) -> WorkConfig:
    """Return the stored configuration of a directory that holds a plan.

    Raises:
        InputError: the directory holds none, or it is damaged.
    """
    config, plan = read_work_config(work), work / PLAN_NAME
    if config is None or not plan.is_file():
        raise InputError(f"{work}: holds no plan and parts of `clip-kinetics700 encode`")
    if not is_plan(plan, config):
        raise InputError(f"{plan}: is damaged; run encode again with the same options")
    return config


def read_sources(work: Path) -> Sources:
    """Return the sources of all runs so far.

    Raises:
        InputError: what is stored is not ours.
    """
    path = work / SOURCES_NAME
    if not path.is_file():
        return Sources()
    try:
        sources = Sources(**read_sealed_json(path))
        archives, directories = tuple(sources.archives), tuple(sources.directories)
        return replace(sources, archives=archives, directories=directories)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path}: is not the list of sources of a build, or is damaged; bring it back, or "
            "delete it and run encode again with every source that was given"
        ) from error


def store_sources(work: Path, sources: Sources) -> None:
    """Add the sources of a run behind those that are stored."""
    with hold_lock(work / "config.lock"):
        path = work / SOURCES_NAME
        stored = read_sources(work) if path.is_file() else Sources(has_videos=False)
        merged = Sources(
            stored.has_videos or sources.has_videos,
            tuple(dict.fromkeys([*stored.archives, *sources.archives])),
            tuple(sorted({*stored.directories, *sources.directories})),
        )
        if merged != stored:
            write_json(path, seal_json(asdict(merged)))


def list_reports(work: Path) -> list[str]:
    """Return the names of all finished parts."""
    return sorted(path.stem for path in parts_directory(work).glob("*.json"))


def refuse_differences(place: Path, stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise an InputError that names every value that differs, nested ones by dotted name."""
    old, new = flatten(stored), flatten(now)
    differences = [
        f"{name.removeprefix('configuration.')} was {shorten(old.get(name))}, "
        f"now {shorten(new.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if differences:
        raise InputError(
            f"{place}: was begun with another configuration: {'; '.join(differences)}; "
            "use the same options, or another output directory"
        )


def flatten(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested objects as one level of dotted names, tuples as lists."""
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def shorten(value: Any) -> str:
    """Return a value as a short text: a class list of 700 names would fill a page."""
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
