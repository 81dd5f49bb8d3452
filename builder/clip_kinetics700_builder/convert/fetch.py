"""A remote source is copied before it is converted: only the files it takes, none of them twice.

A file appears under its name when all of it is there, so a copy that was cut off goes on where it
was. Names come from others: none of them leads out of the copy's directory.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from clip_kinetics700.layout import Layout
from clip_kinetics700.manifest import is_inside
from clip_kinetics700.remote import BUFFER_SIZE, is_remote, strip_query
from clip_kinetics700.schema import FAILURES_NAME, MANIFEST_NAME
from clip_kinetics700.streams import open_stream
from clip_kinetics700_builder.read.rows import read_own_manifest, read_size
from clip_kinetics700_builder.system.files import atomic_path, hash_file
from clip_kinetics700_builder.system.progress import Progress
from clip_kinetics700_builder.types import BuildError, InputError

BESIDE_NPY = (".txt", ".cap", ".json")


def is_fetched(layout: Layout) -> bool:
    """Tell whether a source is remote, so that it is copied before it is converted."""
    return any(is_remote(path) for group in layout.files.values() for path in group)


def fetch_source(
    layout: Layout, listing: Mapping[str, Mapping[str, Any]], directory: Path, *, progress: Progress
) -> Layout:
    """Copy a remote source; return the layout of the copy, whose finished files stay as they are.

    Raises:
        InputError: a name leads out of the directory.
        BuildError: a file arrives with another size or hash than its source says.
        OSError: a file cannot be fetched.
    """
    files = {
        split: [str(directory / local_name(layout, path)) for path in group]
        for split, group in layout.files.items()
    }
    wanted = {path: local_name(layout, path) for path in list_wanted(layout, listing)}
    manifest = read_own_manifest(layout)
    stated = {} if manifest is None else manifest.files
    with progress("fetch", len(wanted), "files") as advance:
        for path, name in wanted.items():
            if not (directory / name).is_file():
                known = {**listing.get(name, {})}
                if name in stated:
                    known |= stated[name].document()
                fetch_file(path, directory / name, known)
            advance(1)
    index = str(directory / wanted[layout.index]) if layout.index in wanted else layout.index
    return replace(layout, root=str(directory) if layout.root else "", files=files, index=index)


def list_wanted(layout: Layout, listing: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield paths of the files that are read: the samples, and what says more of them."""
    for group in layout.files.values():
        for path in group:
            yield path
            if layout.kind == "loose":
                stem = layout.relative(path).removesuffix(".npy")
                beside = [stem + extension for extension in BESIDE_NPY]
                yield from (layout.path(name) for name in beside if name in listing)
    names = [name for name in (MANIFEST_NAME, FAILURES_NAME) if name in listing]
    yield from map(layout.path, names)
    if layout.root and layout.index is not None and layout.index.startswith(f"{layout.root}/"):
        yield layout.index


def local_name(layout: Layout, path: str) -> str:
    """Return where in the copy a file lies.

    Raises:
        InputError: that is outside of it.
    """
    if not layout.root:
        # Tars named one by one may have one name in several directories.
        paths = [path for group in layout.files.values() for path in group]
        return f"{paths.index(path):06d}/{PurePosixPath(strip_query(path)).name}"
    name = layout.relative(path)
    if not is_inside(name):
        raise InputError(f"{layout.root}: names a file outside of itself: {name!r}")
    return name


def fetch_file(url: str, final: Path, known: Mapping[str, Any]) -> None:
    """Copy one file, whole or not at all; its source may tell its size and its hash."""
    final.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(final) as partial:
        with open_stream(url) as source, partial.open("wb") as copy:
            shutil.copyfileobj(source, copy, BUFFER_SIZE)
        size, n_bytes = read_size(known), partial.stat().st_size
        if size not in (None, n_bytes):
            raise BuildError(f"{url}: {n_bytes} bytes arrived, its source says {size}")
        if known.get("sha256") and known["sha256"] != hash_file(partial):
            raise BuildError(f"{url}: arrived with another sha256 than its source's manifest says")
