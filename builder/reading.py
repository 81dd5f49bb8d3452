"""Any dataset that can be read -> every row of it in order: a sample, or what is damaged there.

What `index`, `info` and `convert` share. By its index where a source has one, and else file by
file in constant memory; nothing is passed over, what becomes of damage is the caller's to say.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from builder.config import SourceConfig
from builder.manifest import FORMAT_NAME
from builder.scanning import Check, Damage, Row, lost_file, scan_tar, scan_triple
from builder.types import Clip, InputError
from clip_kinetics700.arrays import make_samples
from clip_kinetics700.damage import DamageError, OnError
from clip_kinetics700.dataset import EmbeddingDataset, OpenSource, open_dataset
from clip_kinetics700.index import Block
from clip_kinetics700.index_reading import read_parquet_columns
from clip_kinetics700.layout import Layout, describe_file, list_files, read_text
from clip_kinetics700.manifests import parse_manifest
from clip_kinetics700.schema import MANIFEST_NAME, Sample

log = logging.getLogger(__name__)

Advance: TypeAlias = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class RowSource:
    """A dataset whose rows can be read: what its index says is so, or it has none."""

    dataset: EmbeddingDataset
    lost: dict[str, list[Damage]]
    """Files that cannot be read at all, by split; each is one row, however many were in it."""


def open_source(config: SourceConfig) -> EmbeddingDataset:
    """Open a dataset of any dialect; what becomes of damage is told when its rows are read.

    Raises:
        InputError: there is none, or it cannot be told which samples are of which split.
    """
    # As a URL of this machine a directory would be read like a remote one.
    source = config.source.removeprefix("file://")
    try:
        return open_dataset(source, index=config.index, revision=config.revision)
    except DamageError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise InputError(str(error)) from error


def prepare_rows(dataset: EmbeddingDataset, on_error: OnError) -> RowSource:
    """Read the index of a dataset that has one.

    One that is damaged, or of other files than there are, is not used where damage is skipped: the
    files themselves are read, so that no row of theirs is lost without a word.

    Raises:
        DamageError: it is damaged, and `on_error` is `raise`.
        InputError: it is of other files than there are, and `on_error` is `raise`.
    """
    if not dataset.needs_index:
        return RowSource(dataset, {})
    try:
        len(dataset.index)
    except (ValueError, FileNotFoundError) as error:
        if on_error == "skip":
            log.warning("skipped: %s", error)
            return (
                leave_out_parquet(dataset)
                if dataset.layout.kind == "parquet"
                else leave_out_index(dataset)
            )
        if isinstance(error, DamageError):
            raise
        raise InputError(str(error)) from error
    return RowSource(dataset, {})


def leave_out_index(dataset: EmbeddingDataset) -> RowSource:
    """Return a dataset of tars or loose files without its index."""
    return RowSource(open_layout(replace(dataset.layout, index=None)), {})


def leave_out_parquet(dataset: EmbeddingDataset) -> RowSource:
    """Return a dataset of Parquet files without those that cannot be read.

    Raises:
        DamageError: none of them can be read.
    """
    lost: dict[str, list[Damage]] = {}
    files: dict[str, list[str]] = {}
    for split, group in dataset.layout.files.items():
        for path in group:
            error = find_damage(path)
            if error is None:
                files.setdefault(split, []).append(path)
            else:
                row = lost_file(error, split, PurePosixPath(path).stem)
                lost.setdefault(split, []).append(row)
    if not files:
        raise next(iter(lost.values()))[0].error
    return RowSource(open_layout(replace(dataset.layout, files=files)), lost)


def find_damage(path: str) -> DamageError | None:
    """Return why a Parquet file cannot be read, if it cannot."""
    try:
        read_parquet_columns(path, on_error="raise")
    except DamageError as error:
        return error
    return None


def open_layout(layout: Layout) -> EmbeddingDataset:
    """Open the dataset of a layout that was read before."""
    return EmbeddingDataset(OpenSource(layout, "raise"), tuple(layout.files))


def read_own_manifest(layout: Layout) -> dict[str, Any] | None:
    """Return the manifest of a source that was made here, or None."""
    if not layout.root:
        return None
    manifest = parse_manifest(read_text(layout.root, MANIFEST_NAME), layout.root)
    return manifest if manifest.get("format") == FORMAT_NAME else None


def list_source(layout: Layout) -> dict[str, dict[str, Any]]:
    """Return what is known of each file of a source that is not hidden, sizes included."""
    paths = {layout.relative(path): path for group in layout.files.values() for path in group}
    listing = list_files(layout.root) if layout.root else {}
    hidden = [name for name in listing if any(part.startswith(".") for part in name.split("/"))]
    known = {name: dict(info) for name, info in listing.items() if name not in hidden}
    for name, path in paths.items():
        # Web servers list names alone.
        if read_size(known.get(name, {})) is None:
            known[name] = describe_file(path)
    return known


def read_size(info: Mapping[str, Any]) -> int | None:
    """Return the bytes of a file, as a file system or a manifest has them."""
    size = info.get("size", info.get("bytes"))
    return None if size is None else int(size)


def count_steps(source: RowSource) -> tuple[int, str]:
    """Return how many steps reading all rows takes, and of what: samples or files."""
    if source.dataset.needs_index:
        return len(source.dataset), "samples"
    return sum(map(len, source.dataset.layout.files.values())), "files"


def read_rows(
    source: RowSource, split: str, advance: Advance, *, check: Check = lambda _: None
) -> Iterator[Row]:
    """Yield every row of a split in order.

    Args:
        source: what is read.
        split: `train`, `validation` or `test`; one that is not there has no rows.
        advance: is told of the steps that are done.
        check: returns what is wrong with a sample that could be read, or None; it is damage then.
    """
    layout = source.dataset.layout
    if source.dataset.needs_index:
        yield from read_indexed(source.dataset, split, advance, check)
    else:
        scan = scan_tar if layout.kind == "tars" else scan_triple
        for path in layout.files.get(split, ()):
            yield from scan(path, split, check)
            advance(1)
    yield from source.lost.get(split, ())


def read_indexed(
    dataset: EmbeddingDataset, split: str, advance: Advance, check: Check
) -> Iterator[Row]:
    """Yield the rows of a split by the index, which knows of damaged ones whose they are."""
    index = dataset.index
    for block, results in dataset.read_blocks(index.rows_of(split)):
        for place, found in enumerate(make_samples(index, block, results)):
            if isinstance(found, DamageError):
                error: DamageError | None = found
            else:
                error = check_row(dataset, block, place, check(found))
            if error is not None:
                yield Damage(error, clip_of_block(block, place, split))
            elif isinstance(found, Sample):
                yield found
        advance(len(results))


def check_row(
    dataset: EmbeddingDataset, block: Block, place: int, fault: str | None
) -> DamageError | None:
    """Return the fault of one row of an index, if it has one, as damage."""
    if fault is None:
        return None
    index, row = dataset.index, block.rows[place]
    path, key = index.files[index.file_numbers[row]], block.column("key")[place]
    offset = None if dataset.layout.kind == "parquet" else int(index.begins[row])
    return DamageError(path, key, offset, fault)


def clip_of_block(block: Block, place: int, split: str) -> Clip:
    """Return whose one row of an index is."""
    names = ("key", "caption", "youtube_id", "time_start", "time_end")
    key, caption, youtube_id, start, end = (block.column(name)[place] for name in names)
    return Clip(split, youtube_id or key, start, end, caption or None, caption)
