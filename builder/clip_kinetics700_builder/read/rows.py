"""Any dataset that the reader opens gives its rows in order: samples, or what is damaged there.

A source with an index is read by it, another one file by file in constant memory. Nothing is
passed over: what becomes of damage is the caller's to say.
"""

import json
import logging
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from clip_kinetics700.arrays import make_samples
from clip_kinetics700.damage import DamageError, OnError, report_damage
from clip_kinetics700.dataset import EmbeddingDataset, OpenSource, open_dataset
from clip_kinetics700.index import Block, read_parquet_columns
from clip_kinetics700.layout import Layout, describe_file, list_files
from clip_kinetics700.manifest import parse_manifest
from clip_kinetics700.schema import (
    MANIFEST_NAME,
    Sample,
    decode_sample,
    encode_npy,
    parse_json,
)
from clip_kinetics700.shards import PlacedSample, scan_loose, scan_tar, tar_stem
from clip_kinetics700.streams import MAX_TEXT_BYTES, read_if_there
from clip_kinetics700_builder.config import SourceConfig
from clip_kinetics700_builder.dataset.manifest import FORMAT_FAMILY, Manifest, check_manifest
from clip_kinetics700_builder.parts.part import group_by_bytes
from clip_kinetics700_builder.system.progress import Advance
from clip_kinetics700_builder.types import Clip, InputError

SAMPLES_PER_BATCH = 128
# A batch of very long videos is closed early, so that memory stays bounded.
BYTES_PER_BATCH = 16 << 20

Check: TypeAlias = Callable[[Sample], str | None]
"""Returns what is wrong with a sample that could be read, or None."""
# Stands in for an array that cannot be read, so that the rest of its sample can.
NO_FRAMES = encode_npy(np.empty((0, 1), np.float16))


class Damage(NamedTuple):
    """A row that cannot be read, and whose it is."""

    error: DamageError
    clip: Clip
    """What can be told of it; at least its split, and its key in place of the video's id."""


Row: TypeAlias = Sample | Damage


def read_tar(path: str, split: str, check: Check) -> Iterator[Row]:
    """Yield the rows of one tar; where it is damaged itself, that is its last row."""
    for found in scan_tar(path, path):
        if isinstance(found, PlacedSample):
            yield check_sample(found.sample, path, found.npy_offset, split, check)
        elif found.error.key is None:
            yield lost_file(found.error, split, tar_stem(path))
        else:
            yield Damage(found.error, guess_clip(split, found.error.key, found.members))


def check_sample(sample: Sample, path: str, offset: int | None, split: str, check: Check) -> Row:
    """Return a sample of a file, or its damage if something is wrong with it."""
    fault = check(sample)
    if fault is None:
        return sample
    return Damage(DamageError(path, sample.key, offset, fault), clip_of_sample(sample, split))


def guess_clip(split: str, key: str, members: dict[str, bytes | memoryview]) -> Clip:
    """Return whose a damaged sample is, where its text and its json still tell."""
    try:
        document = parse_json(members.get("json", b"{}"))
        # There are as many timestamps as frames, and these are not there.
        document.pop("timestamps", None)
        rest = {**members, "npy": NO_FRAMES, "json": json.dumps(document).encode()}
        return clip_of_sample(decode_sample(key, rest), split)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return Clip(split, key, None, None, None, "")


def read_triple(path: str, split: str, check: Check) -> Iterator[Row]:
    """Yield the one row of a `NAME.npy` with what lies beside it."""
    try:
        for sample, _, _ in scan_loose(path, on_error="raise"):
            yield check_sample(sample, path, None, split, check)
    except DamageError as error:
        yield lost_file(error, split, error.key or posixpath.basename(path))


def clip_of_sample(sample: Sample, split: str) -> Clip:
    """Return whose a sample is."""
    return Clip(
        split=split,
        video_id=sample.youtube_id or sample.key,
        time_start=sample.time_start,
        time_end=sample.time_end,
        label=sample.caption or None,
        caption=sample.caption,
    )


def lost_file(error: DamageError, split: str, name: str) -> Damage:
    """Return the row that stands for a file, or for the rest of one, that cannot be read."""
    return Damage(error, Clip(split, name, None, None, None, ""))


log = logging.getLogger(__name__)


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
            if dataset.layout.kind == "parquet":
                return leave_out_parquet(dataset)
            return RowSource(open_layout(replace(dataset.layout, index=None)), {})
        if isinstance(error, DamageError):
            raise
        raise InputError(str(error)) from error
    return RowSource(dataset, {})


def leave_out_parquet(dataset: EmbeddingDataset) -> RowSource:
    """Return a dataset of Parquet files without those that cannot be read, if any is left."""
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


def read_own_manifest(layout: Layout) -> Manifest | None:
    """Return the manifest of a source that was made here, or None.

    Raises:
        ManifestError: it is not as it was written.
    """
    path = f"{layout.root}/{MANIFEST_NAME}"
    data = read_if_there(path, at_most=MAX_TEXT_BYTES) if layout.root else None
    if data is None:
        return None
    found = parse_manifest(str(data, "utf-8", "replace"), layout.root).get("format")
    # Others call other files so.
    return check_manifest(data, layout.root) if str(found).startswith(FORMAT_FAMILY) else None


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
    """Yield every row of a split in order, none of a split that is not there.

    A sample that could be read, but that `check` finds something wrong with, is damage.
    """
    layout = source.dataset.layout
    if source.dataset.needs_index:
        yield from read_indexed(source.dataset, split, advance, check)
    else:
        read = read_tar if layout.kind == "tars" else read_triple
        for path in layout.files.get(split, ()):
            yield from read(path, split, check)
            advance(1)
    yield from source.lost.get(split, ())


def read_indexed(
    dataset: EmbeddingDataset, split: str, advance: Advance, check: Check
) -> Iterator[Row]:
    """Yield the rows of a split by the index, which knows of damaged ones whose they are."""
    index, is_parquet = dataset.index, dataset.layout.kind == "parquet"
    for block, results in dataset.read_blocks(index.rows_of(split)):
        places = zip(index.file_numbers[block.rows], index.begins[block.rows], strict=True)
        found = zip(make_samples(index, block, results), places, strict=True)
        for row, (sample, (number, begin)) in enumerate(found):
            if isinstance(sample, DamageError):
                yield Damage(sample, clip_of_block(block, row, split))
            else:
                offset = None if is_parquet else int(begin)
                yield check_sample(sample, index.files[number], offset, split, check)
        advance(len(results))


def clip_of_block(block: Block, place: int, split: str) -> Clip:
    """Return whose one row of an index is."""
    names = ("key", "caption", "youtube_id", "time_start", "time_end")
    key, caption, youtube_id, start, end = (block.column(name)[place] for name in names)
    return Clip(split, youtube_id or key, start, end, caption or None, caption)


def batch_samples(
    rows: Iterable[Row], on_error: OnError, note: Callable[[Damage], None]
) -> Iterator[list[Sample]]:
    """Yield the samples of rows in batches of bounded size; raise damage, or skip and note it."""

    def leave_out_damage() -> Iterator[Sample]:
        for row in rows:
            if isinstance(row, Sample):
                yield row
            else:
                report_damage(row.error, on_error)
                note(row)

    return group_by_bytes(leave_out_damage(), BYTES_PER_BATCH, max_items=SAMPLES_PER_BATCH)
