"""Gets the clips of annotations into a directory: what is on disk counts first, then each source.

A clip that one source does not have is asked of the next one. Whatever comes of a clip stands in
the ledger; what has failed is tried again only if that is asked for.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from clip_kinetics700_builder.clips.annotations import read_annotations
from clip_kinetics700_builder.clips.plan import read_plan, write_plan
from clip_kinetics700_builder.config import DownloadConfig
from clip_kinetics700_builder.download.archive_store import Store
from clip_kinetics700_builder.download.folder import STATE_NAME, list_held, write_metadata
from clip_kinetics700_builder.download.run import (
    Download,
    DownloadSummary,
    OpenClips,
    count_need,
    select_clips,
    take_first,
)
from clip_kinetics700_builder.download.sources import CVDF, YOUTUBE, find_new_archives, open_source
from clip_kinetics700_builder.sources.annotation_cache import find_annotations
from clip_kinetics700_builder.sources.cvdf import measure_archive
from clip_kinetics700_builder.sources.ledger import (
    LEDGER_NAME,
    Ledger,
    check_reasons,
    read_attempts,
)
from clip_kinetics700_builder.system.locks import hold_lock
from clip_kinetics700_builder.system.outage import Patience
from clip_kinetics700_builder.system.progress import Progress, no_progress
from clip_kinetics700_builder.types import Clip, InputError

LOCK_NAME = "download.lock"
KNOWN_NAME = "clips.parquet"
"""The clips of all requests so far, as a plan."""


def read_clips_wanted(config: DownloadConfig) -> list[Clip]:
    """Return the clips of the wanted splits and classes, in the order in which they are wanted.

    Raises:
        InputError: annotations or classes cannot be used.
    """
    wanted = config.annotations
    clips = read_annotations(find_annotations(wanted), splits=wanted.splits)
    if any(clip.path is not None for clip in clips):
        raise InputError("a table of one's own videos names files, there is nothing to download")
    return select_clips(clips, classes=config.classes, shuffle=config.shuffle, seed=config.seed)


def check_config(config: DownloadConfig) -> None:
    """Refuse sources that cannot be asked, and words that are no reasons."""
    check_reasons(config.retry_errors or ())
    if not config.source:
        raise InputError("--source names nothing; directories, cvdf and youtube are allowed")
    for source in config.source:
        if source not in (CVDF, YOUTUBE) and not Path(source).is_dir():
            raise InputError(f"--source {source}: is no directory, nor cvdf or youtube")
    if CVDF in config.source and config.annotations.version is None:
        raise InputError("--source cvdf needs --version, one of 400, 600, 700, 700-2020")


def download(config: DownloadConfig, *, progress: Progress = no_progress) -> DownloadSummary:
    """Get clips until all that are wanted are there, or no source has more.

    Raises:
        InputError: options, annotations or lists cannot be used, or the directory is in use.
        OutageError: a disk or a server fails for too long; nothing is put on record for it.
        BotWallError: YouTube refuses this machine; all other sources were asked before.
    """
    check_config(config)
    clips = read_clips_wanted(config)
    state = config.output / STATE_NAME
    state.mkdir(parents=True, exist_ok=True)
    taken = f"{config.output}: another download is running there; wait for it"
    with hold_lock(state / LOCK_NAME, taken):
        ledger = Ledger(state / LEDGER_NAME)
        last = {(a.identity, a.source): a for a in read_attempts(state / LEDGER_NAME)}
        patience = Patience(config.outage_wait_seconds)
        run = Download(config, Store(state), ledger, patience, last)
        held = list_held(config.output, clips)
        run.summary.held = len(held)
        need = count_need(clips, held, config.max_samples)
        known = remember_clips(state, clips)
        rest = [clip for clip in clips if clip.identity not in held]
        n_wanted = len(take_first(rest, need))
        try:
            with progress("download", n_wanted, "clips") as advance:
                run.advance = advance
                get_clips(run, rest, need)
        finally:
            write_metadata(config.output, known)
    return run.summary


def get_clips(run: Download, rest: list[Clip], need: dict[str, float]) -> None:
    """Ask source after source; where others may stand in for what failed, round after round."""
    sources = [(source, open_source(run.config, source)) for source in run.config.source]
    while rest and any(need.values()):
        # In a random order the first ones are the sample; in the given one any will do.
        chosen = take_first(rest, need) if run.config.shuffle else rest
        open_clips = OpenClips(chosen, need)
        for source, ask in sources:
            clips = [clip for clip in open_clips.list_open() if run.may_try(clip, source)]
            if clips:
                ask(run, clips, open_clips)
        need = open_clips.need
        names = {clip.identity for clip in chosen}
        rest = [clip for clip in rest if clip.identity not in names]
        for clip in open_clips.list_open():
            attempts = [run.last.get((clip.identity, source)) for source, _ in sources]
            reasons = [attempt.reason for attempt in attempts if attempt and attempt.reason]
            run.summary.reasons[reasons[-1] if reasons else "not_asked"] += 1


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a download would do."""

    n_wanted: int
    n_held: int
    n_to_get: int
    n_archives: int
    n_bytes: int
    """Size of the archives whose servers tell theirs."""
    unmeasured: tuple[str, ...]
    """One line for each archive that cannot be measured."""


def plan_download(config: DownloadConfig) -> DryRun:
    """Return what a download would get; write nothing but the cache of annotations.

    Raises:
        InputError: options, annotations or lists cannot be used.
    """
    check_config(config)
    clips = read_clips_wanted(config)
    held = list_held(config.output, clips) if config.output.is_dir() else set[str]()
    need = count_need(clips, held, config.max_samples)
    rest = take_first([clip for clip in clips if clip.identity not in held], need)
    archives = []
    if CVDF in config.source and rest:
        archives = find_new_archives(config, rest, Store(config.output / STATE_NAME), {})
    with ThreadPoolExecutor(config.num_workers) as threads:
        sizes = list(threads.map(measure_archive, archives))
    return DryRun(
        n_wanted=len(rest) + len(held),
        n_held=len(held),
        n_to_get=len(rest),
        n_archives=len(archives),
        n_bytes=sum(size for size in sizes if isinstance(size, int)),
        unmeasured=tuple(str(size) for size in sizes if not isinstance(size, int)),
    )


def remember_clips(state: Path, clips: Iterable[Clip]) -> list[Clip]:
    """Return the clips of all requests so far, this one included, and keep them in a file."""
    path = state / KNOWN_NAME
    before = read_plan(path) if path.is_file() else []
    known = {clip.identity: clip for clip in before}
    known |= {clip.identity: clip for clip in clips}
    if len(known) != len(before):
        write_plan(path, list(known.values()))
    return list(known.values())
