"""The index of a dataset: one row per sample, all of it but the embeddings, and where those lie.

In: a `Layout`. Out: the rows of its samples, by reading every file once; `index_reading` makes the
`Index` of them. What is selected, shuffled and looked up is rows of it.
"""

import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .damage import DamageError, OnError, report_damage
from .features import INDEX_SCHEMA
from .layout import Layout
from .schema import SPLITS, Sample, decode_sample
from .shards import PlacedSample, scan_shard
from .streams import read_if_there, read_whole

IntArray = npt.NDArray[np.int64]

ROWS_PER_PIECE = 10_000


class ScannedSample(NamedTuple):
    """A sample of a file that was read, and what the index says of it."""

    split: str
    file: str
    """Name relative to the source's root."""
    placed: PlacedSample

    def row(self) -> dict[str, Any]:
        """Return the sample's row of the index."""
        return index_row(self.split, self.placed.sample, self.file, self.placed[1:])


@dataclass(eq=False)
class Block:
    """Some rows of an index, their columns turned into Python values when asked for."""

    rows: IntArray
    """(n,) row numbers."""
    samples: pa.Table
    """Caption and meta of these rows."""
    _columns: dict[str, list[Any]] = field(default_factory=dict)

    def column(self, name: str) -> list[Any]:
        """Return the values of a column, one a row."""
        values = self._columns.get(name)
        if values is None:
            values = self._columns[name] = column_list(self.samples.column(name))
        return values


@dataclass(frozen=True, eq=False)
class Index:
    """The rows of a dataset in order, and the file and bytes of each one's embeddings."""

    samples: pa.Table
    """Caption and meta, `SAMPLE_SCHEMA`."""
    split_numbers: npt.NDArray[np.int8]
    """(n,) positions in `SPLITS`."""
    files: tuple[str, ...]
    """Paths or URLs of the files that hold embeddings."""
    file_numbers: npt.NDArray[np.int32]
    """(n,) positions in `files`."""
    begins: IntArray
    """(n,) first byte of the `.npy`; in a Parquet file, the row."""
    ends: IntArray
    """(n,) byte after the `.npy`; in a Parquet file, the row after."""

    def __len__(self) -> int:
        """Count the samples."""
        return int(self.samples.num_rows)

    def take(self, rows: IntArray) -> Block:
        """Return some rows; those that follow each other cost no copy."""
        first, n_rows = (int(rows[0]) if len(rows) else 0), len(rows)
        if np.array_equal(rows, np.arange(first, first + n_rows)):
            return Block(rows, self.samples.slice(first, n_rows))
        return Block(rows, self.samples.take(pa.array(rows)))

    def rows_of(self, split: str) -> IntArray:
        """Return the rows of a split in order."""
        return np.flatnonzero(self.split_numbers == SPLITS.index(split))

    @cached_property
    def rows_by_key(self) -> dict[str, list[int]]:
        """Return the rows of each key; upstream's tars may repeat one."""
        rows: dict[str, list[int]] = {}
        for row, key in enumerate(column_list(self.samples.column("key"))):
            rows.setdefault(key, []).append(row)
        return rows


def index_row(
    split: str, sample: Sample, file: str | None, place: tuple[int | None, int | None]
) -> dict[str, Any]:
    """Return a sample's row of the index: offset and size of its `.npy` are its place."""
    offset, nbytes = place
    return {
        "split": split,
        "caption": sample.caption,
        **sample.meta,
        "tar_file": file,
        "npy_offset": offset,
        "npy_nbytes": nbytes,
    }


def scan_pieces(layout: Layout, *, on_error: OnError) -> Iterator[pa.Table]:
    """Yield the index of a source in pieces, by reading all of its samples.

    Raises:
        DamageError: a sample or a file is damaged, and `on_error` is `raise`.
    """
    rows: list[dict[str, Any]] = []
    for scanned in scan_samples(layout, on_error=on_error):
        rows.append(scanned.row())
        if len(rows) == ROWS_PER_PIECE:
            yield make_piece(rows, on_error, path_of=layout.path)
            rows = []
    if rows:
        yield make_piece(rows, on_error, path_of=layout.path)


def make_piece(
    rows: list[dict[str, Any]], on_error: OnError, *, path_of: Callable[[str], str] = str
) -> pa.Table:
    """Return rows as a table; one that does not fit its columns is damage.

    Args:
        rows: of the index.
        on_error: what to do about damage.
        path_of: makes a path to be named with damage of what a row calls its file.

    Raises:
        DamageError: there is such a row, and `on_error` is `raise`.
    """
    try:
        return pa.Table.from_pylist(rows, INDEX_SCHEMA)
    except (pa.ArrowException, OverflowError, UnicodeError) as error:
        if len(rows) == 1:
            row = rows[0]
            reason = " ".join(str(error).split())
            path = path_of(row["tar_file"])
            report_damage(DamageError(path, row["key"], row["npy_offset"], reason), on_error)
            return INDEX_SCHEMA.empty_table()
    middle = len(rows) // 2
    halves = [make_piece(r, on_error, path_of=path_of) for r in (rows[:middle], rows[middle:])]
    return pa.concat_tables(halves)


def scan_samples(layout: Layout, *, on_error: OnError) -> Iterator[ScannedSample]:
    """Yield all samples of tars or of loose files in order, each with its place.

    Raises:
        DamageError: a sample or a file is damaged or gone, and `on_error` is `raise`.
    """
    scan = scan_shard if layout.kind == "tars" else scan_loose
    for split, group in layout.files.items():
        for path in group:
            for placed in report_gone(scan(path, on_error=on_error), path, on_error):
                yield ScannedSample(split, layout.relative(path), placed)


def report_gone(
    samples: Iterator[PlacedSample], path: str, on_error: OnError
) -> Iterator[PlacedSample]:
    """Yield the samples of a file; one that was listed and is not there is damage.

    Raises:
        DamageError: it is gone, and `on_error` is `raise`.
    """
    try:
        yield from samples
    except FileNotFoundError:
        report_damage(DamageError(path, None, None, "the file is not there"), on_error)


def scan_loose(path: str, *, on_error: OnError) -> Iterator[PlacedSample]:
    """Yield the one sample of a `NAME.npy` with a `NAME.txt` and a `NAME.json` beside it.

    Raises:
        DamageError: it cannot be read, and `on_error` is `raise`.
    """
    stem, _ = posixpath.splitext(path)
    beside = {
        extension: read_if_there(f"{stem}.{extension}") for extension in ("json", "txt", "cap")
    }
    members = {"npy": read_whole(path)} | {
        name: data for name, data in beside.items() if data is not None
    }
    key = posixpath.basename(stem)
    try:
        sample = decode_sample(key, members)
    except ValueError as error:
        reason = str(error).removeprefix(f"sample {key}: ")
        report_damage(DamageError(path, key, None, reason), on_error)
        return
    yield PlacedSample(sample, 0, len(members["npy"]))


def column_list(column: pa.ChunkedArray) -> list[Any]:
    """Return a column as Python values, many times faster than `to_pylist`."""
    dtype = column.type
    if column.null_count == len(column):
        return [None] * len(column)
    if pa.types.is_string(dtype) or (not column.null_count and not pa.types.is_nested(dtype)):
        return list(column.to_numpy(zero_copy_only=False).tolist())
    if pa.types.is_list(dtype):
        return [value for chunk in column.chunks for value in _split_lists(chunk)]
    return list(column.to_pylist())


def _split_lists(lists: pa.ListArray) -> list[npt.NDArray[Any] | None]:
    """Return each list of numbers as a view of their common array, a missing one as None."""
    offsets = lists.offsets.to_numpy().tolist()
    values = lists.values.to_numpy()
    valid = lists.is_valid().to_numpy(zero_copy_only=False).tolist()
    return [
        values[begin:end] if is_there else None
        for begin, end, is_there in zip(offsets, offsets[1:], valid, strict=False)
    ]
