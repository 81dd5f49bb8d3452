"""A release in, its annotation files out: fetched once, kept in a cache of the user's.

DeepMind's archive and CVDF's files are the two sources, and each stands in for the other. What is
in the cache has been read to its end, so a file there is a good one.
"""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from filelock import FileLock

from clip_kinetics700.schema import SPLITS, normalize_split
from clip_kinetics700.streams import read_whole
from clip_kinetics700.tars import Header, read_members
from clip_kinetics700_builder.clips.annotations import read_json, read_table
from clip_kinetics700_builder.clips.releases import (
    DEEPMIND_WORDS,
    RELEASES,
    Release,
    end_with_slash,
)
from clip_kinetics700_builder.config import CVDF_URL, DEEPMIND_URL, DownloadConfig, EncodeConfig
from clip_kinetics700_builder.sources.archive import (
    ARCHIVE_ERRORS,
    ArchiveReport,
    explain,
    is_harmless,
    open_archive,
)
from clip_kinetics700_builder.sources.ledger import FetchError
from clip_kinetics700_builder.system.files import atomic_path, make_printable, write_json
from clip_kinetics700_builder.types import InputError

CACHE_VARIABLE = "CLIP_KINETICS700_CACHE"
ALL_NAME = "all.json"
"""Lists the splits of a release, once all that its source has are here."""
# As a table is smaller than JSON, it is the one that is kept where there are both.
KINDS = ("csv", "json")
# S3 answers so for a file that is not there, where it does not let strangers list files.
ABSENT = ("http_404", "http_403")

log = logging.getLogger(__name__)

Files = dict[str, tuple[str, bytes]]
"""Kind, `csv` or `json`, and bytes of the list of each split."""


def fetch_annotations(
    version: str,
    *,
    splits: Sequence[str] = (),
    cache: Path | None = None,
    base_url: str | None = None,
    annotations_url: str = DEEPMIND_URL,
) -> list[Path]:
    """Return the annotation files of a release, one a split, from the cache where they are in it.

    Args:
        version: `400`, `600`, `700` or `700-2020`.
        splits: those that are needed; empty for all that there are.
        cache: directory of all that was fetched, whatever from; None for the user's.
        base_url: CVDF's address or a directory with its tree; another than CVDF's own is a mirror,
            which is asked before DeepMind.
        annotations_url: DeepMind's address, or a directory with its archives.

    Raises:
        InputError: no source has what is needed: names each with the reason.
        OSError: the cache cannot be written.
    """
    release = RELEASES.get(version)
    if release is None:
        raise InputError(f"no release {version!r} of Kinetics; there are: {', '.join(RELEASES)}")
    wanted = [split for split in SPLITS if split in map(normalize_split, splits)]
    base = default_cache() if cache is None else cache
    directory = base / "annotations" / version
    found = find_cached(directory, wanted)
    if found is None:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory.with_name(f"{version}.lock")):
            # Another process may have fetched it meanwhile.
            found = find_cached(directory, wanted)
            if found is None:
                addresses = (base_url or CVDF_URL, annotations_url)
                found = fetch_release(release, directory, wanted, addresses)
    return found


def find_annotations(config: EncodeConfig | DownloadConfig) -> Sequence[Path]:
    """Return the annotation files that are given, or else those of the release, fetched.

    Raises:
        InputError: neither files nor a release are named, or they cannot be fetched.
    """
    if config.annotations:
        return config.annotations
    if config.version is None:
        raise InputError("no annotations are named: give --annotations FILE or --version")
    return fetch_annotations(
        config.version,
        splits=config.splits,
        cache=config.cache,
        base_url=config.base_url,
        annotations_url=config.annotations_url,
    )


def default_cache() -> Path:
    """Return the user's cache of this program."""
    own, general = os.environ.get(CACHE_VARIABLE), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own)
    return (Path(general) if general else Path.home() / ".cache") / "clip-kinetics700"


def find_cached(directory: Path, wanted: Sequence[str]) -> list[Path] | None:
    """Return the cached files of some splits, of all for none; None if one is not there."""
    if not wanted and not (directory / ALL_NAME).is_file():
        return None
    found = {split: find_file(directory, split) for split in wanted or SPLITS}
    files = [file for file in found.values() if file is not None]
    return files if len(files) == len(found) or (files and not wanted) else None


def find_file(directory: Path, split: str) -> Path | None:
    """Return the cached file of a split."""
    paths = [directory / f"{DEEPMIND_WORDS[split]}.{kind}" for kind in KINDS]
    return next((path for path in paths if path.is_file()), None)


def fetch_release(
    release: Release, directory: Path, wanted: Sequence[str], addresses: tuple[str, str]
) -> list[Path]:
    """Fetch what is needed into the cache, from the first source that has it, and return it."""
    base_url, annotations_url = map(end_with_slash, addresses)
    sources = [lambda: fetch_deepmind(annotations_url + release.deepmind_name)]
    if release.has_cvdf_annotations:
        place = 1 if base_url == CVDF_URL else 0
        sources.insert(place, lambda: fetch_cvdf(release, base_url, wanted or SPLITS, wanted))
    reasons = []
    for fetch in sources:
        error = try_source(fetch, directory, wanted)
        found = find_cached(directory, wanted) if error is None else None
        if found is not None:
            return found
        reasons.append(str(error))
    raise InputError(
        f"the annotations of Kinetics {release.version} cannot be fetched; name files of your own "
        f"with --annotations FILE. Tried: {'; '.join(reasons)}"
    )


def try_source(
    fetch: Callable[[], Files], directory: Path, wanted: Sequence[str]
) -> FetchError | None:
    """Fetch from one source into the cache; return why that failed, if it did."""
    try:
        store(fetch(), directory, wanted)
    except FetchError as error:
        log.debug("%s", error)
        return error
    return None


def fetch_deepmind(address: str) -> Files:
    """Return the lists in an archive of DeepMind's, at whatever depth they lie in it.

    Raises:
        FetchError: it cannot be read to its end.
    """
    report, files = ArchiveReport(), Files()
    words = {word: split for split, word in DEEPMIND_WORDS.items()}

    def refuse(header: Header) -> bool:
        stem, _, kind = PurePosixPath(header.name).name.partition(".")
        return not is_harmless(header, report) or stem not in words or kind not in KINDS

    try:
        with open_archive(address) as stream:
            for member in read_members(stream, refuse=refuse):
                stem, _, kind = PurePosixPath(member.name).name.partition(".")
                before = files.get(words[stem])
                if before is None or KINDS.index(kind) < KINDS.index(before[0]):
                    files[words[stem]] = kind, bytes(member.data)
    except ARCHIVE_ERRORS as error:
        raise explain(error, address) from error
    report.warn(address)
    return files


def fetch_cvdf(
    release: Release, base_url: str, splits: Sequence[str], needed: Sequence[str]
) -> Files:
    """Return CVDF's list of each split; one that is not there and not needed is left out.

    Raises:
        FetchError: one cannot be fetched.
    """
    files = Files()
    for split in splits:
        address = base_url + release.cvdf_annotations(split)
        found = try_whole(address)
        if isinstance(found, bytes):
            files[split] = "csv", found
        elif found.reason not in ABSENT or split in needed:
            raise found
    return files


def try_whole(address: str) -> bytes | FetchError:
    """Return a file's bytes, or why they cannot be had."""
    try:
        return read_whole(address)
    except ARCHIVE_ERRORS as error:
        return explain(error, address)


def store(files: Files, directory: Path, wanted: Sequence[str]) -> None:
    """Put lists into the cache, each once it was read to its end.

    Raises:
        FetchError: one that is wanted is missing, or one is no list of annotations.
    """
    for split in wanted:
        if split not in files:
            raise FetchError("gone", f"no list of {split} is there")
    if not files:
        raise FetchError("gone", "no list of annotations is there")
    for split, (kind, data) in files.items():
        with atomic_path(directory / f"{DEEPMIND_WORDS[split]}.{kind}") as partial:
            partial.write_bytes(data)
            check_list(partial, kind, split)
    if not wanted:
        write_json(directory / ALL_NAME, sorted(files))


def check_list(path: Path, kind: str, split: str) -> None:
    """Read a list to its end.

    Raises:
        FetchError: it is none, or is one of another split.
    """
    try:
        rows = list(read_json(path) if kind == "json" else read_table(path))
    except InputError as error:
        text = str(error).replace(str(path), f"the list of {split}")
        raise FetchError("unreadable", make_printable(text)) from error
    others = {row.clip.split for row in rows} - {split}
    if not rows or others:
        what = f"rows of {', '.join(sorted(others))}" if others else "no rows"
        raise FetchError("unreadable", f"the list of {split} holds {what}")
