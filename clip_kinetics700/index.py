"""Makes and reads the index: what a dataset knows about each sample, and where its array lies.

An index has one row for each sample. Samples are selected, shuffled and looked up by these rows, so
that no array is read that is not wanted.
"""

import logging
import posixpath
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .damage import DamageError, OnError, report_damage
from .features import INDEX_SCHEMA, SAMPLE_COLUMNS, column_list
from .hub import HUB_PREFIX, parse_repository_url
from .layout import MAX_DEPTH, Layout
from .parquet import DAMAGE_ERRORS, ParquetSource, describe_damage, read_bytes
from .remote import MAX_IN_FLIGHT, strip_query
from .schema import INDEX_NAME, SPLITS, Sample
from .shards import PlacedSample, is_empty_tar, scan_loose, scan_shard
from .states import FileStates
from .streams import MAX_WHOLE_BYTES, read_whole
from .tars import BLOCK

logger = logging.getLogger(__name__)

IntArray = npt.NDArray[np.int64]

ROWS_PER_PIECE = 10_000
# No file system holds files of an exabyte.
MAX_OFFSET = 1 << 60
SAMPLE_SCHEMA = pa.schema([INDEX_SCHEMA.field(name) for name in SAMPLE_COLUMNS])
# These columns have a value in each row: of a Parquet file, and of an index.
NEVER_NULL_OF_SAMPLES = ("caption", "key", "n_frames")
NEVER_NULL = ("split", *NEVER_NULL_OF_SAMPLES, "tar_file", "npy_offset", "npy_nbytes")


class Block:
    """Some rows of an index, whose columns become Python values when they are asked for."""

    def __init__(self, rows: IntArray, table: pa.Table, places: pa.Array | None = None) -> None:
        """Take (n,) int64 row numbers, and a table of these rows, or of others and the places."""
        self.rows = rows
        self._table, self._places = table, places
        self._columns: dict[str, list[Any]] = {}

    @property
    def samples(self) -> pa.Table:
        """Caption and meta of these rows."""
        return self._table if self._places is None else self._table.take(self._places)

    def column(self, name: str) -> list[Any]:
        """Return the values of a column, one for each row."""
        values = self._columns.get(name)
        if values is None:
            column = self._table.column(name)
            if self._places is not None:
                column = column.take(self._places)
            values = self._columns[name] = column_list(column)
        return values


@dataclass(frozen=True, eq=False)
class Index:
    """The rows of a dataset in order, and the file and bytes of each one's embeddings."""

    samples: pa.Table
    """Caption and meta, `SAMPLE_SCHEMA`."""
    splits: tuple[str, ...]
    """Names of the splits that rows may be of."""
    split_numbers: npt.NDArray[np.int8]
    """(n,) int8 positions in `splits`."""
    files: tuple[str, ...]
    """Paths or URLs of the files that hold embeddings."""
    file_numbers: npt.NDArray[np.int32]
    """(n,) int32 positions in `files`."""
    begins: IntArray
    """(n,) int64 first byte of the `.npy`; in a Parquet file, the row."""
    ends: IntArray
    """(n,) int64 byte after the `.npy`; in a Parquet file, the row after."""
    states: FileStates
    """States of the files, as they were when the source was opened."""

    def __len__(self) -> int:
        return int(self.samples.num_rows)

    def take(self, rows: IntArray) -> Block:
        """Return some rows, without a copy if they follow each other."""
        first, n_rows = (int(rows[0]) if len(rows) else 0), len(rows)
        if n_rows < 2 or np.array_equal(rows, np.arange(first, first + n_rows)):
            return Block(rows, self.samples.slice(first, n_rows))
        return Block(rows, self.samples, pa.array(rows))

    def keep(self, is_kept: npt.NDArray[np.bool_]) -> "Index":
        """Return the index of some rows, which (n,) bool tell."""
        return replace(
            self,
            samples=self.samples.filter(pa.array(is_kept)).combine_chunks(),
            split_numbers=self.split_numbers[is_kept],
            file_numbers=self.file_numbers[is_kept],
            begins=self.begins[is_kept],
            ends=self.ends[is_kept],
        )

    def rows_of(self, split: str) -> IntArray:
        """Return the (n,) int64 rows of a split in order, none of one that is not here."""
        number = self.splits.index(split) if split in self.splits else -1
        return np.flatnonzero(self.split_numbers == number)

    @cached_property
    def rows_by_key(self) -> dict[str, list[int]]:
        """The rows of each key; upstream's tars may repeat a key."""
        rows: dict[str, list[int]] = {}
        for row, key in enumerate(column_list(self.samples.column("key"))):
            rows.setdefault(key, []).append(row)
        return rows


def load_index(layout: Layout, *, on_error: OnError) -> Index:
    """Return the index of a source, read from its file or made by reading the source.

    Raises:
        DamageError: a sample, a file or the index is damaged, and `on_error` is `raise`.
        FileNotFoundError: there is no such index.
        ValueError: the index is that of other files, and `on_error` is `raise`.
    """
    if layout.kind == "parquet":
        return index_parquet(layout, on_error=on_error)
    if layout.index is not None:
        first_byte = BLOCK if layout.kind == "tars" else 0
        table = read_index(layout.index, layout.states, first_byte=first_byte, on_error=on_error)
        if table is not None:
            index = make_index(layout, table)
            return check_complete(layout, index, layout.index, on_error=on_error)
    elif not layout.root:
        table = find_index(layout)
        if table is not None:
            return make_index(layout, table)
    logger.warning(
        "%s has no index: all of it is read to learn what is where; "
        "`clip-kinetics700 index SOURCE` writes one",
        layout.root or "the source",
    )
    pieces = scan_pieces(layout, on_error=on_error)
    table = pa.concat_tables([INDEX_SCHEMA.empty_table(), *pieces])
    return make_index(layout, table.combine_chunks())


def find_index(layout: Layout) -> pa.Table | None:
    """Return the index of tars named one by one, out of that of a directory in which they lie.

    There is none where no such directory has an index that knows them all.
    """
    files = [path for group in layout.files.values() for path in group]
    # Behind a query there may be slashes, and no other file can be asked for with it.
    root = "" if files != list(map(strip_query, files)) else files[0]
    for _ in range(MAX_DEPTH):
        root = posixpath.dirname(root)
        if root.startswith(HUB_PREFIX) and parse_repository_url(root) is None:
            break
        if root and all(path.startswith(f"{root}/") for path in files):
            with suppress(OSError):  # there is none, or the server gives none
                path = f"{root}/{INDEX_NAME}"
                table = read_index(path, layout.states, first_byte=BLOCK, on_error="skip")
                return None if table is None else pick_files(layout, table, root)
    return None


def pick_files(layout: Layout, index: pa.Table, root: str) -> pa.Table | None:
    """Return the rows of a directory's index that are of named tars, in the order of these."""
    pairs = [(split, path) for split, group in layout.files.items() for path in group]
    splits, files = zip(*pairs, strict=True)
    names = pa.array([path[len(root) + 1 :] for path in files])
    numbers = pc.fill_null(pc.index_in(index.column("tar_file"), names), -1).to_numpy()
    missing = np.setdiff1d(np.arange(len(files)), numbers)
    if any(not is_empty_tar(files[number]) for number in missing):
        return None
    order = np.argsort(numbers, kind="stable")[np.count_nonzero(numbers < 0) :]
    picked = index.take(pa.array(order))
    for name, values in (("split", splits), ("tar_file", files)):
        column = pa.array(values).take(pa.array(numbers[order]))
        picked = picked.set_column(INDEX_SCHEMA.get_field_index(name), name, column)
    return picked.combine_chunks()


def read_index(
    path: str, states: FileStates, *, first_byte: int, on_error: OnError
) -> pa.Table | None:
    """Return an index as a table of `INDEX_SCHEMA`, or None where it is damaged and skipped.

    No array can begin before `first_byte` of its file.

    Raises:
        DamageError: it cannot be read or is not one, and `on_error` is `raise`.
        FileNotFoundError: there is no such file.
    """
    try:
        data = read_whole(path, states)
    except ValueError as error:  # it has changed, or is no file that ends
        report_damage(DamageError(path, None, None, str(error)), on_error)
        return None
    try:
        table = read_bytes(data, INDEX_SCHEMA.names)
        table = table.select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA).combine_chunks()
        table.validate(full=True)
        check_columns(table, NEVER_NULL)
        check_places(table, first_byte)
    except DAMAGE_ERRORS as error:
        report_damage(DamageError(path, None, None, f"is no index: {error}"), on_error)
        return None
    return table


def check_columns(table: pa.Table, never_null: Sequence[str]) -> None:
    """Raise ValueError if values are missing in some columns, or among the timestamps."""
    for name in never_null:
        if table.column(name).null_count:
            raise ValueError(f"it has rows without {name}")
    if table.column("timestamps").combine_chunks().flatten().null_count:
        raise ValueError("it has timestamps that are missing")


def check_places(table: pa.Table, first_byte: int) -> None:
    """Raise ValueError if an index names unknown splits or impossible places."""
    if pc.index_in(table.column("split"), pa.array(SPLITS)).null_count:
        raise ValueError(f"it names splits other than {', '.join(SPLITS)}")
    limits = ("npy_offset", first_byte, MAX_OFFSET), ("npy_nbytes", 0, MAX_WHOLE_BYTES)
    for name, least, most in limits if table.num_rows else ():
        found = pc.min_max(table.column(name)).as_py()
        if found["min"] < least or found["max"] > most:
            raise ValueError(f"it has rows whose {name} is not from {least} to {most:,}")


def make_index(layout: Layout, table: pa.Table) -> Index:
    """Return the index that a table of `INDEX_SCHEMA` in one chunk holds."""
    tars = table.column("tar_file").combine_chunks().dictionary_encode()
    tars = tars.combine_chunks() if isinstance(tars, pa.ChunkedArray) else tars
    files = tuple(layout.path(name) for name in tars.dictionary.to_pylist())
    file_numbers = tars.indices.to_numpy()
    splits = pc.index_in(table.column("split"), pa.array(SPLITS)).to_numpy().astype(np.int8)
    begins = table.column("npy_offset").to_numpy()
    return Index(
        samples=table.select(SAMPLE_COLUMNS),
        splits=SPLITS,
        split_numbers=splits,
        files=files,
        file_numbers=file_numbers,
        begins=begins,
        ends=begins + table.column("npy_nbytes").to_numpy(),
        states=layout.states,
    )


def check_complete(layout: Layout, index: Index, path: str, *, on_error: OnError) -> Index:
    """Return an index, with the source's splits, if it is that of the files that there are.

    Rows of files that are not there are left out where damage is skipped.

    Raises:
        ValueError: it leaves out a tar that is there, or names one that is not there or is in
            another split, and `on_error` is `raise`: samples would be lost without a word.
    """
    split_of_file = {file: split for split, group in layout.files.items() for file in group}
    split_numbers = index.split_numbers.copy()
    faults = []
    # A number for each pair of file and split: a pair as such would take many times as long.
    codes = np.unique(index.file_numbers.astype(np.int64) * len(SPLITS) + index.split_numbers)
    for number, split_number in (divmod(code, len(SPLITS)) for code in codes.tolist()):
        # A hostile name is one line, too.
        name, split = repr(layout.relative(index.files[number]))[1:-1], SPLITS[split_number]
        there = split_of_file.get(index.files[number])
        if there is None:
            faults.append(f"names {name:.200}, which is not there")
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
    index = replace(index, split_numbers=split_numbers)
    # A name may lead anywhere: a file that is not the source's is never opened.
    is_known = np.array([file in split_of_file for file in index.files], np.bool_)
    return index if is_known.all() else index.keep(is_known[index.file_numbers])


def index_parquet(layout: Layout, *, on_error: OnError) -> Index:
    """Return the index of Parquet files: their columns but the embeddings."""
    files = [path for group in layout.files.values() for path in group]
    numbers = [number for number, group in enumerate(layout.files.values()) for _ in group]
    # Each file takes a few requests, one after the other.
    with ThreadPoolExecutor(MAX_IN_FLIGHT) as pool:
        read = partial(read_parquet_columns, states=layout.states, on_error=on_error)
        tables = list(pool.map(read, files))
    counts = [table.num_rows for table in tables]
    begins = np.concatenate([np.arange(count, dtype=np.int64) for count in counts])
    return Index(
        samples=pa.concat_tables(tables).combine_chunks(),
        splits=tuple(layout.files),
        split_numbers=np.repeat(np.array(numbers, np.int8), counts),
        files=tuple(files),
        file_numbers=np.repeat(np.arange(len(files), dtype=np.int32), counts),
        begins=begins,
        ends=begins + 1,
        states=layout.states,
    )


def read_parquet_columns(
    path: str, *, states: FileStates | None = None, on_error: OnError
) -> pa.Table:
    """Return caption and meta of a Parquet file as `SAMPLE_SCHEMA`, no rows where it is skipped."""
    try:
        table = ParquetSource(path, states, pre_buffer=True).read_columns(["caption", "meta"])
        captions = table.column("caption").combine_chunks()
        meta = table.column("meta").combine_chunks()
        fields = [captions, *(pc.struct_field(meta, name) for name in SAMPLE_COLUMNS[1:])]
        table = pa.table(fields, names=list(SAMPLE_COLUMNS)).cast(SAMPLE_SCHEMA)
        table.validate(full=True)
        check_columns(table, NEVER_NULL_OF_SAMPLES)
        return table
    except DAMAGE_ERRORS as error:
        report_damage(DamageError(path, None, None, describe_damage(error)), on_error)
        return SAMPLE_SCHEMA.empty_table()


def index_row(
    split: str, sample: Sample, file: str | None, place: tuple[int | None, int | None]
) -> dict[str, Any]:
    """Return a sample's row of the index; its place is offset and size of the `.npy` there."""
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
    """Yield the index of a source in pieces, by reading all of its samples."""
    rows = (
        index_row(split, placed.sample, file, placed[1:])
        for split, file, placed in scan_samples(layout, on_error=on_error)
    )
    while piece := list(islice(rows, ROWS_PER_PIECE)):
        yield make_piece(piece, on_error, path_of=layout.path)


def make_piece(
    rows: list[dict[str, Any]], on_error: OnError, *, path_of: Callable[[str], str] = str
) -> pa.Table:
    """Return rows of the index, at least one, as a table; one that does not fit is damage.

    `path_of` makes the path that damage names from the name that a row gives its file.
    """
    try:
        return pa.Table.from_pylist(rows, INDEX_SCHEMA)
    except (pa.ArrowException, OverflowError, UnicodeError) as error:
        if len(rows) == 1:
            key, path, offset = (rows[0][name] for name in ("key", "tar_file", "npy_offset"))
            report_damage(DamageError(path_of(path), key, offset, str(error)), on_error)
            return INDEX_SCHEMA.empty_table()
    # Arrow does not say which row it was: halves are tried until it is alone.
    middle = len(rows) // 2
    halves = [make_piece(r, on_error, path_of=path_of) for r in (rows[:middle], rows[middle:])]
    return pa.concat_tables(halves)


def scan_samples(layout: Layout, *, on_error: OnError) -> Iterator[tuple[str, str, PlacedSample]]:
    """Yield (split, file, sample) for all of some tars or loose files, in order."""
    scan = scan_shard if layout.kind == "tars" else scan_loose
    for split, group in layout.files.items():
        for path in group:
            name = layout.relative(path)
            try:
                for placed in scan(path, on_error=on_error, states=layout.states):
                    yield split, name, placed
            except FileNotFoundError:
                report_damage(DamageError(path, None, None, "the file is not there"), on_error)
