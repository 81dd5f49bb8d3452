"""Asks the sources of a download for clips: a directory, CVDF's archives, YouTube.

What a source brings lands under its final name; what came of each clip goes into the ledger.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

from clip_kinetics700_builder.config import DownloadConfig
from clip_kinetics700_builder.download.archive_store import (
    Store,
    forget,
    read_catalogue,
    take_clips,
)
from clip_kinetics700_builder.download.folder import place_clip
from clip_kinetics700_builder.download.run import Download, OpenClips
from clip_kinetics700_builder.download.youtube import BotWallError, Youtube
from clip_kinetics700_builder.sources.cvdf import find_archives
from clip_kinetics700_builder.sources.directory import VideoIndex, open_videos
from clip_kinetics700_builder.sources.ledger import (
    ARCHIVES_IN_A_ROW,
    REFUSALS,
    Attempt,
    FetchError,
    failed,
    got,
    is_outage,
)
from clip_kinetics700_builder.system.files import atomic_path
from clip_kinetics700_builder.system.outage import FULL, explain_outage
from clip_kinetics700_builder.types import Archive, Clip, OutageError

log = logging.getLogger(__name__)

CVDF, YOUTUBE = "cvdf", "youtube"

# Clips in a row that the connection fails for; each was tried four times, over two minutes.
MAX_DOUBTFUL = 3

Ask: TypeAlias = Callable[[Download, Sequence[Clip], OpenClips], None]
"""Gets those of some clips that a source has and that are still open."""


def open_source(config: DownloadConfig, source: str) -> Ask:
    """Return the function that asks a source, in one round or in several.

    It remembers between rounds which class an archive is of, what a directory holds, when YouTube
    was asked last and how often it has refused. Nothing is opened before the first round.
    """
    if source == CVDF:
        known: dict[str, str | None] = {}
        return partial(ask_archives, known=known)
    if source == YOUTUBE:
        open_youtube = partial(
            Youtube,
            cookies=config.cookies,
            seconds_between=config.youtube_interval,
            address=config.youtube_address,
        )
        return partial(ask_youtube, open_youtube=cache(open_youtube))
    return partial(ask_directory, open_index=cache(partial(open_videos, Path(source), ())))


def bring_clip(
    run: Download, clip: Clip, source: str, open_clips: OpenClips, fetch: Callable[[Clip], Path]
) -> FetchError | None:
    """Get a clip that was claimed, and put on record what came of it; return what went wrong.

    `fetch` puts the clip in its place and returns its file; what it cannot get is open again. An
    outage is waited for; what may be one is not put on record here.

    Raises:
        OutageError: it lasts.
    """
    started = time.monotonic()
    try:
        file = run.patience.outlast(partial(fetch, clip))
    except FetchError as error:
        open_clips.give_back([clip])
        seconds = round(time.monotonic() - started, 3)
        if not is_outage(error.reason):
            run.write([failed(clip, source, error, seconds=seconds)])
        return error
    seconds = round(time.monotonic() - started, 3)
    run.write([got(clip, source, bytes=file.stat().st_size, seconds=seconds)])
    return None


def ask_directory(
    run: Download,
    clips: Sequence[Clip],
    open_clips: OpenClips,
    *,
    open_index: Callable[[], VideoIndex],
) -> None:
    """Copy the clips that a directory has."""
    index, tried = run.patience.outlast(open_index), set[str]()
    source = str(index.videos)

    def copy(clip: Clip) -> Path:
        path = index.find(clip)
        if path is None:
            raise FetchError("not_in_directory", f"{source} has no file of this clip")
        if path.stat().st_size == 0:
            raise FetchError("empty_file", f"{path.name} holds 0 bytes")
        final = place_clip(run.config.output, clip, path.suffix[1:])
        final.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(final) as partial:
            copy_file(path, partial)
        return final

    def bring(clip: Clip) -> None:
        if open_clips.claim(clip.file_stem) is not None:
            tried.add(clip.identity)
            bring_clip(run, clip, source, open_clips, copy)

    # Where a claimed clip fails, one that was not needed then may be needed now.
    while left := [c for c in clips if c.identity not in tried and open_clips.wants(c.file_stem)]:
        run.each(bring, left)


def copy_file(path: Path, final: Path) -> None:
    """Copy a clip.

    Raises:
        FetchError: it may not be read.
        OutageError: the disk fails; it need not be the one that is read.
    """
    try:
        shutil.copyfile(path, final)
    except OSError as error:
        if error.errno in FULL:
            raise
        outage = explain_outage(error, path)
        if outage is None:
            raise FetchError("unreadable", f"{path.name}: {error.strerror}") from error
        raise outage from error


def ask_archives(
    run: Download,
    clips: Sequence[Clip],
    open_clips: OpenClips,
    *,
    known: dict[str, str | None],
) -> None:
    """Take the clips out of CVDF's archives.

    Raises:
        OutageError: their server or their disk fails, or refuses one archive after the other.
    """
    errors: dict[tuple[str | None, str | None], FetchError] = {}
    asked = {clip.file_stem for clip in clips}
    passed_over: list[Archive] = []
    refused: list[FetchError] = []

    def take(archive: Archive) -> None:
        try:
            if not take_archive(run, archive, open_clips, asked):
                passed_over.append(archive)
            refused.clear()
        except FetchError as error:
            log.warning("%s", error)
            errors[archive.split, archive.label] = error
            refused.extend([error] * (error.reason in REFUSALS))
            stop_if_refused(refused)

    find = partial(find_new_archives, run.config, clips, run.store, known)
    archives = run.patience.outlast(find)
    # An overlay's clips count more than those of the archives that follow.
    run.each(take, [archive for archive in archives if archive.is_overlay])
    left = [archive for archive in archives if not archive.is_overlay]
    # Where an archive fails whose clips were claimed, those of one passed over are needed now.
    while left and any(clip.file_stem in asked for clip in open_clips.list_open()):
        passed_over.clear()
        run.each(take, left)
        left = list(passed_over)
    write_missing(run, [c for c in open_clips.list_open() if c.file_stem in asked], errors)


def write_missing(
    run: Download,
    clips: Iterable[Clip],
    errors: Mapping[tuple[str | None, str | None], FetchError],
) -> None:
    """Put on record the clips that no archive gave; errors are those of archives."""
    missing = FetchError("not_in_archive", "no archive of the release holds this clip")
    attempts = []
    for clip in clips:
        if (clip.identity, CVDF) not in run.fresh:
            # The error is of the archive that would hold the clip, or of one that may hold it.
            error = errors.get((clip.split, clip.label)) or errors.get((clip.split, None))
            attempts.append(failed(clip, CVDF, error or missing))
    run.write(attempts)


def stop_if_refused(refused: Sequence[FetchError]) -> None:
    """Raise OutageError where a server refuses so many archives that it may not be their fault."""
    if len(refused) >= ARCHIVES_IN_A_ROW:
        raise OutageError(
            f"{refused[-1]}, as {len(refused)} archives in a row: has a link expired? run the "
            "same command again to go on, or leave out --source cvdf"
        )


def find_new_archives(
    config: DownloadConfig,
    clips: Sequence[Clip],
    store: Store,
    known: dict[str, str | None],
) -> list[Archive]:
    """Return the archives that may hold some of the clips, without those known to hold none."""
    names = {clip.file_stem for clip in clips}

    def may_hold(archive: Archive) -> bool:
        held = read_catalogue(store, archive)
        return held is None or not names.isdisjoint(held)

    release = config.annotations
    return find_archives(release.version or "", clips, release.base_url, known, keep=may_hold)


def take_archive(run: Download, archive: Archive, open_clips: OpenClips, asked: set[str]) -> bool:
    """Land the wanted clips of one archive.

    Returns:
        False if it holds other clips too, which may be needed later.

    Raises:
        FetchError: it cannot be read to its end; its clips are wanted as before.
    """
    if not any(clip.file_stem in asked for clip in open_clips.list_open()):
        return False
    started = time.monotonic()
    claimed: dict[str, Clip] = {}
    denied: set[str] = set()

    def claim(name: str) -> bool:
        if name in asked and name not in claimed:
            clip = open_clips.claim(name)
            if clip is not None:
                claimed[name] = clip
            elif open_clips.has(name):
                denied.add(name)
        return name in claimed

    try:
        files = run.patience.outlast(partial(take_clips, archive, claim, run.store))
    except BaseException:
        open_clips.give_back(claimed.values())
        raise
    facts = {
        "archive": archive.name,
        "seconds": round((time.monotonic() - started) / max(1, len(files)), 3),
    }
    run.write(
        [land_clip(run, claimed[name], file, open_clips, facts) for name, file in files.items()]
    )
    forget(archive, run.store)
    return not denied


def land_clip(
    run: Download, clip: Clip, file: Path, open_clips: OpenClips, facts: Mapping[str, Any]
) -> Attempt:
    """Give an unpacked clip its final name; return the attempt, with some facts about it."""
    n_bytes = file.stat().st_size
    if n_bytes == 0:
        open_clips.give_back([clip])
        return failed(clip, CVDF, FetchError("empty_file", f"{file.stem} holds 0 bytes"), **facts)
    final = place_clip(run.config.output, clip, Path(file.stem).suffix[1:])
    final.parent.mkdir(parents=True, exist_ok=True)
    file.replace(final)
    return got(clip, CVDF, bytes=n_bytes, **facts)


def ask_youtube(
    run: Download,
    clips: Sequence[Clip],
    open_clips: OpenClips,
    *,
    open_youtube: Callable[[], Youtube],
) -> None:
    """Download what is left, one clip after another.

    One clip whose connection fails says nothing; it is put on record once another one has come.

    Raises:
        BotWallError: YouTube asks who we are, again and again.
        OutageError: the connection fails for one clip after the other.
    """
    youtube = open_youtube()
    doubtful: list[Attempt] = []

    def fetch(clip: Clip) -> Path:
        final = place_clip(run.config.output, clip, "mp4")
        final.parent.mkdir(parents=True, exist_ok=True)
        youtube.fetch(clip, final)
        return final

    for clip in clips:
        if open_clips.claim(clip.file_stem) is None:
            continue
        error = bring_clip(run, clip, YOUTUBE, open_clips, fetch)
        if error is not None and is_outage(error.reason):
            doubtful.append(failed(clip, YOUTUBE, error))
        else:
            run.write(doubtful)
            doubtful.clear()
        if len(doubtful) == MAX_DOUBTFUL:
            break
        if isinstance(error, BotWallError):
            raise error
    if doubtful:
        raise OutageError(f"{doubtful[-1].message}; run the same command again to go on")
