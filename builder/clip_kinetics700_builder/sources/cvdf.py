"""Finds the archives of CVDF's bucket that may hold the clips that are wanted.

CVDF's lists hold addresses of its bucket; where another base is given, a mirror or a directory,
the archives are taken from there.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from urllib.parse import quote, unquote

from clip_kinetics700.classes import class_names
from clip_kinetics700.remote import is_remote, locate, network_errors, read_head
from clip_kinetics700.schema import SPLITS
from clip_kinetics700.streams import read_whole
from clip_kinetics700_builder.clips.releases import RELEASES, SPLIT_FOLDERS, Release, end_with_slash
from clip_kinetics700_builder.config import CVDF_URL
from clip_kinetics700_builder.sources.archive import ARCHIVE_ERRORS, explain, read_clips
from clip_kinetics700_builder.sources.directory import label_directories
from clip_kinetics700_builder.sources.ledger import FetchError
from clip_kinetics700_builder.types import Archive, Clip, InputError, OutageError

ARCHIVE_NAME = re.compile(r"(?P<stem>[^/]+?)(\.tar\.gz|\.tgz|\.tar)", re.IGNORECASE)
PEEKS_AT_ONCE = 16

log = logging.getLogger(__name__)


def list_archives(version: str, splits: Iterable[str], base_url: str = CVDF_URL) -> list[Archive]:
    """Return the archives of a release, overlays first, then split by split as they are listed.

    Raises:
        InputError: there is no list, or something else than addresses of archives stands in it.
    """
    release = RELEASES[version]
    base = end_with_slash(base_url)
    archives = [
        Archive(make_name("overlay", name), f"{base}{release.folder}/{name}", None)
        for name in release.overlays
    ]
    for split in splits:
        for path in read_list(release, split, base):
            file_name = unquote(path.rpartition("/")[2]) if is_remote(path) else Path(path).name
            match = ARCHIVE_NAME.fullmatch(file_name)
            stem = file_name if match is None else match["stem"]
            label = stem if release.is_named_after_classes else None
            archives.append(Archive(make_name(split, stem), path, split, label))
    return number_names(archives)


def read_list(release: Release, split: str, base: str) -> list[str]:
    """Return where the archives of a split lie; in a directory without lists, the files there."""
    path = base + release.list_path(split)
    try:
        text = read_whole(path).decode("utf-8")
    except FileNotFoundError as error:
        folder = Path(base) / release.folder / SPLIT_FOLDERS[split]
        found = [] if is_remote(base) or not folder.is_dir() else sorted(folder.iterdir())
        archives = [str(file) for file in found if ARCHIVE_NAME.fullmatch(file.name)]
        if not archives:
            raise InputError(f"{path}: there is no list of the archives of {split}") from error
        return archives
    except ARCHIVE_ERRORS as error:
        explained = explain(error, path)
        kind = OutageError if isinstance(explained, OutageError) else InputError
        raise kind(f"the list of archives of {split}: {explained}") from error
    return [
        resolve_address(line.strip(), base, f"{path} line {number}")
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip()
    ]


def resolve_address(address: str, base: str, place: str) -> str:
    """Return where an archive of a list lies.

    Raises:
        InputError: it is no address of an archive below CVDF's or the base.
    """
    relative = next(
        (address.removeprefix(prefix) for prefix in (CVDF_URL, base) if address.startswith(prefix)),
        address,
    )
    parts = unquote(relative).split("/")
    if "://" in relative or ".." in parts or not ARCHIVE_NAME.fullmatch(parts[-1]):
        raise InputError(f"{place}: {address[:200]!r} is no archive below {base}")
    # Names of classes have blanks, which an address must quote.
    return base + (quote(unquote(relative)) if is_remote(base) else unquote(relative))


def make_name(prefix: str, stem: str) -> str:
    """Return a name for an archive that any file system takes."""
    return f"{prefix}-{re.sub(r'[^A-Za-z0-9_-]', '_', stem.partition('.')[0])}"


def number_names(archives: Sequence[Archive]) -> list[Archive]:
    """Return the archives with a number after each name that came before."""
    taken: Counter[str] = Counter()
    numbered = []
    for archive in archives:
        # Some file systems do not tell large letters from small ones.
        taken[archive.name.lower()] += 1
        count = taken[archive.name.lower()]
        numbered.append(archive if count == 1 else replace(archive, name=f"{archive.name}-{count}"))
    return numbered


def find_archives(
    version: str,
    clips: Iterable[Clip],
    base_url: str,
    known: dict[str, str | None],
    *,
    keep: Callable[[Archive], bool] = lambda _: True,
) -> list[Archive]:
    """Return the archives of a release that may hold some clips, of those that `keep` lets pass.

    Raises:
        InputError: there is no list of them.
        OutageError: it cannot be read for now.
    """
    labels: dict[str, set[str]] = {}
    for clip in clips:
        labels.setdefault(clip.split, set()).update([clip.label] if clip.label else [])
    splits = [split for split in SPLITS if split in labels]
    archives = [archive for archive in list_archives(version, splits, base_url) if keep(archive)]
    return choose_archives(archives, version, labels, known)


def choose_archives(
    archives: Sequence[Archive],
    version: str,
    labels: Mapping[str, Collection[str]],
    known: dict[str, str | None],
) -> list[Archive]:
    """Return those of a release's archives that may hold clips of the wanted classes.

    Args:
        archives: all of them.
        version: the release.
        labels: the classes wanted of each split; a split without any is wanted whole.
        known: the classes of archives that were looked into before, by the archive's name; the
            function adds those that it finds.
    """
    class_splits = RELEASES[version].class_archives
    chosen: list[Archive] = []
    for split in [None, *SPLIT_FOLDERS]:
        group = [archive for archive in archives if archive.split == split]
        wanted = labels.get(split or "", ())
        if split in class_splits and wanted and len(wanted) < len(group):
            chosen += choose_by_class(group, wanted, known)
        else:
            chosen += group if split is None or split in labels else []
    return chosen


def choose_by_class(
    group: Sequence[Archive], labels: Collection[str], known: dict[str, str | None]
) -> list[Archive]:
    """Return the archives of some classes; look into those whose names do not tell the class."""
    spellings = {name: label for label in labels for name in label_directories(label)}
    # Where there are no more archives than classes, no two archives are of one class.
    has_one_each = len(group) <= len(class_names("700"))
    missing, chosen = set(labels), set[str]()
    for archive, directory in find_classes(order_likely(group, labels), known):
        label = spellings.get(directory or "")
        if directory is None or label is not None:
            chosen.add(archive.name)
            missing.discard(label or "")
        if has_one_each and not missing:
            break
    for label in sorted(missing):
        log.warning("no archive of class %r is listed for %s", label, group[0].split)
    return [archive for archive in group if archive.name in chosen]


def order_likely(group: Sequence[Archive], labels: Collection[str]) -> list[Archive]:
    """Return the archives, first those that are likely to be of some classes.

    The archives of 2020 are numbered as the classes are; where that is wrong, it only takes longer.
    """
    numbers = [number for number, name in enumerate(class_names("700")) if name in labels]

    def distance(place: int) -> int:
        return min((abs(place - number) for number in numbers), default=0)

    return [group[place] for place in sorted(range(len(group)), key=distance)]


def find_classes(
    group: Sequence[Archive], known: dict[str, str | None]
) -> Iterator[tuple[Archive, str | None]]:
    """Yield archives with the directory of their clips, None where none can be found."""
    for archive in group:
        if archive.label is not None or archive.name in known:
            yield archive, archive.label or known[archive.name]
    rest = iter([a for a in group if a.label is None and a.name not in known])
    with ThreadPoolExecutor(PEEKS_AT_ONCE) as threads:
        while batch := list(islice(rest, PEEKS_AT_ONCE)):
            for archive, found in zip(batch, threads.map(look_into, batch), strict=True):
                if isinstance(found, FetchError):
                    yield archive, None
                else:
                    yield archive, known.setdefault(archive.name, found)


def look_into(archive: Archive) -> str | FetchError | None:
    """Return the directory of an archive's first clip, None for none, or why it cannot be read."""
    try:
        for clip in read_clips(archive.path, lambda _: True):
            return clip.directory.rpartition("/")[2] if clip.directory else None
    except FetchError as error:
        return error
    return None


def measure_archive(archive: Archive) -> int | str:
    """Return the size of an archive in bytes, or one line about why it is not known."""
    try:
        if not is_remote(archive.path):
            return Path(archive.path).stat().st_size
        size = read_head(locate(archive.path), 1).size
    except network_errors() as error:
        return str(explain(error, archive.path))
    return f"{archive.path}: its server does not tell its size" if size is None else size
