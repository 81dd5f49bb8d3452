"""The sources of a download, each asked for clips: a directory, CVDF's archives, YouTube.

In: the clips that are wanted. Out: files under their final names, and attempts in the ledger.
"""

import logging
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TypeAlias

from clip_kinetics700_builder.config import DownloadConfig
from clip_kinetics700_builder.download.archive_store import (
    Store,
    forget,
    read_catalogue,
    take_clips,
)
from clip_kinetics700_builder.download.folder import land_file, place_clip
from clip_kinetics700_builder.download.run import Download, OpenClips
from clip_kinetics700_builder.download.youtube import BotWallError, Youtube, YoutubeConfig
from clip_kinetics700_builder.sources.cvdf import find_archives
from clip_kinetics700_builder.sources.directory import VideoIndex, index_videos
from clip_kinetics700_builder.sources.ledger import FetchError, failed, got
from clip_kinetics700_builder.types import Archive, Clip

log = logging.getLogger(__name__)

CVDF, YOUTUBE = "cvdf", "youtube"


Ask: TypeAlias = Callable[[Download, Sequence[Clip], OpenClips], None]


def open_source(run: Download, source: str) -> Callable[[OpenClips], None]:
    """Return what gets the clips that a source has of those wanted, in one round or in several.

    What a source knows lasts for the run: which class an archive is of, what a directory holds,
    when YouTube was asked last and how often it has refused. Nothing is opened before it is asked.
    """
    ask = open_ask(run, source)

    def ask_for(open_clips: OpenClips) -> None:
        clips = [clip for clip in open_clips.list_open() if run.may_try(clip, source)]
        if clips:
            ask(run, clips, open_clips)

    return ask_for


def open_ask(run: Download, source: str) -> Ask:
    """Return the function that asks one source, with what it remembers from round to round."""
    if source == CVDF:
        known: dict[str, str | None] = {}
        return partial(ask_archives, known=known)
    if source == YOUTUBE:
        return partial(ask_youtube, open_youtube=cache(partial(open_youtube, run.config)))
    directory = Path(source)
    return partial(ask_directory, open_index=cache(partial(index_videos, directory)))


def ask_directory(
    run: Download,
    clips: Sequence[Clip],
    open_clips: OpenClips,
    *,
    open_index: Callable[[], VideoIndex],
) -> None:
    """Copy the clips that a directory has."""
    index, tried = open_index(), set[str]()
    source = str(index.videos)

    def copy(clip: Clip) -> None:
        if open_clips.claim(clip.file_stem) is None:
            return
        tried.add(clip.identity)
        begin = time.monotonic()
        path = index.find(clip)
        try:
            if path is None:
                raise FetchError("not_in_directory", f"{source} has no file of this clip")
            if path.stat().st_size == 0:
                raise FetchError("empty_file", f"{path.name} holds 0 bytes")
            land_file(path, place_clip(run.config.output, clip, path.suffix[1:]))
        except FetchError as error:
            open_clips.give_back([clip])
            run.write([failed(clip, source, error)])
            return
        seconds = round(time.monotonic() - begin, 3)
        n_bytes = path.stat().st_size
        run.write([got(clip, source, n_bytes=n_bytes, seconds=seconds)])

    # Where one fails that was claimed, one that was not needed then may be needed now.
    while left := [c for c in clips if c.identity not in tried and open_clips.wants(c.file_stem)]:
        run.each(copy, left)


def ask_archives(
    run: Download,
    clips: Sequence[Clip],
    open_clips: OpenClips,
    *,
    known: MutableMapping[str, str | None],
) -> None:
    """Take the clips out of CVDF's archives."""
    errors: dict[tuple[str | None, str | None], FetchError] = {}
    asked = {clip.file_stem for clip in clips}
    passed_over: list[Archive] = []

    def take(archive: Archive) -> None:
        try:
            if not take_archive(run, archive, open_clips, asked):
                passed_over.append(archive)
        except FetchError as error:
            log.warning("%s", error)
            errors[archive.split, archive.label] = error

    archives = find_new_archives(run.config, clips, run.store, known)
    # An overlay's clips count more than those of the archives that follow.
    run.each(take, [archive for archive in archives if archive.is_overlay])
    left = [archive for archive in archives if not archive.is_overlay]
    # Where one fails whose clips were claimed, those of one that was passed over are needed now.
    while left and any(clip.file_stem in asked for clip in open_clips.list_open()):
        passed_over.clear()
        run.each(take, left)
        left = list(passed_over)
    missing = FetchError("not_in_archive", "no archive of the release holds this clip")
    run.write(
        [
            failed(clip, CVDF, find_error(errors, clip) or missing)
            for clip in open_clips.list_open()
            if clip.file_stem in asked and (clip.identity, CVDF) not in run.fresh
        ]
    )


def find_error(
    errors: Mapping[tuple[str | None, str | None], FetchError], clip: Clip
) -> FetchError | None:
    """Return what befell the archive that would hold a clip, or one that may hold it."""
    return errors.get((clip.split, clip.label)) or errors.get((clip.split, None))


def find_new_archives(
    config: DownloadConfig,
    clips: Sequence[Clip],
    store: Store,
    known: MutableMapping[str, str | None],
) -> list[Archive]:
    """Return the archives that may hold some of the clips; what was read before is known."""
    names = {clip.file_stem for clip in clips}

    def may_hold(archive: Archive) -> bool:
        held = read_catalogue(store, archive)
        return held is None or not names.isdisjoint(held)

    return find_archives(config.version or "", clips, config.base_url, known, keep=may_hold)


def take_archive(run: Download, archive: Archive, open_clips: OpenClips, asked: set[str]) -> bool:
    """Land the wanted clips of one archive.

    Returns:
        False where it may hold others, which are not needed as things stand.

    Raises:
        FetchError: it cannot be read to its end; its clips are wanted as before.
    """
    if not any(clip.file_stem in asked for clip in open_clips.list_open()):
        return False
    begin = time.monotonic()
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
        files = take_clips(archive, claim, run.store)
    except BaseException:
        open_clips.give_back(claimed.values())
        raise
    seconds = round((time.monotonic() - begin) / max(1, len(files)), 3)
    attempts = []
    for name, file in files.items():
        clip, n_bytes = claimed[name], file.stat().st_size
        if n_bytes == 0:
            open_clips.give_back([clip])
            empty = FetchError("empty_file", f"{file.stem} holds 0 bytes")
            attempts.append(failed(clip, CVDF, empty, archive=archive.name))
            continue
        final = place_clip(run.config.output, clip, Path(file.stem).suffix[1:])
        final.parent.mkdir(parents=True, exist_ok=True)
        file.replace(final)
        attempts.append(got(clip, CVDF, n_bytes=n_bytes, seconds=seconds, archive=archive.name))
    run.write(attempts)
    forget(archive, run.store)
    return not denied


def open_youtube(config: DownloadConfig) -> Youtube:
    """Return YouTube, as the options say."""
    return Youtube(
        YoutubeConfig(
            cookies=config.cookies,
            seconds_between=config.youtube_interval,
            address=config.youtube_address,
        )
    )


def ask_youtube(
    run: Download,
    clips: Sequence[Clip],
    open_clips: OpenClips,
    *,
    open_youtube: Callable[[], Youtube],
) -> None:
    """Download what is left, one clip after another.

    Raises:
        BotWallError: YouTube asks who we are, again and again.
    """
    youtube = open_youtube()
    for clip in clips:
        if open_clips.claim(clip.file_stem) is None:
            continue
        begin = time.monotonic()
        final = place_clip(run.config.output, clip, "mp4")
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            youtube.fetch(clip, final)
        except FetchError as error:
            open_clips.give_back([clip])
            seconds = round(time.monotonic() - begin, 3)
            run.write([failed(clip, YOUTUBE, error, seconds=seconds)])
            if isinstance(error, BotWallError):
                raise
            continue
        seconds = round(time.monotonic() - begin, 3)
        run.write([got(clip, YOUTUBE, n_bytes=final.stat().st_size, seconds=seconds)])
