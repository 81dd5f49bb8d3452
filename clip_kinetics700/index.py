"""The index of a dataset: one row per sample, all of it but the embeddings, and where those lie.

In: a `Layout`. Out: an `Index`, from `index.parquet` where there is one, else by reading every
file once. What is selected, shuffled and looked up is rows of it.
"""

import logging
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .features import INDEX_SCHEMA, SAMPLE_COLUMNS
from .files import is_gzip_name, open_stream, read_if_there, read_whole
from .layout import Layout
from .schema import SPLITS, DamageError, OnError, Sample, decode_sample, report_damage
from .shards import PlacedSample, scan_shard
from .tars import BLOCK, ZERO_BLOCK

logger = logging.getLogger(__name__)

IntArray = npt.NDArray[np.int64]

SAMPLE_SCHEMA = pa.schema([INDEX_SCHEMA.field(name) for name in SAMPLE_COLUMNS])
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


def load_index(layout: Layout, *, on_error: OnError) -> Index:
    """Return the index of a source, read from its file or made by reading the source.

    Raises:
        DamageError: a sample, a file or the index is damaged, and `on_error` is `raise`.
        ValueError: the index is of other files than there are.
    """
    if layout.kind == "parquet":
        return index_parquet(layout)
    if layout.index is not None:
        return read_index(layout, layout.index)
    logger.warning(
        "%s has no index: all of it is read to learn what is where; "
        "`clip-kinetics700 index SOURCE` writes one",
        layout.root or "the source",
    )
    pieces = scan_pieces(layout, on_error=on_error)
    return make_index(layout, pa.concat_tables([INDEX_SCHEMA.empty_table(), *pieces]))


def read_index(layout: Layout, path: str) -> Index:
    """Return the index from its file.

    Raises:
        DamageError: it cannot be read or is not one.
        ValueError: it is of other files than there are.
    """
    try:
        table = pq.read_table(pa.BufferReader(read_whole(path)), columns=INDEX_SCHEMA.names)
        table = table.select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA)
    except (pa.ArrowException, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DamageError(path, None, None, f"is no index: {reason}") from error
    index = make_index(layout, table)
    check_complete(layout, index, path)
    return index


def make_index(layout: Layout, table: pa.Table) -> Index:
    """Return the index of a table of `INDEX_SCHEMA`.

    Raises:
        ValueError: it has a row without a place, or of a split that is none.
    """
    table = table.combine_chunks()
    if any(table.column(name).null_count for name in ("split", "tar_file", "npy_offset")):
        raise ValueError(f"{layout.root}: the index has rows without a tar")
    splits = pc.index_in(table.column("split"), pa.array(SPLITS))
    if splits.null_count:
        raise ValueError(f"{layout.root}: the index names splits other than {', '.join(SPLITS)}")
    tars = table.column("tar_file").combine_chunks().dictionary_encode()
    tars = tars.combine_chunks() if isinstance(tars, pa.ChunkedArray) else tars
    prefix = f"{layout.root}/" if layout.root else ""
    begins = table.column("npy_offset").to_numpy()
    return Index(
        samples=table.select(SAMPLE_COLUMNS),
        split_numbers=splits.to_numpy().astype(np.int8),
        files=tuple(prefix + name for name in tars.dictionary.to_pylist()),
        file_numbers=tars.indices.to_numpy(),
        begins=begins,
        ends=begins + table.column("npy_nbytes").to_numpy(),
    )


def check_complete(layout: Layout, index: Index, path: str) -> None:
    """Refuse an index that knows nothing of a tar that is there, or knows one that is not.

    Raises:
        ValueError: it does; samples would be lost without a word.
    """
    there = {file for group in layout.files.values() for file in group}
    gone = sorted(set(index.files) - there)
    if gone:
        raise ValueError(f"{path} names {layout.relative(gone[0])}, which is not there")
    unknown = sorted(there - set(index.files))
    if layout.kind == "loose" or all(map(is_empty_tar, unknown)):
        return
    raise ValueError(
        f"{path} knows nothing of {layout.relative(unknown[0])}; "
        "`clip-kinetics700 index SOURCE` writes it anew"
    )


def is_empty_tar(path: str) -> bool:
    """Tell whether a tar begins with its end mark, as upstream's last one may."""
    with open_stream(path) as stream:
        return not is_gzip_name(path) and stream.read(BLOCK) == ZERO_BLOCK


def index_parquet(layout: Layout) -> Index:
    """Return the index of Parquet files: their columns but the embeddings."""
    tables, numbers, counts, files = [], [], [], []
    for split, group in layout.files.items():
        for path in group:
            table = read_parquet_columns(path)
            tables.append(table)
            counts.append(table.num_rows)
            numbers.append(SPLITS.index(split))
            files.append(path)
    begins = np.concatenate([np.arange(count, dtype=np.int64) for count in counts])
    return Index(
        samples=pa.concat_tables(tables).combine_chunks(),
        split_numbers=np.repeat(np.array(numbers, np.int8), counts),
        files=tuple(files),
        file_numbers=np.repeat(np.arange(len(files), dtype=np.int32), counts),
        begins=begins,
        ends=begins + 1,
    )


def read_parquet_columns(path: str) -> pa.Table:
    """Return caption and meta of a Parquet file as `SAMPLE_SCHEMA`.

    Raises:
        DamageError: it cannot be read or has other columns.
    """
    try:
        with open_stream(path) as stream:
            table = pq.read_table(stream, columns=["caption", "meta"])
        captions = table.column("caption").combine_chunks()
        meta = table.column("meta").combine_chunks()
        fields = [captions, *(pc.struct_field(meta, name) for name in SAMPLE_COLUMNS[1:])]
        return pa.table([*fields], names=list(SAMPLE_COLUMNS)).cast(SAMPLE_SCHEMA)
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise DamageError(path, None, None, " ".join(str(error).split())) from error


def scan_pieces(layout: Layout, *, on_error: OnError) -> Iterator[pa.Table]:
    """Yield the index of a source in pieces, by reading all of its samples.

    Raises:
        DamageError: a sample or a file is damaged, and `on_error` is `raise`.
    """
    rows: list[dict[str, Any]] = []
    for scanned in scan_samples(layout, on_error=on_error):
        rows.append(scanned.row())
        if len(rows) == ROWS_PER_PIECE:
            yield make_piece(rows, on_error)
            rows = []
    if rows:
        yield make_piece(rows, on_error)


def make_piece(rows: list[dict[str, Any]], on_error: OnError) -> pa.Table:
    """Return rows as a table; one that does not fit its columns is damage.

    Raises:
        DamageError: there is such a row, and `on_error` is `raise`.
    """
    try:
        return pa.Table.from_pylist(rows, INDEX_SCHEMA)
    except (pa.ArrowException, OverflowError) as error:
        if len(rows) == 1:
            row = rows[0]
            reason = " ".join(str(error).split())
            report_damage(
                DamageError(row["tar_file"], row["key"], row["npy_offset"], reason), on_error
            )
            return INDEX_SCHEMA.empty_table()
    middle = len(rows) // 2
    halves = [make_piece(half, on_error) for half in (rows[:middle], rows[middle:])]
    return pa.concat_tables(halves)


def scan_samples(layout: Layout, *, on_error: OnError) -> Iterator[ScannedSample]:
    """Yield all samples of tars or of loose files in order, each with its place.

    Raises:
        DamageError: a sample or a file is damaged, and `on_error` is `raise`.
    """
    for split, group in layout.files.items():
        for path in group:
            scan = scan_shard if layout.kind == "tars" else scan_loose
            for placed in scan(path, on_error=on_error):
                yield ScannedSample(split, layout.relative(path), placed)


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
