"""A dataset directory -> its tars by split, the width of its embeddings and its class names.

In: a local directory or fsspec URL, ours (`manifest.json`) or upstream-like. Out: a `Layout`.
It also says when a directory has changed, because `datasets` caches by path alone.
"""

import hashlib
import json
import os
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from .schema import MANIFEST_NAME, SPLIT_OF_WORD, SPLITS_CSV_NAME, normalize_split
from .shards import is_tar, read_shard, split_tars
from .tars import is_remote

# `data/train/ds_000000.tar` is the deepest that any dialect lays a tar.
MAX_DEPTH = 3
CSV_NAMES = (SPLITS_CSV_NAME, f"data/{SPLITS_CSV_NAME}")
# What differs between two states of a file, by file system: local, Hub, HTTP and S3.
STATE_FIELDS = ("size", "mtime", "blob_id", "etag", "ETag")


@dataclass(frozen=True, slots=True)
class Layout:
    """What the tars of a dataset directory hold."""

    tars: dict[str, list[str]]
    """Paths or URLs in order, by `train`, `validation`, `test`; only splits that exist."""
    width: int
    """Columns of the embeddings."""
    class_names: tuple[str, ...] | None
    """Names by `label_id`; None where no manifest gives them."""


def resolve_source(source: str | os.PathLike[str]) -> str:
    """Return a URL as it is and a path absolute, `~` expanded."""
    text = os.fspath(source)
    return text if is_remote(text) else str(Path(text).expanduser().absolute())


def list_files(source: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """Return what the file system says of each file, by name relative to the directory.

    Raises:
        FileNotFoundError: there is no such directory.
    """
    root = resolve_source(source)
    file_system, path = fsspec.core.url_to_fs(root)
    if not file_system.isdir(path):
        raise FileNotFoundError(f"no directory {root}")
    found = file_system.find(path, maxdepth=MAX_DEPTH, detail=True)
    return {posixpath.relpath(name, path): dict(found[name]) for name in sorted(found)}


def read_layout(source: str | os.PathLike[str]) -> Layout:
    """Return what the tars of a dataset directory hold, by its manifest or else by looking.

    Raises:
        FileNotFoundError: there is no such directory, or no tar in it.
        ValueError: nothing says which tar belongs to which split, or nothing gives the width.
    """
    root = resolve_source(source)
    tars = find_tars(root, list_files(root))
    text = read_text(root, MANIFEST_NAME)
    manifest = {} if text is None else _parse_manifest(text, root)
    configuration = manifest.get("configuration")
    width = configuration.get("embedding_width") if isinstance(configuration, dict) else None
    names = manifest.get("class_names")
    if width is None:
        # Upstream may end with a tar of no samples; `datasets` cannot prepare a split of no rows.
        widths = {split: _first_width(group) for split, group in tars.items()}
        tars = {split: group for split, group in tars.items() if widths[split] is not None}
        width = next((first for first in widths.values() if first is not None), None)
    if width is None:
        raise ValueError(f"{root}: all tars are empty, so nothing tells how wide embeddings are")
    return Layout(tars, int(width), None if names is None else tuple(names))


def find_tars(root: str, files: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the paths or URLs of a directory's tars by split.

    Raises:
        FileNotFoundError: there is no tar in it.
        ValueError: nothing says which tar belongs to which split.
    """
    names = [name for name in files if is_tar(name)]
    if not names:
        raise FileNotFoundError(f"no tars in {root}")
    csv_name = next((name for name in CSV_NAMES if name in files), None)
    text = None if csv_name is None else read_text(root, csv_name)
    own_name = posixpath.basename(root.rstrip("/")).lower()
    try:
        if text is None and own_name in SPLIT_OF_WORD and not any("/" in name for name in names):
            splits = {normalize_split(own_name): names}
        else:
            splits = split_tars(names, text)
    except ValueError as error:
        raise ValueError(f"{root}: {error}") from error
    base = root.rstrip("/")
    return {split: [f"{base}/{name}" for name in group] for split, group in splits.items()}


def fingerprint(source: str | os.PathLike[str]) -> str:
    """Return 16 hexadecimal digits that change when the directory's place or content does."""
    root = resolve_source(source)
    digest = hashlib.sha256(root.encode())
    files = list_files(root)
    for name, info in files.items():
        if is_tar(name):
            state = [name, *(str(info.get(field)) for field in STATE_FIELDS)]
            digest.update("\0".join(state).encode("utf-8", "surrogateescape"))
    for name in (MANIFEST_NAME, *CSV_NAMES):
        if name in files:
            digest.update((read_text(root, name) or "").encode())
    return digest.hexdigest()[:16]


def read_text(root: str, name: str) -> str | None:
    """Return the text of a file of the directory, or None where it is not there."""
    try:
        with fsspec.open(f"{root.rstrip('/')}/{name}", "rb") as stream:
            return str(stream.read(), "utf-8", "replace")
    except FileNotFoundError:
        return None


def _parse_manifest(text: str, root: str) -> dict[str, Any]:
    """Return the manifest's object."""
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{root}/{MANIFEST_NAME} is no JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise ValueError(f"{root}/{MANIFEST_NAME} holds no JSON object")
    return manifest


def _first_width(tars: Iterable[str]) -> int | None:
    """Return the width of the first sample there is in these tars, None where there is none."""
    for tar in tars:
        for sample in read_shard(tar):
            return int(sample.embeddings.shape[1])
    return None
