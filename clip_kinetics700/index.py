"""The index of a dataset: one row per sample, all of it but the embeddings, and where those lie.

In: a `Layout`. Out: the rows of its samples, by reading every file once; `index_reading` makes the
`Index` of them. What is selected, shuffled and looked up is rows of it.
"""

import logging
import posixpath
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .damage import DamageError, OnError, report_damage
from .features import INDEX_SCHEMA, SAMPLE_COLUMNS
from .layout import Layout
from .remote import MAX_IN_FLIGHT, is_gzip_name, is_remote
from .schema import SPLITS, Sample, decode_sample
from .shards import PlacedSample, scan_shard
from .streams import RangeFile, open_stream, read_if_there, read_whole
from .tars import BLOCK, ZERO_BLOCK

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


logger = logging.getLogger(__name__)

SAMPLE_SCHEMA = pa.schema([INDEX_SCHEMA.field(name) for name in SAMPLE_COLUMNS])
# Remote files are objects of Python's: Arrow's threads must not be the last to hold one, see
# `own_by_arrow`.
RECENT_FILES: deque[pq.ParquetFile] = deque(maxlen=4)
# Of these every row of an index has one.
NEVER_NULL = ("split", "caption", "key", "n_frames", "tar_file", "npy_offset", "npy_nbytes")


def load_index(layout: Layout, *, on_error: OnError) -> Index:
    """Return the index of a source, read from its file or made by reading the source.

    Raises:
        DamageError: a sample, a file or the index is damaged, and `on_error` is `raise`.
        FileNotFoundError: there is no such index.
        ValueError: the index is of other files than there are, and `on_error` is `raise`.
    """
    if layout.kind == "parquet":
        return index_parquet(layout, on_error=on_error)
    if layout.index is not None:
        first_byte = BLOCK if layout.kind == "tars" else 0
        table = read_index(layout.index, first_byte=first_byte, on_error=on_error)
        if table is not None:
            index = make_index(layout, table)
            return check_complete(layout, index, layout.index, on_error=on_error)
    logger.warning(
        "%s has no index: all of it is read to learn what is where; "
        "`clip-kinetics700 index SOURCE` writes one",
        layout.root or "the source",
    )
    pieces = scan_pieces(layout, on_error=on_error)
    table = pa.concat_tables([INDEX_SCHEMA.empty_table(), *pieces])
    return make_index(layout, table.combine_chunks())


def read_index(path: str, *, first_byte: int, on_error: OnError) -> pa.Table | None:
    """Return an index as a table of `INDEX_SCHEMA`, or None where it is damaged and skipped.

    Args:
        path: of the index, or its URL.
        first_byte: where in a file an array may begin.
        on_error: what to do about damage.

    Raises:
        DamageError: it cannot be read or is not one, and `on_error` is `raise`.
        FileNotFoundError: there is no such file.
    """
    data = read_whole(path)
    try:
        table = pq.read_table(own_by_arrow(data), columns=INDEX_SCHEMA.names)
        table = table.select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA).combine_chunks()
        table.validate(full=True)
        check_rows(table, first_byte)
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        report_damage(DamageError(path, None, None, f"is no index: {reason}"), on_error)
        return None
    return table


def check_rows(table: pa.Table, first_byte: int) -> None:
    """Refuse an index that does not say of each row what it is and where it lies.

    Raises:
        ValueError: it does not.
    """
    for name in NEVER_NULL:
        if table.column(name).null_count:
            raise ValueError(f"it has rows without {name}")
    if table.column("timestamps").combine_chunks().flatten().null_count:
        raise ValueError("it has timestamps that are missing")
    if pc.index_in(table.column("split"), pa.array(SPLITS)).null_count:
        raise ValueError(f"it names splits other than {', '.join(SPLITS)}")
    for name, least in (("npy_offset", first_byte), ("npy_nbytes", 0)):
        if table.num_rows and pc.min(table.column(name)).as_py() < least:
            raise ValueError(f"it has rows whose {name} is below {least}")


def make_index(layout: Layout, table: pa.Table) -> Index:
    """Return the index of a table of `INDEX_SCHEMA` in one chunk; what the layout knows counts."""
    tars = table.column("tar_file").combine_chunks().dictionary_encode()
    tars = tars.combine_chunks() if isinstance(tars, pa.ChunkedArray) else tars
    files = tuple(layout.path(name) for name in tars.dictionary.to_pylist())
    file_numbers = tars.indices.to_numpy()
    splits = pc.index_in(table.column("split"), pa.array(SPLITS)).to_numpy().astype(np.int8)
    begins = table.column("npy_offset").to_numpy()
    return Index(
        samples=table.select(SAMPLE_COLUMNS),
        split_numbers=splits,
        files=files,
        file_numbers=file_numbers,
        begins=begins,
        ends=begins + table.column("npy_nbytes").to_numpy(),
    )


def check_complete(layout: Layout, index: Index, path: str, *, on_error: OnError) -> Index:
    """Return an index whose splits are the source's, if it is of the files that there are.

    Raises:
        ValueError: it knows nothing of a tar that is there, knows one that is not or in another
            split, and `on_error` is `raise`; samples would be lost without a word.
    """
    split_of_file = {file: split for split, group in layout.files.items() for file in group}
    split_numbers = index.split_numbers.copy()
    faults = []
    codes = np.unique(index.file_numbers.astype(np.int64) * len(SPLITS) + index.split_numbers)
    for number, split_number in (divmod(code, len(SPLITS)) for code in codes.tolist()):
        name, split = layout.relative(index.files[number]), SPLITS[split_number]
        there = split_of_file.get(index.files[number])
        if there is None:
            faults.append(f"names {name}, which is not there")
        elif there != split:
            faults.append(f"has {name} in {split}, but it is in {there}")
            split_numbers[index.file_numbers == number] = SPLITS.index(there)
    unknown = set() if layout.kind == "loose" else set(split_of_file) - set(index.files)
    faults += [
        f"knows nothing of {layout.relative(file)}; `clip-kinetics700 index SOURCE` writes it anew"
        for file in sorted(unknown)
        if not is_empty_tar(file)
    ]
    for fault in faults:
        if on_error == "raise":
            raise ValueError(f"{path} {fault}")
        logger.warning("skipped: %s %s", path, fault)
    return replace(index, split_numbers=split_numbers)


def own_by_arrow(data: bytes) -> pa.BufferReader:
    """Return bytes as a file in Arrow's own memory.

    Its threads may be the last to let go of what they have read. When that is an object of
    Python's and Python is ending at that moment, the process aborts.
    """
    buffer = pa.allocate_buffer(len(data))
    memoryview(buffer).cast("B")[:] = data
    return pa.BufferReader(buffer)


def is_empty_tar(path: str) -> bool:
    """Tell whether a tar begins with its end mark, as upstream's last one may."""
    with open_stream(path) as stream:
        return not is_gzip_name(path) and stream.read(BLOCK) == ZERO_BLOCK


def index_parquet(layout: Layout, *, on_error: OnError) -> Index:
    """Return the index of Parquet files: their columns but the embeddings.

    Raises:
        DamageError: one cannot be read, and `on_error` is `raise`.
    """
    files = [path for group in layout.files.values() for path in group]
    numbers = [SPLITS.index(split) for split, group in layout.files.items() for _ in group]
    # Each takes a few requests, one after the other.
    with ThreadPoolExecutor(MAX_IN_FLIGHT) as pool:
        tables = list(pool.map(partial(read_parquet_columns, on_error=on_error), files))
    counts = [table.num_rows for table in tables]
    begins = np.concatenate([np.arange(count, dtype=np.int64) for count in counts])
    return Index(
        samples=pa.concat_tables(tables).combine_chunks(),
        split_numbers=np.repeat(np.array(numbers, np.int8), counts),
        files=tuple(files),
        file_numbers=np.repeat(np.arange(len(files), dtype=np.int32), counts),
        begins=begins,
        ends=begins + 1,
    )


def read_parquet_columns(path: str, *, on_error: OnError) -> pa.Table:
    """Return caption and meta of a Parquet file as `SAMPLE_SCHEMA`, none where it is skipped.

    Raises:
        ConnectionError: it cannot be fetched.
        DamageError: it cannot be read or has other columns, and `on_error` is `raise`.
    """
    try:
        source = RangeFile(path) if is_remote(path) else path
        file = pq.ParquetFile(source, pre_buffer=True)
        RECENT_FILES.append(file)
        table = file.read(["caption", "meta"])
        captions = table.column("caption").combine_chunks()
        meta = table.column("meta").combine_chunks()
        fields = [captions, *(pc.struct_field(meta, name) for name in SAMPLE_COLUMNS[1:])]
        table = pa.table([*fields], names=list(SAMPLE_COLUMNS)).cast(SAMPLE_SCHEMA)
        table.validate(full=True)
        for name in ("key", "caption", "n_frames"):
            if table.column(name).null_count:
                raise ValueError(f"it has rows without {name}")
        if table.column("timestamps").combine_chunks().flatten().null_count:
            raise ValueError("it has timestamps that are missing")
        return table
    except ConnectionError:
        raise
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        report_damage(DamageError(path, None, None, reason), on_error)
        return SAMPLE_SCHEMA.empty_table()
