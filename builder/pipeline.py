"""The stages joined: encode (annotations and videos -> parts), assemble (parts -> dataset).

In: one configuration of options. Out: what was done, in numbers. What `auto` means is
resolved here, once for a work directory, and stored there.
"""

import logging
import os
import time
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from builder.annotations import read_annotations, resolve_class_list
from builder.assemble import assemble, check_output
from builder.config import AssembleConfig, EncodeConfig
from builder.decode import check_ffmpeg, ffmpeg_version
from builder.encode import (
    load_encoder,
    read_preprocessing,
    resolve_batch_size,
    resolve_device,
    resolve_dtype,
)
from builder.engines import LocalEngine
from builder.manifest import read_manifest
from builder.model_files import ModelFiles, find_model
from builder.part_rows import PartRows
from builder.parts import is_done
from builder.plan import cut_parts, order_clips, plan_digest
from builder.pool import DecodePool
from builder.preprocess import Preprocessing
from builder.processed_rows import ProcessedRows, is_processed_dataset
from builder.progress import track_progress
from builder.sources import VideoIndex, find_clip, index_videos
from builder.types import Clip, Failure, InputError, Part
from builder.work import (
    WorkConfig,
    is_work_directory,
    parts_directory,
    read_work_config,
    store_work,
)

log = logging.getLogger(__name__)

# A build keeps its parts in a hidden folder of its output, which `datasets` does not look into.
WORK_NAME = ".build"


@dataclass(frozen=True, slots=True)
class EncodeSummary:
    """What one run of `encode` did and left."""

    n_clips: int
    """Clips encoded or failed in this run."""
    n_parts: int
    """Parts finished in this run."""
    n_parts_left: int
    """Parts of the whole plan that are not finished, other ranks' included."""
    seconds: float
    """Wall time of decoding and encoding, without start-up."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is going to do, before anything is written."""

    clips: list[Clip]
    class_names: tuple[str, ...] | None
    videos: VideoIndex
    parts: list[Part]
    """Parts of the whole plan."""
    own_parts: list[Part]
    """Parts of this rank."""

    def count_found(self) -> dict[str, Counter[str]]:
        """Return for each split how many clips have a file, and why the others have none."""
        counts: dict[str, Counter[str]] = {}
        for row, clip in enumerate(self.clips):
            found = find_clip(self.videos, clip, row)
            outcome = found.reason if isinstance(found, Failure) else "found"
            counts.setdefault(clip.split, Counter())[outcome] += 1
        return counts


def plan_encode(config: EncodeConfig) -> Plan:
    """Read annotations, look for the videos and cut the work; writes nothing."""
    if not 0 <= config.rank < config.world_size:
        raise InputError(
            f"--rank {config.rank}: must be from 0 to {config.world_size - 1}, "
            f"one less than --world-size {config.world_size}"
        )
    check_directory("--output", config.work)
    videos = index_videos(config.videos)
    clips = order_clips(read_annotations(config.annotations, splits=config.splits), config.seed)
    parts = cut_parts(clips, config.rows_per_part)
    return Plan(
        clips=clips,
        class_names=resolve_class_list(clips, config.class_list),
        videos=videos,
        parts=parts,
        own_parts=parts[config.rank :: config.world_size],
    )


def check_directory(option: str, path: Path) -> None:
    """Refuse an output path that is a file, or lies under one."""
    for place in (path, *path.parents):
        if place.is_dir():
            return
        if place.exists():
            raise InputError(f"{option} {path}: {place} is a file; a directory is needed")


def resolve_work_config(
    config: EncodeConfig, plan: Plan, files: ModelFiles, preprocessing: Preprocessing
) -> WorkConfig:
    """Return what this run is, `auto` choices taken from the work directory if made before."""
    stored = read_work_config(config.work)
    chosen: dict[str, Any] = {} if stored is None else stored.configuration
    device_type = resolve_device(config.device).split(":")[0]
    dtype, batch_size = config.dtype, config.batch_size
    if dtype == "auto":
        dtype = chosen.get("dtype") or resolve_dtype("auto", device_type)
    if batch_size is None:
        batch_size = chosen.get("batch_size") or resolve_batch_size(None, device_type)
    names = plan.class_names
    return WorkConfig(
        configuration={
            "model": files.name,
            "model_revision": files.revision,
            "weights_sha256": files.weights_sha256,
            "embedding_width": files.width,
            "preprocessing": preprocessing.to_dict(),
            "frames_per_second": config.frames_per_second,
            "dtype": dtype,
            "batch_size": batch_size,
            "compiled": False,
            "seed": config.seed,
            "plan_sha256": plan_digest(plan.clips),
            "rows": dict(Counter(clip.split for clip in plan.clips)),
            "versions": library_versions(),
        },
        class_names=None if names is None else list(names),
        device_type=device_type,
        rows_per_part=config.rows_per_part,
    )


def library_versions() -> dict[str, str]:
    """Return the versions of what turns a video into bytes on disk."""
    packages = ("numpy", "pyarrow", "torch", "torchcodec", "transformers")
    versions = {package: version(package) for package in packages}
    return {**versions, "ffmpeg": ffmpeg_version()}


def encode(config: EncodeConfig, *, quiet: bool = False) -> EncodeSummary:
    """Encode this rank's parts that are not finished.

    Raises:
        InputError: an option, a file or the model cannot be used; nothing was written.
        BuildError: the encoder failed.
    """
    check_ffmpeg()
    plan = plan_encode(config)
    files = find_model(config.model, config.revision)
    preprocessing = read_preprocessing(files)
    work_config = resolve_work_config(config, plan, files, preprocessing)
    chosen = work_config.configuration
    encoder = load_encoder(
        files,
        preprocessing,
        dtype=chosen["dtype"],
        device=resolve_device(config.device),
        batch_size=chosen["batch_size"],
    )
    store_work(config.work, work_config, plan.clips)
    directory = parts_directory(config.work)
    todo = [part for part in plan.own_parts if not is_done(directory, part)]
    if len(todo) < len(plan.own_parts):
        log.info(
            "%d of %d parts were done before", len(plan.own_parts) - len(todo), len(plan.own_parts)
        )
    engine = LocalEngine(plan.clips, plan.videos, encoder, config.frames_per_second, directory)
    seconds = run_parts(config, engine, todo, quiet=quiet) if todo else 0.0
    return EncodeSummary(
        n_clips=sum(len(part.rows) for part in todo),
        n_parts=len(todo),
        n_parts_left=sum(not is_done(directory, part) for part in plan.parts),
        seconds=seconds,
    )


def run_parts(
    config: EncodeConfig, engine: LocalEngine, parts: list[Part], *, quiet: bool
) -> float:
    """Encode parts under this rank's lock; return the seconds it took once all was started."""
    n_clips = sum(len(part.rows) for part in parts)
    with (
        lock_rank(config),
        DecodePool(decode_workers(config), config.task_timeout_seconds) as pool,
    ):
        canary = engine.encode_canary(pool)
        begin = time.monotonic()
        with track_progress("encode", n_clips, unit="clips", quiet=quiet) as advance:
            for report in engine.run(parts, pool=pool, canary=canary, advance=advance):
                log.debug("part %s is done", report.name)
        return time.monotonic() - begin


def lock_rank(config: EncodeConfig) -> AbstractContextManager[object]:
    """Take the lock of this rank, released by the block or the end of the process.

    Raises:
        InputError: another process runs the same rank on the same directory.
    """
    lock = FileLock(config.work / f"rank-{config.rank}-of-{config.world_size}.lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"{config.work}: another process is encoding rank {config.rank} of "
            f"{config.world_size} there; wait for it, or give this one another --rank"
        ) from error


def decode_workers(config: EncodeConfig) -> int:
    """Return how many processes decode: all cores but one, which the encoder keeps busy."""
    if config.decode_workers is not None:
        return config.decode_workers
    return max(1, len(os.sched_getaffinity(0)) - 1 if hasattr(os, "sched_getaffinity") else 1)


def assemble_directory(config: AssembleConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Assemble a work directory or a processed dataset; return the manifest.

    Raises:
        InputError: the source is neither, is not finished, or the output is in the way.
    """
    if not config.source.is_dir():
        raise InputError(f"{config.source}: no such directory")
    check_directory("--output", config.output)
    rows: PartRows | ProcessedRows
    if is_work_directory(config.source):
        rows = PartRows(config.source)
    elif is_work_directory(config.source / WORK_NAME):
        rows = PartRows(config.source / WORK_NAME)
    elif is_processed_dataset(config.source):
        rows = ProcessedRows(config.source, seed=config.seed, class_list=config.class_list)
    else:
        raise InputError(
            f"{config.source}: holds neither the parts of `clip-kinetics700 encode` nor a "
            "processed dataset (directories train, val, test with NAME.npy files)"
        )
    n_rows = sum(totals.rows for totals in rows.totals.values())
    config.output.mkdir(parents=True, exist_ok=True)
    # Ranks that finish at the same moment: the second writes the same bytes after the first.
    with (
        FileLock(config.output / ".assemble.lock"),
        track_progress("assemble", n_rows, unit="rows", quiet=quiet) as advance,
    ):
        return assemble(rows, config, advance=advance)


def build(
    encode_config: EncodeConfig, assemble_config: AssembleConfig, *, quiet: bool = False
) -> tuple[EncodeSummary, dict[str, Any] | None]:
    """Encode, then assemble once every rank's parts are there.

    Returns:
        What encoding did, and the manifest; None while other ranks are not finished.
    """
    output = assemble_config.output
    encode_config = replace(encode_config, work=output / WORK_NAME)
    check_directory("--output", output)
    check_formats(output, assemble_config)
    summary = encode(encode_config, quiet=quiet)
    if summary.n_parts_left:
        return summary, None
    manifest = read_manifest(output)
    if summary.n_parts == 0 and manifest is not None and is_complete(output, manifest):
        return summary, manifest
    source = replace(assemble_config, source=output / WORK_NAME)
    return summary, assemble_directory(source, quiet=quiet)


def check_formats(output: Path, config: AssembleConfig) -> None:
    """Refuse early, before hours of encoding, what assembly would refuse at the end."""
    manifest = read_manifest(output)
    if manifest is not None:
        now = {"samples_per_shard": config.samples_per_shard, "formats": list(config.formats)}
        check_output(output, {**manifest["configuration"], **now})


def is_complete(output: Path, manifest: dict[str, Any]) -> bool:
    """Say whether every file of a manifest is there with its size."""
    return (
        all(
            (output / name).is_file() and (output / name).stat().st_size == entry["bytes"]
            for name, entry in manifest["files"].items()
        )
        and (output / "README.md").is_file()
    )
