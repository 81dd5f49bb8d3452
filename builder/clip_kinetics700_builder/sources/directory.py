"""Finds the file of a clip in a directory of videos.

Clips of Kinetics are found by file name alone, at any depth: every mirror has directories of its
own. One's own videos are found by the path that their table gives.
"""

import errno
import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from clip_kinetics700.schema import SPLIT_OF_WORD
from clip_kinetics700_builder.system.outage import FAULTS_OF_A_FILE, explain_outage
from clip_kinetics700_builder.types import (
    NO_BYTES,
    NO_FILE,
    Clip,
    Failure,
    InputError,
    OutageError,
)

# Matched by position, not split at `_`: ids hold `_` and `-` and may begin with them.
CLIP_NAME = re.compile(r"([A-Za-z0-9_-]{11}_[0-9]{6}_[0-9]{6})\.([^.]+)")
NO_VIDEO = re.compile(
    "part|partial|tmp|temp|ytdl|crdownload|download|aria2|lock"  # interrupted downloads
    "|json|csv|tsv|txt|md|xml|ya?ml|html|log|description|url|md5|sha256"
    "|vtt|srt|ass|ssa|lrc|sub|jpe?g|png|webp|bmp|tiff?|gif"
    "|npy|npz|pt|pth|pkl|h5|parquet|tar|gz|zip"
    "|wav|mp3|m4a|aac|flac|opus|oga",
    re.IGNORECASE,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class VideoIndex:
    """The files of a directory by clip; of several files of one clip `find` chooses the best."""

    videos: Path
    """The directory that was indexed."""
    places: dict[str, tuple[str, str]]
    """(directory relative to `videos`, extension) by `ID_START_END`; equal tuples are shared."""
    others: dict[str, list[tuple[str, str]]]
    """All places of each clip that has several files."""
    directories: Mapping[Path, int]
    """How many files each held, where it held something."""

    def find(self, clip: Clip) -> Path | None:
        """Return the clip's file, or None if there is none.

        Several files of one clip rank in this order: those that are not empty, those in the
        directory of the clip's label, those under the clip's split, the first by relative path.

        Raises:
            OutageError: the disk fails, or all of a directory that held files is gone.
        """
        if clip.path is not None:
            file = self.videos / clip.path
            return None if self.measure(file) is None else file
        name = clip.file_stem
        if name not in self.places:
            return None
        ranked = []
        for directory, extension in self.others.get(name, [self.places[name]]):
            relative = f"{directory}/{name}.{extension}" if directory else f"{name}.{extension}"
            size = self.measure(self.videos / relative)
            if size is not None:
                ranked.append((size == 0, *rank_directory(clip, directory), relative))
        if ranked:
            return self.videos / min(ranked)[-1]
        place = self.videos / self.places[name][0]
        # What takes the place of a disk may hold something, but no clips.
        if not any(CLIP_NAME.fullmatch(entry) for entry in list_names(place)):
            raise OutageError(f"{place}: holds no clips any more: is a disk not mounted?")
        return None

    def holds(self, clip: Clip) -> bool:
        """Tell whether a clip has a file, one of Kinetics by what was there when this was made."""
        return self.find(clip) is not None if clip.path else clip.file_stem in self.places

    def list_directories(self) -> tuple[str, ...]:
        """Return the absolute paths of the directories that a later run is to miss, in order.

        Somebody may well delete the only file of one.
        """
        return tuple(sorted(str(path.absolute()) for path, n in self.directories.items() if n > 1))

    def measure(self, file: Path) -> int | None:
        """Return the size of a regular file in bytes, or None if there is no such file.

        Raises:
            OutageError: see `find`.
        """
        try:
            return measure_file(file)
        except OSError as error:
            outage = explain_outage(error, file)
            # A directory that held nothing before is not missed.
            was_there = file.parent in self.directories
            if outage is None and was_there and error.errno in (errno.EACCES, errno.EPERM):
                outage = OutageError(f"{file}: {error.strerror}: its directory was searched before")
            if outage is not None and (was_there or error.errno not in FAULTS_OF_A_FILE):
                raise outage from error
            return None


def index_videos(videos: Path) -> VideoIndex:
    """Return an index of the Kinetics clips at any depth below a directory.

    Raises:
        InputError: there is no such directory, or it cannot be read.
        OutageError: the disk fails.
    """
    if not videos.is_dir():
        kind = "is not a directory" if videos.exists() else "does not exist"
        raise InputError(f"videos directory {videos} {kind}")
    directories = Counter[str]()
    places: dict[str, tuple[str, str]] = {}
    others: dict[str, list[tuple[str, str]]] = {}
    shared: dict[tuple[str, str], tuple[str, str]] = {}
    for directory, file_name in walk_files(videos):
        directories[directory] += 1
        match = CLIP_NAME.fullmatch(file_name)
        if match is None or NO_VIDEO.fullmatch(match[2]):
            continue
        place = (directory, match[2])
        place = shared.setdefault(place, place)
        first = places.setdefault(match[1], place)
        if first is not place:
            others.setdefault(match[1], [first]).append(place)
    log.debug("%s: files of %d clips, several of %d", videos, len(places), len(others))
    held = {videos / directory: n for directory, n in directories.items()}
    return VideoIndex(videos, places, others, held)


def open_videos(videos: Path, clips: Iterable[Clip], missed: Iterable[str] = ()) -> VideoIndex:
    """Return the index of a directory that is to give some clips.

    `missed` are the absolute paths of directories that held something in an earlier run.

    Raises:
        InputError: see `index_videos`; or it holds nothing at all.
        OutageError: the disk fails, or one of those directories holds nothing now.
    """
    index = index_videos(videos)
    if not index.directories:
        raise InputError(f"videos directory {videos} is empty: is a disk not mounted?")
    # Tables may name files elsewhere.
    named = {(videos / clip.path).parent for clip in clips if clip.path is not None}
    held = {directory: n for directory in named if (n := len(list_names(directory)))}
    index = replace(index, directories={**index.directories, **held})
    wanted = {directory.absolute() for directory in named}
    for directory in map(Path, sorted({*missed}.difference(index.list_directories()))):
        is_below = directory.is_relative_to(videos.absolute())
        if (is_below or directory in wanted) and not list_names(directory):
            raise OutageError(
                f"{directory}: held files when this build began, and holds none now: is a disk "
                "not mounted? --max-failures 1 goes on without them"
            )
    return index


def list_names(directory: Path) -> list[str]:
    """Return the names in a directory, none where it is not there or cannot be read."""
    try:
        return [path.name for path in directory.iterdir()]
    except (OSError, ValueError):
        return []


def find_clip(index: VideoIndex | None, clip: Clip, row: int) -> Path | Failure:
    """Return the clip's file, or why there is none to decode.

    Raises:
        OutageError: the disk fails, or all of a directory that held files is gone.
    """
    file = None if index is None else index.find(clip)
    size = None if index is None or file is None else index.measure(file)
    if file is None or size is None:
        return Failure(row, "source", "missing", NO_FILE)
    if size == 0:
        return Failure(row, "source", "empty_file", NO_BYTES)
    return file


def walk_files(top: Path) -> Iterator[tuple[str, str]]:
    """Yield (directory relative to top, name) of everything that is not a directory.

    A directory is read once, whatever links lead to it. Links are followed in sorted order, after
    all real directories: so the result does not depend on the order of the file system's listing.
    """

    def note(error: OSError) -> None:
        if error.errno not in FAULTS_OF_A_FILE:
            raise OutageError(f"{error.filename}: {error.strerror}") from error
        if error.filename == str(top):
            raise InputError(f"cannot read videos directory {top}: {error.strerror}") from error
        log.warning("cannot read directory %s: %s", error.filename, error.strerror)

    seen, links = set[tuple[int, int]](), [top]
    while links:
        for place, directories, files in os.walk(links.pop(0), onerror=note):
            path = Path(place)
            status = path.stat()
            if (status.st_dev, status.st_ino) in seen:
                directories.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            relative = "" if path == top else path.relative_to(top).as_posix()
            yield from ((relative, name) for name in files)
            links += [path / name for name in directories if (path / name).is_symlink()]
        links.sort()


def rank_directory(clip: Clip, directory: str) -> tuple[bool, bool]:
    """Return (is not the label's directory, is not under the split's); smaller is better."""
    names = directory.split("/")
    split_fits = any(SPLIT_OF_WORD.get(name.lower()) == clip.split for name in names)
    return names[-1] not in label_directories(clip.label), not split_fits


def label_directories(label: str | None) -> tuple[str, ...]:
    """Return a label in the spellings that mirrors give their directories.

    `massaging person's head` (CVDF, FiftyOne), `massaging_person's_head` (mmaction2),
    `massaging_persons_head` (torchvision).
    """
    if label is None:
        return ()
    joined = label.replace(" ", "_")
    return label, joined, re.sub(r"['()]", "", joined)


def measure_file(file: Path) -> int | None:
    """Return the size of a regular file in bytes, None for what is none.

    Raises:
        OSError: it is not there, or cannot be looked at.
    """
    try:
        status = file.stat()
    except ValueError:
        return None  # no file can have such a name
    return status.st_size if stat.S_ISREG(status.st_mode) else None
