"""Finds out which files of a source hold the samples of which split.

A source is a directory, a repository of the Hub, an fsspec URL, or tars by name; it is of one of
three kinds: tars (ours and upstream's), Parquet, or the loose files of a processed dataset.
"""

import hashlib
import json
import logging
import os
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import quote, unquote

from .hub import HUB_ERRORS, HUB_PREFIX, find_source, pin_commit, refuse_repository
from .manifest import describe_data, list_stated, parse_manifest
from .remote import HTTP_PREFIXES, MAX_IN_FLIGHT, is_remote, locate, retry
from .schema import (
    INDEX_NAME,
    MANIFEST_NAME,
    SPLIT_OF_WORD,
    SPLITS,
    SPLITS_CSV_NAME,
    normalize_split,
    suggest,
)
from .shards import group_pairs, is_tar, split_tars
from .states import FileStates, local_state
from .streams import MAX_TEXT_BYTES, read_if_there

logger = logging.getLogger(__name__)

AnyPath: TypeAlias = str | os.PathLike[str]
Paths: TypeAlias = AnyPath | Sequence[AnyPath]
Source: TypeAlias = Paths | Mapping[str, Paths]
"""A directory, repository or URL; or tars, alone (`train`) or by split."""
Kind = Literal["tars", "parquet", "loose"]

# `data/train/ds_000000.tar` is as deep as any dialect lays a file.
MAX_DEPTH = 3
CSV_NAMES = (SPLITS_CSV_NAME, f"data/{SPLITS_CSV_NAME}")
# The fields by which file systems (local, Hub, HTTP, S3) tell two states of a file apart.
STATE_FIELDS = ("size", "mtime", "blob_id", "etag", "ETag", "Last-Modified", "sha256")
PARQUET = re.compile(r"([^/]+)/(\w+(?:\.\w+)*)-\d+-of-\d+\.parquet")
# `push_to_hub` puts the files of its `default` configuration here, of another into one of its name.
DEFAULT_NAME, DEFAULT_DIRECTORY = "default", "data"
LOOSE = re.compile(rf"({'|'.join(SPLIT_OF_WORD)})/[^/]+\.npy", re.IGNORECASE)


def list_local(root: str) -> dict[str, dict[str, Any]]:
    """Return size, time and inode of each file of a directory, but hidden ones, by its name."""
    if not Path(root).is_dir():
        raise FileNotFoundError(f"no directory {root}")
    found: dict[str, dict[str, Any]] = {}
    for depth in range(MAX_DEPTH):
        for path in Path(root).glob("[!.]*/" * depth + "[!.]*"):
            # What is no file is an error where it is read: left out, it would be lost.
            if not path.is_dir() or is_tar(path.name):
                state, name = path.stat() if path.exists() else path.lstat(), path.relative_to(root)
                found[name.as_posix()] = {
                    "size": state.st_size,
                    "mtime": state.st_mtime_ns,
                    "state": local_state(state),
                }
    return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True)
class Layout:
    """Which files of a source hold samples, and what the manifest says about these."""

    root: str
    """Absolute path or URL of the directory; empty where files were named."""
    kind: Kind
    """What holds the samples."""
    files: dict[str, list[str]]
    """Paths or URLs in order, by `train`, `validation`, `test`; only splits that have any."""
    class_names: tuple[str, ...] | None
    """Names by `label_id`; None where no manifest gives them."""
    width: int | None
    """Columns of the embeddings as the manifest has them; None where there is none."""
    index: str | None
    """Path or URL of the index; None where there is none."""
    repository: str | None = None
    """URL of a Hub repository at its commit, even if its files are read from the Hub's cache."""
    states: FileStates = field(default_factory=FileStates, compare=False, repr=False)
    """States of local files as they were listed, of remote ones as they are first answered."""

    def relative(self, path: str) -> str:
        """Return the name of a file as index and messages have it."""
        return path[len(self.root) + 1 :] if self.root else path

    def path(self, name: str) -> str:
        """Return the path or URL of a file by the name that the index has."""
        return f"{self.root}/{name}" if self.root else name


def list_files(root: str) -> dict[str, dict[str, Any]]:
    """Return what is known about each file of a source, by its relative name."""
    if not is_remote(root):
        return list_local(root)
    if not root.startswith(HUB_PREFIX):
        # One request instead of a listing, which many web servers do not even have.
        files = list_stated(parse_manifest(read_text(root, MANIFEST_NAME), root), root)
        if files:
            return {**files, MANIFEST_NAME: {}}
    _, file_system, path = locate(root)
    if not root.startswith(HUB_PREFIX):
        file_system.invalidate_cache(path)  # of listings, which only for a commit stay the same
    try:
        if not retry(lambda: file_system.isdir(path), root):
            raise FileNotFoundError(f"no directory {root}, or its server does not list it")
        found = retry(lambda: file_system.find(path, maxdepth=MAX_DEPTH, detail=True), root)
    except HUB_ERRORS as error:
        if not root.startswith(HUB_PREFIX):
            raise
        raise refuse_repository(root, error) from error
    files = {posixpath.relpath(name, path): dict(found[name]) for name in sorted(found)}
    if not root.startswith(HTTP_PREFIXES):
        return files
    # Listings of web servers quote names; some names could not be put into a URL once unquoted.
    plain = {name: unquote(name) for name in files}
    return {n if set("%?#") & set(plain[n]) else plain[n]: info for n, info in files.items()}


def read_layout(source: Source, *, revision: str | None = None, name: str | None = None) -> Layout:
    """Return which files of a source hold which samples, by its manifest or else by looking.

    `name` is that of a configuration.

    Raises:
        FileNotFoundError: there is no such directory, repository or tar.
        ValueError: there are no samples in it, nothing tells their splits, there is no such
            configuration, or a URL is wrong.
    """
    if isinstance(source, str | os.PathLike) and not is_tar(os.fspath(source)):
        root = find_source(source, revision)
        check_url(root, revision)
        pinned = pin_commit(root)
        if pinned is None:
            return read_directory(root, name)
        cache = pinned.cache
        layout = read_directory(pinned.url, name) if cache is None else read_cached(cache, name)
        return replace(layout, repository=pinned.url)
    if name is not None:
        raise ValueError(f"tars have no configurations, got {name = }")
    named = source if isinstance(source, Mapping) else {"train": source}
    files: dict[str, list[str]] = {split: [] for split in SPLITS}
    for word, value in named.items():
        for path in [value] if isinstance(value, str | os.PathLike) else value:
            files[normalize_split(word)] += expand_tars(path, revision=revision)
    files = {split: group for split, group in files.items() if group}
    if not files:
        raise ValueError("no tars are named")
    local = [path for group in files.values() for path in group if not is_remote(path)]
    states = FileStates((path, local_state(Path(path).stat())) for path in local)
    return Layout("", "tars", files, None, None, None, states=states)


def read_cached(cache: str, name: str | None) -> Layout:
    """Return the layout of a repository that cannot be asked for, by the Hub's cache of its files.

    Raises:
        FileNotFoundError: no samples are in the cache, and nothing says where they are.
    """
    files = list_local(cache)
    text = read_text(cache, MANIFEST_NAME) if MANIFEST_NAME in files else None
    names = {**list_stated(parse_manifest(text, cache), cache), **files}
    # Whoever has loaded the Parquet files has no tars.
    without_tars = {name: names[name] for name in names if not is_tar(name)}
    try:
        layouts = [read_directory(cache, name, some) for some in (names, without_tars) if some]
    except ValueError as error:
        raise FileNotFoundError(f"nothing of it is in the Hub's cache: {error}") from error
    for layout in layouts:
        lacking = [
            path for group in layout.files.values() for path in group if not Path(path).exists()
        ]
        if not lacking:
            return layout
    logger.warning(
        "%d of its files are not in the Hub's cache, %s for one; "
        "`clip-kinetics700 verify` or `hf download` puts them there",
        len(lacking),
        lacking[0],
    )
    return layouts[0]


def check_url(url: str, revision: str | None) -> None:
    """Refuse a URL that is not at the revision wanted, or has a query behind a directory."""
    if revision is not None and f"@{quote(revision, safe='')}" not in url:
        raise ValueError(f"revision {revision!r} is asked for, but {url} is no repository at it")
    if url.startswith(HTTP_PREFIXES) and "?" in url and not is_tar(url):
        raise ValueError(f"{url}: a directory's URL cannot have a query; name the tars instead")


def expand_tars(path: str | os.PathLike[str], *, revision: str | None = None) -> list[str]:
    """Return a named tar, or the tars of a named directory, as absolute paths or URLs."""
    root = find_source(path, revision)
    check_url(root, revision)
    if is_tar(root):
        tars = [root] if is_remote(root) or Path(root).is_file() else []
    else:
        tars = [f"{root}/{name}" for name in list_files(root) if is_tar(name)]
    if not tars:
        raise FileNotFoundError(f"no file {root}" if is_tar(root) else f"no tars in {root}")
    return tars


def read_directory(
    root: str, name: str | None = None, files: Mapping[str, Mapping[str, Any]] | None = None
) -> Layout:
    """Return the layout of one directory, or of a configuration; its files may be given.

    Raises:
        ValueError: it is still being written, or there is no such configuration, or no sample.
    """
    files = list_files(root) if files is None else files
    check_finished(root, files)
    text = read_text(root, MANIFEST_NAME) if MANIFEST_NAME in files else None
    names, width = describe_data(parse_manifest(text, root), root)
    kind, groups = group_files(root, files, name)
    read = [*chain.from_iterable(groups.values()), INDEX_NAME]
    states = {name: files[name]["state"] for name in read if "state" in files.get(name, {})}
    return Layout(
        root=root,
        kind=kind,
        files={split: [f"{root}/{file}" for file in group] for split, group in groups.items()},
        class_names=names,
        width=width,
        index=f"{root}/{INDEX_NAME}" if INDEX_NAME in files else None,
        states=FileStates((f"{root}/{name}", state) for name, state in states.items()),
    )


def check_finished(root: str, files: Collection[str]) -> None:
    """Refuse a directory into which a build or a conversion was writing: the manifest comes last.

    What is there may be whole splits, which look like all that there is.
    """
    if MANIFEST_NAME in files:
        return
    signs = [name for name in files if name.endswith(".partial") or name.startswith(".build/")]
    if not is_remote(root) and (Path(root) / ".build").is_dir():
        signs.append(".build")
    if signs:
        raise ValueError(
            f"{root}: is not finished: {signs[0]} is there, and no {MANIFEST_NAME}; run the "
            "command again that writes it"
        )


def group_files(
    root: str, files: Collection[str], name: str | None = None
) -> tuple[Kind, dict[str, list[str]]]:
    """Return what holds the samples of a directory, and its files by split: tars before Parquet.

    Raises:
        ValueError: there are none, nothing says which tar belongs to which split, or there is no
            such configuration.
    """
    if name in (None, DEFAULT_NAME) and any(map(is_tar, files)):
        return "tars", find_tars(root, files)
    parquet = find_parquet(root, files, name)
    if parquet:
        return "parquet", parquet
    loose = group_pairs(
        (normalize_split(match[1]), match[0])
        for match in map(LOOSE.fullmatch, sorted(files))
        if match
    )
    if loose:
        return "loose", loose
    own_name = posixpath.basename(root).lower()
    arrays = sorted(name for name in files if name.endswith(".npy") and "/" not in name)
    if own_name in SPLIT_OF_WORD and arrays:
        return "loose", {normalize_split(own_name): arrays}
    raise ValueError(
        f"{root} holds neither tars nor files data/SPLIT-NNNNN-of-NNNNN.parquet nor SPLIT/NAME.npy"
    )


def find_parquet(root: str, files: Iterable[str], name: str | None) -> dict[str, list[str]]:
    """Return the Parquet files of a configuration by split, under our word for it where it is one.

    Without a name it is `default`, or the only one that there is. There may be no files.

    Raises:
        ValueError: there is no such configuration, there are several and none is named, or files
            are missing.
    """
    found = [match for match in map(PARQUET.fullmatch, sorted(files)) if match]
    directories = {
        DEFAULT_NAME if match[1] == DEFAULT_DIRECTORY else match[1]: match[1] for match in found
    }
    if name is None and DEFAULT_NAME not in directories and len(directories) == 1:
        (name,) = directories
    directory = directories.get(name or DEFAULT_NAME)
    if directory is None and (name or directories) and name != DEFAULT_NAME:
        wrong = "`name=` must say which" if name is None else f"there is no {name!r}"
        there = ", ".join(directories) or "none"
        raise ValueError(
            f"{root}: its configurations are {there}; {wrong}{suggest(name or '', directories)}"
        )
    pairs = [(match[2], match[0]) for match in found if match[1] == directory]
    ours = {word: SPLIT_OF_WORD.get(word, word) for word, _ in pairs}
    meant = Counter(ours.values())
    # Two words for one split stay what they are.
    groups = group_pairs((w if meant[ours[w]] > 1 else ours[w], file) for w, file in pairs)
    for group in groups.values():
        places = [file.removesuffix(".parquet").rsplit("-", 3)[1::2] for file in group]
        total = int(places[0][1])
        if [(int(number), int(of)) for number, of in places] != [(n, total) for n in range(total)]:
            raise ValueError(f"{root} has {len(group)} of {total} files like {group[0]}")
    return groups


def find_tars(root: str, files: Collection[str]) -> dict[str, list[str]]:
    """Return the names of a directory's tars by split."""
    names = [name for name in files if is_tar(name)]
    csv_name = next((name for name in CSV_NAMES if name in files), None)
    text = None if csv_name is None else read_text(root, csv_name)
    own_name = posixpath.basename(root).lower()
    try:
        if text is None and own_name in SPLIT_OF_WORD and not any("/" in name for name in names):
            return {normalize_split(own_name): names}
        return split_tars(names, text)
    except ValueError as error:
        raise ValueError(f"{root}: {error}") from error


def describe_file(path: str) -> dict[str, Any]:
    """Return what the file system says about one file."""
    _, file_system, name = locate(path)
    return dict(retry(lambda: file_system.info(name), path))


def read_text(root: str, name: str) -> str | None:
    """Return the text of a file of the directory, or None where it is not there."""
    data = read_if_there(f"{root}/{name}", at_most=MAX_TEXT_BYTES)
    return None if data is None else str(data, "utf-8", "replace")


def fingerprint(layout: Layout) -> str:
    """Return 16 hexadecimal digits that change when the source's place or content does."""
    digest = hashlib.sha256(json.dumps([layout.root, layout.files]).encode())
    listing = list_files(layout.root) if layout.root else {}
    paths = [path for group in layout.files.values() for path in group]
    paths += [] if layout.index is None else [layout.index]
    known = {path: state_of(listing.get(layout.relative(path), {})) for path in paths}
    # Listings of web servers hold nothing but names.
    unknown = [path for path, state in known.items() if not any(state)]
    with ThreadPoolExecutor(MAX_IN_FLIGHT) as pool:
        known |= zip(unknown, map(state_of, pool.map(describe_file, unknown)), strict=True)
    for path, state in known.items():
        digest.update("\0".join([path, *state]).encode("utf-8", "surrogateescape"))
    for name in (MANIFEST_NAME, *CSV_NAMES):
        if name in listing:
            digest.update((read_text(layout.root, name) or "").encode())
    return digest.hexdigest()[:16]


def state_of(info: dict[str, Any]) -> list[str]:
    """Return the fields of a file's description by which two states of it differ."""
    return [str(info.get(field) or "") for field in STATE_FIELDS]
