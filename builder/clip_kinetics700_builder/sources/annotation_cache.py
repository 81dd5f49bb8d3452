"""Fetches the annotation files of a release once, and keeps them in a cache of the user's.

DeepMind's archive and CVDF's files are the two sources, and each stands in for the other. A list
gets into the cache only after it has been read to its end.
"""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from clip_kinetics700.schema import SPLITS
from clip_kinetics700.streams import read_whole
from clip_kinetics700.tars import Header, read_members
from clip_kinetics700_builder.clips.annotations import read_json, read_table
from clip_kinetics700_builder.clips.releases import (
    DEEPMIND_WORDS,
    RELEASES,
    SPLIT_FOLDERS,
    Release,
    end_with_slash,
)
from clip_kinetics700_builder.config import CVDF_URL, AnnotationsConfig
from clip_kinetics700_builder.sources.archive import (
    ARCHIVE_ERRORS,
    ArchiveReport,
    explain,
    is_harmless,
    open_archive,
)
from clip_kinetics700_builder.sources.ledger import FetchError
from clip_kinetics700_builder.system.files import atomic_path, make_printable, write_json
from clip_kinetics700_builder.system.locks import hold_lock
from clip_kinetics700_builder.types import InputError, OutageError

CACHE_VARIABLE = "CLIP_KINETICS700_CACHE"
ALL_NAME = "all.json"
"""Lists the splits of a release, once the cache has all that its source has."""
LIST_NAMES = {split: (f"{word}.csv", f"{word}.json") for split, word in DEEPMIND_WORDS.items()}
"""Names of a split's list, in the cache and at DeepMind; a table is smaller and comes first."""
# S3 answers 403 for a file that is not there, where strangers may not list files.
ABSENT = ("http_404", "http_403")

log = logging.getLogger(__name__)

Files = dict[str, tuple[str, bytes]]
"""Name and bytes of the list of each split."""


def find_annotations(config: AnnotationsConfig) -> Sequence[Path]:
    """Return the annotation files that are given, or those of the release, one a split, fetched.

    Raises:
        InputError: neither files nor a release are named, or no source of the release has what is
            needed; it says of each why.
        OSError: the cache cannot be written.
    """
    if config.files:
        return config.files
    if config.version is None:
        raise InputError("no annotations are named: give --annotations FILE or --version")
    directory = (config.cache or default_cache()) / "annotations" / config.version
    wanted = [split for split in SPLITS if split in config.splits]
    if found := find_cached(directory, wanted):
        return found
    directory.mkdir(parents=True, exist_ok=True)
    with hold_lock(directory.with_name(f"{config.version}.lock")):
        # Another process may have fetched it meanwhile.
        return find_cached(directory, wanted) or fetch_release(
            RELEASES[config.version], directory, wanted, (config.base_url, config.annotations_url)
        )


def default_cache() -> Path:
    """Return the user's cache of this program."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "clip-kinetics700")


def find_cached(directory: Path, wanted: Sequence[str]) -> list[Path]:
    """Return the cached files of some splits, of all if none is named; empty if one is missing."""
    if not wanted and not (directory / ALL_NAME).is_file():
        return []
    found = []
    for split in wanted or SPLITS:
        paths = [directory / name for name in LIST_NAMES[split]]
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            found.append(path)
        elif wanted:
            return []
    return found


def fetch_release(
    release: Release, directory: Path, wanted: Sequence[str], addresses: tuple[str, str]
) -> list[Path]:
    """Fetch what is needed into the cache, from the first source that has it, and return it."""
    base_url, annotations_url = map(end_with_slash, addresses)
    archive = f"{annotations_url}kinetics{release.version.replace('-', '_')}.tar.gz"
    sources: list[Callable[[], Files]] = [lambda: fetch_deepmind(archive)]
    if release.has_cvdf_annotations:
        # A mirror is asked before DeepMind.
        place = 1 if base_url == CVDF_URL else 0
        sources.insert(place, lambda: fetch_cvdf(release, base_url, wanted))
    reasons = []
    for fetch in sources:
        try:
            store(fetch(), directory, wanted)
        except (FetchError, OutageError) as error:
            log.debug("%s", error)
            reasons.append(str(error))
            continue
        return find_cached(directory, wanted)
    raise InputError(
        f"the annotations of Kinetics {release.version} cannot be fetched; name files of your own "
        f"with --annotations FILE. Tried: {'; '.join(reasons)}"
    )


def fetch_deepmind(address: str) -> Files:
    """Return the lists in an archive of DeepMind's, at whatever depth they lie in it.

    Raises:
        FetchError: the archive cannot be read to its end.
    """
    report, found = ArchiveReport(), dict[str, bytes]()
    known = {name for names in LIST_NAMES.values() for name in names}

    def refuse(header: Header) -> bool:
        return not is_harmless(header, report) or PurePosixPath(header.name).name not in known

    try:
        with open_archive(address) as stream:
            for member in read_members(stream, refuse=refuse):
                found.setdefault(PurePosixPath(member.name).name, bytes(member.data))
    except ARCHIVE_ERRORS as error:
        raise explain(error, address) from error
    report.warn(address)
    # The first name of a split comes last, so that it counts.
    return {
        split: (name, found[name])
        for split, names in LIST_NAMES.items()
        for name in reversed(names)
        if name in found
    }


def fetch_cvdf(release: Release, base_url: str, wanted: Sequence[str]) -> Files:
    """Return CVDF's lists of some splits, or all that there are if none is named.

    Raises:
        FetchError: one cannot be fetched.
    """
    files = Files()
    for split in wanted or SPLITS:
        address = f"{base_url}{release.folder}/annotations/{SPLIT_FOLDERS[split]}.csv"
        try:
            files[split] = LIST_NAMES[split][0], read_whole(address)
        except ARCHIVE_ERRORS as error:
            explained = explain(error, address)
            if wanted or isinstance(explained, OutageError) or explained.reason not in ABSENT:
                raise explained from error
    return files


def store(files: Files, directory: Path, wanted: Sequence[str]) -> None:
    """Put lists into the cache, each after it was read to its end.

    Raises:
        FetchError: one that is wanted is missing, or one is no list of annotations.
    """
    for split in wanted:
        if split not in files:
            raise FetchError("gone", f"no list of {split} is there")
    if not files:
        raise FetchError("gone", "no list of annotations is there")
    for split, (name, data) in files.items():
        with atomic_path(directory / name) as partial:
            partial.write_bytes(data)
            check_list(partial, name, split)
    if not wanted:
        write_json(directory / ALL_NAME, sorted(files))


def check_list(path: Path, name: str, split: str) -> None:
    """Read a list to its end.

    Raises:
        FetchError: it is no list, or has rows of another split.
    """
    try:
        rows = list(read_json(path) if name.endswith(".json") else read_table(path))
    except InputError as error:
        text = str(error).replace(str(path), f"the list of {split}")
        raise FetchError("unreadable", make_printable(text)) from error
    others = {row.clip.split for row in rows} - {split}
    if not rows or others:
        what = f"rows of {', '.join(sorted(others))}" if others else "no rows"
        raise FetchError("unreadable", f"the list of {split} holds {what}")
