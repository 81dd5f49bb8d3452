"""Prepares a build from its options: the plan, the model, and what `auto` means.

Whatever can be wrong with the input is found here, before a byte is written.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clip_kinetics700_builder.clips.annotations import read_annotations
from clip_kinetics700_builder.clips.classes import resolve_class_list
from clip_kinetics700_builder.clips.plan import cut_parts, order_clips, plan_digest
from clip_kinetics700_builder.clips.releases import VERSIONS
from clip_kinetics700_builder.config import EncodeConfig
from clip_kinetics700_builder.decode.preprocess import Preprocessing
from clip_kinetics700_builder.decode.video import Decoding, list_versions
from clip_kinetics700_builder.encode.devices import (
    resolve_batch_size,
    resolve_compiled,
    resolve_decode_device,
    resolve_decoder,
    resolve_device,
    resolve_dtype,
)
from clip_kinetics700_builder.encode.model_files import ModelFiles, find_model
from clip_kinetics700_builder.encode.tower import ClipVisionEncoder, EncoderShape
from clip_kinetics700_builder.encode.vision import load_encoder, read_preprocessing
from clip_kinetics700_builder.engines.breaker import Breaker
from clip_kinetics700_builder.engines.cluster import check_engine
from clip_kinetics700_builder.engines.local import LocalEngine
from clip_kinetics700_builder.engines.ranks import read_local_rank, resolve_rank
from clip_kinetics700_builder.parts.part import is_done
from clip_kinetics700_builder.parts.work import (
    Sources,
    WorkConfig,
    parts_directory,
    read_sources,
    read_work_config,
    refuse_differences,
    store_sources,
    store_work,
)
from clip_kinetics700_builder.sources.annotation_cache import find_annotations
from clip_kinetics700_builder.sources.cvdf import find_archives
from clip_kinetics700_builder.sources.directory import VideoIndex, find_clip, open_videos
from clip_kinetics700_builder.system.files import check_directory
from clip_kinetics700_builder.system.machine import count_cores
from clip_kinetics700_builder.system.outage import Patience
from clip_kinetics700_builder.types import Archive, Clip, Failure, InputError, Part

log = logging.getLogger(__name__)

# The outcome of a clip that has a file; the outcome of another clip is the reason of its Failure.
FOUND = "found"
# The libraries that turn frames into bytes on disk.
LIBRARIES = ("numpy", "pyarrow", "torch", "transformers")


@dataclass(frozen=True)
class Job:
    """What `encode` will do, before anything is written."""

    clips: list[Clip]
    class_names: tuple[str, ...] | None
    videos: VideoIndex | None
    archives: list[Archive]
    parts: list[Part]
    """Parts of the whole plan: those of the videos directory, then one for each archive."""
    own_parts: list[Part]
    """Parts of this rank."""
    rank: int
    world_size: int
    configuration: dict[str, Any]
    """The fields of the manifest's configuration that follow from the plan alone."""

    @cached_property
    def outcomes(self) -> list[str]:
        """`found` for each row, or why it has no file; every clip is looked for once."""
        found = (find_clip(self.videos, clip, row) for row, clip in enumerate(self.clips))
        return [one.reason if isinstance(one, Failure) else FOUND for one in found]

    def count_found(self) -> dict[str, Counter[str]]:
        """Return for each split how many clips have a file, and why the others have none."""
        counts: dict[str, Counter[str]] = {}
        for clip, outcome in zip(self.clips, self.outcomes, strict=True):
            counts.setdefault(clip.split, Counter())[outcome] += 1
        return counts

    def list_unfinished(self, work: Path) -> list[Part]:
        """Return the parts of this rank that are not finished in a work directory."""
        directory = parts_directory(work)
        return [part for part in self.own_parts if not is_done(directory, part.name)]

    def list_archive_rows(self) -> dict[str, int]:
        """Return the rows that archives must give, by name: those not in the videos directory."""
        if not self.archives:
            return {}
        return {
            clip.file_stem: row
            for row, clip in enumerate(self.clips)
            if clip.path is None and self.outcomes[row] != FOUND
        }


def plan_job(config: EncodeConfig, *, needs_videos: bool = True) -> Job:
    """Read annotations, look for the clips and cut the work; writes nothing to the output.

    Without a need for the videos, their directory may be away where all parts are finished.
    """
    check_engine(config)
    rank, world_size = find_rank(config)
    check_directory("--output", config.work)
    check_sources(config)
    wanted = config.clips.annotations
    found = read_annotations(find_annotations(wanted), splits=wanted.splits)
    clips = order_clips(found, config.clips.seed)
    patience, videos = Patience(config.run.outage_wait_seconds), config.clips.videos
    parts = [] if videos is None else cut_parts(clips, config.run.rows_per_part)
    index = None
    if videos is not None and (needs_videos or not is_all_done(config, parts)):
        missed = read_sources(config.work).directories if config.run.max_failures < 1 else ()
        index = patience.outlast(partial(open_videos, videos, clips, missed))
    archives: list[Archive] = []
    if config.clips.source is not None and wanted.version is not None:
        find = partial(find_archives, wanted.version, clips, wanted.base_url, {})
        archives = patience.outlast(find)
    parts += [Part(archive.name, None, archive) for archive in archives]
    job = Job(
        clips=clips,
        class_names=resolve_class_list(clips, config.clips.class_list),
        videos=index,
        archives=archives,
        parts=parts,
        own_parts=parts[rank::world_size],
        rank=rank,
        world_size=world_size,
        configuration=describe_plan(config, clips),
    )
    refuse_other_plan(config, job)
    return job


def describe_plan(config: EncodeConfig, clips: list[Clip]) -> dict[str, Any]:
    """Return the fields of the manifest's configuration that follow from the plan alone."""
    return {
        "clips": "own videos" if any(clip.path for clip in clips) else "kinetics",
        "frames_per_second": config.clips.frames_per_second,
        "keep_damaged": config.clips.keep_damaged,
        "square_pixels": config.clips.square_pixels,
        "seed": config.clips.seed,
        "plan_sha256": plan_digest(clips),
        "rows": dict(Counter(clip.split for clip in clips)),
    }


def is_all_done(config: EncodeConfig, parts: Iterable[Part]) -> bool:
    """Tell whether the parts of the videos directory are finished, and are all there are."""
    # Which clips archives must give depends on what the directory has.
    directory, is_alone = parts_directory(config.work), config.clips.source is None
    return is_alone and all(is_done(directory, part.name) for part in parts)


def find_rank(config: EncodeConfig) -> tuple[int, int]:
    """Return rank and world size."""
    # On a Ray cluster one process shares out all parts, even if Slurm started it beside others.
    options = (0, 1) if config.run.engine == "ray" else (config.run.rank, config.run.world_size)
    rank, world_size = resolve_rank(*options, os.environ)
    if not 0 <= rank < world_size:
        raise InputError(
            f"--rank {rank}: must be from 0 to {world_size - 1}, "
            f"one less than --world-size {world_size}"
        )
    if world_size > 1 and options == (None, None):
        # A job array that was meant for something else must not encode a share without a word.
        log.info("rank %d of %d as Slurm says; --rank and --world-size override", rank, world_size)
    return rank, world_size


def check_sources(config: EncodeConfig) -> None:
    """Refuse options that name no clips, or archives of no release."""
    clips = config.clips
    if clips.videos is None and clips.source is None:
        raise InputError("no clips are named: give --videos DIR, --source cvdf, or both")
    if clips.source is not None and clips.annotations.version is None:
        versions = ", ".join(VERSIONS)
        raise InputError(f"--source {clips.source} needs --version, one of {versions}")


def refuse_missing(config: EncodeConfig, job: Job) -> None:
    """Refuse a videos directory that lacks more clips than may fail, where nothing else has them.

    Raises:
        InputError: it does.
    """
    if job.videos is None or job.archives:
        return
    n_missing = sum(not job.videos.holds(clip) for clip in job.clips)
    if n_missing > config.run.max_failures * len(job.clips):
        raise InputError(
            f"--videos {job.videos.videos}: holds no file of {n_missing:,} of {len(job.clips):,} "
            f"clips, more than --max-failures {config.run.max_failures:g}: is it the right "
            "directory? Nothing was encoded; --max-failures 1 goes on without them"
        )


def refuse_other_plan(config: EncodeConfig, job: Job) -> None:
    """Refuse a work directory begun with another plan, before a model is looked at."""
    stored = read_work_config(config.work)
    if stored is not None:
        before = {name: stored.configuration.get(name) for name in job.configuration}
        refuse_differences(
            config.work,
            {**before, "rows_per_part": stored.rows_per_part},
            {**job.configuration, "rows_per_part": config.run.rows_per_part},
        )


def prepare_engine(config: EncodeConfig, job: Job) -> LocalEngine:
    """Load the model; then store the build's configuration, or check it against the stored one."""
    files = find_model(config.model.name, config.model.revision)
    preprocessing = read_preprocessing(files)
    device = resolve_own_device(config, job)
    resolve = partial(
        resolve_work_config, config=config, job=job, files=files, preprocessing=preprocessing
    )

    def load(work_config: WorkConfig) -> ClipVisionEncoder:
        names = EncoderShape.__dataclass_fields__
        shape = EncoderShape(**{name: work_config.configuration[name] for name in names})
        return load_encoder(files, preprocessing, shape, device=device)

    chosen = resolve(read_work_config(config.work))
    encoder = load(chosen)
    stored = store_work(config.work, resolve, job.clips)
    if stored != chosen:
        # Another rank has decided meanwhile what `auto` means.
        encoder = load(stored)
    names = tuple(archive.name for archive in job.archives)
    held = () if job.videos is None else job.videos.list_directories()
    store_sources(config.work, Sources(job.videos is not None, names, held))
    return LocalEngine(
        clips=job.clips,
        videos=job.videos,
        archive_rows=job.list_archive_rows(),
        encoder=encoder,
        decoding=make_decoding(config, preprocessing, device),
        work=config.work,
        patience=Patience(config.run.outage_wait_seconds),
        breaker=Breaker(config.run.max_failures),
    )


def resolve_own_device(config: EncodeConfig, job: Job) -> str:
    """Return the device on which this rank encodes."""
    return resolve_device(config.model.device, read_local_rank(job.rank, os.environ))


def make_decoding(config: EncodeConfig, preprocessing: Preprocessing, device: str) -> Decoding:
    """Return how clips are decoded for an encoder on a device."""
    return Decoding(
        config.clips.frames_per_second,
        preprocessing,
        config.clips.keep_damaged,
        config.clips.square_pixels,
        resolve_decoder(config.model),
        resolve_decode_device(config.model.decode_device, device),
    )


def resolve_work_config(
    stored: WorkConfig | None,
    config: EncodeConfig,
    *,
    job: Job,
    files: ModelFiles,
    preprocessing: Preprocessing,
) -> WorkConfig:
    """Return this run's configuration; the stored one says what `auto` means."""
    device_type = resolve_device(config.model.device).split(":")[0]
    shape = choose_shape(config, job, device_type, {} if stored is None else stored.configuration)
    decoder = resolve_decoder(config.model)
    return WorkConfig(
        configuration={
            **job.configuration,
            "model": files.name,
            "model_revision": files.revision,
            "weights_sha256": files.weights_sha256,
            "embedding_width": files.width,
            "preprocessing": preprocessing.to_dict(),
            **asdict(shape),
            "decoder": decoder,
            "decode_device": config.model.decode_device,
            "versions": {name: version(name) for name in LIBRARIES} | list_versions(decoder),
        },
        class_names=None if job.class_names is None else list(job.class_names),
        device_type=device_type,
        rows_per_part=config.run.rows_per_part,
    )


def choose_shape(
    config: EncodeConfig, job: Job, device_type: str, stored: Mapping[str, Any]
) -> EncoderShape:
    """Return how the model runs: as the options say, else as before, else as suits this machine."""
    model, compiled = config.model, stored.get("compiled")
    dtype, batch_size = model.dtype, model.batch_size
    if dtype == "auto":
        dtype = stored.get("dtype") or resolve_dtype("auto", device_type)
    if batch_size is None:
        batch_size = stored.get("batch_size") or resolve_batch_size(None, device_type)
    if compiled is None or model.compile != "auto":
        compiled = resolve_compiled(
            model.compile,
            device_type,
            dtype,
            n_clips=len(job.clips) // job.world_size,
            n_cores=config.run.ray_cpus or count_cores(),
        )
    return EncoderShape(dtype=dtype, batch_size=batch_size, compiled=compiled)
