"""Reads the embeddings of rows of an index: from files, byte ranges or Parquet row groups.

An array that cannot be read is a `DamageError` in its place, so that what is done about damage is
decided once, by whoever iterates.
"""

import bisect
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import accumulate
from threading import Lock
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .damage import DamageError
from .index import Block, Index, IntArray
from .local import MAX_OPEN_FILES, LocalFiles
from .parquet import DAMAGE_ERRORS, ParquetSource, describe_damage
from .remote import Piece, RangeReader, Views, is_gzip_name, is_remote
from .schema import Sample, decode_npy, split_member_name
from .tars import BLOCK, NAME_NBYTES, decode_name, read_header

Array: TypeAlias = npt.NDArray[Any]
Results: TypeAlias = list[Array | DamageError]
"""(n_frames, width) floats as stored, or what is wrong with them, for each of some rows."""

# Rows that are asked for together, and how many such blocks are on their way while one is used:
# in a remote dataset that is read in order, sixteen requests of about 1.5 MB.
ROWS_PER_BLOCK = 128
# Local files are there at once, and larger blocks cost less for each row.
LOCAL_ROWS_PER_BLOCK = 512
BLOCKS_AHEAD = 16
# A block has fewer rows where they are larger than this together, and at least one.
MAX_BLOCK_BYTES = 16 << 20
# No more bytes than these are on their way: clips of hours are megabytes each.
MAX_BYTES_AHEAD = 64 << 20
# Decoded row groups of Parquet files are kept up to this many bytes.
MAX_GROUP_BYTES = 256 << 20
# The columns that follow `caption` in a Sample, in its order.
COLUMNS_AFTER_CAPTION = tuple(Sample.__dataclass_fields__)[3:]


def decode_piece(
    piece: memoryview | ValueError, header_nbytes: int, key: str, n_frames: int
) -> Array:
    """Return the (n_frames, width) floats of a `.npy`, before which a tar header may stand.

    If something else lies there than the index says, that is a ValueError.
    """
    if isinstance(piece, ValueError):
        raise piece
    if header_nbytes:
        name, nbytes = f"{key}.npy".encode(), len(piece) - header_nbytes
        # As all common writers write them; the parser knows the other ways.
        if piece[: len(name)] != name or piece[124:135] != b"%011o" % nbytes:
            check_header(bytes(piece[:header_nbytes]), key, nbytes)
    array = decode_npy(piece[header_nbytes:])
    if array.ndim != 2 or len(array) != n_frames or array.dtype.kind != "f":
        raise ValueError(
            f"an array of shape {array.shape} and dtype {array.dtype} lies there, "
            f"the index says {n_frames} frames"
        )
    return array


def check_header(block: bytes, key: str, nbytes: int) -> None:
    """Refuse a tar header that is not that of a sample's array of this size."""
    try:
        _, found, found_nbytes = read_header(block, 0)
    except (ValueError, IndexError):  # damaged, or cut short
        found, found_nbytes = "", nbytes
    if split_member_name(found) != (key, "npy"):
        # Writers cut long names: GNU as they are, PAX with `?` for letters; some write no UTF-8.
        names = (f"{key}.npy".encode(code, "replace") for code in ("utf-8", "ascii", "latin-1"))
        if found not in [decode_name(name[:NAME_NBYTES]) for name in names]:
            raise ValueError("another file than the index says lies there")
    if found_nbytes != nbytes:
        raise ValueError("a file of another size than the index says lies there")


class Arrays(Protocol):
    """Reads the embeddings of an index."""

    rows_per_block: int
    """How many rows are best asked for together."""

    def start(self, block: Block) -> Callable[[], Results]:
        """Ask for the embeddings of rows; return the function that waits for them."""


def open_arrays(index: Index, *, kind: str) -> Arrays:
    """Return the reader of an index's embeddings; nothing is opened yet."""
    if kind == "parquet":
        return ParquetArrays(index)
    return NpyArrays(index, header_nbytes=BLOCK if kind == "tars" else 0)


def read_ahead(index: Index, arrays: Arrays, rows: IntArray) -> Iterator[tuple[Block, Results]]:
    """Yield rows in blocks with their embeddings, later blocks being fetched meanwhile."""
    ahead: deque[tuple[Block, int, Callable[[], Results]]] = deque()
    # Whoever looks at the first sample only must not wait, or pay, for megabytes of others.
    n_ahead, bytes_ahead = 1, 0
    sizes = index.ends[rows] - index.begins[rows]
    for some, nbytes in cut_blocks(rows, sizes, arrays.rows_per_block):
        block = index.take(some)
        ahead.append((block, nbytes, arrays.start(block)))
        bytes_ahead += nbytes
        while len(ahead) > n_ahead or (len(ahead) > 1 and bytes_ahead > MAX_BYTES_AHEAD):
            block, n_read, finish = ahead.popleft()
            bytes_ahead -= n_read
            yield block, finish()
            n_ahead = min(2 * n_ahead, BLOCKS_AHEAD)
    while ahead:
        block, _, finish = ahead.popleft()
        yield block, finish()


def cut_blocks(
    rows: IntArray, sizes: IntArray, rows_per_block: int
) -> Iterator[tuple[IntArray, int]]:
    """Yield (n,) int64 rows in blocks, with the bytes of each, given the bytes of each row."""
    if len(rows) == 1:  # as for a sample by its place: arrays would take longer than the read
        yield rows, int(sizes[0])
        return
    totals, begin, before = np.cumsum(sizes), 0, 0
    while begin < len(rows):
        end = int(np.searchsorted(totals, before + MAX_BLOCK_BYTES, side="right"))
        end = min(max(end, begin + 1), begin + rows_per_block)
        total = int(totals[end - 1])
        yield rows[begin:end], total - before
        begin, before = end, total


def make_samples(index: Index, block: Block, results: Results) -> Iterator[Sample | DamageError]:
    """Yield the samples of a block of an index with its embeddings, damage in its place."""
    meta = [block.column(name) for name in COLUMNS_AFTER_CAPTION]
    rows = zip(block.column("key"), results, block.column("caption"), *meta, strict=True)
    for place, row in enumerate(rows):
        if type(row[1]) is DamageError:
            yield row[1]
            continue
        try:
            sample = Sample(*row)
        except ValueError as error:
            path = index.files[index.file_numbers[block.rows[place]]]
            yield DamageError(path, row[0], None, str(error))
        else:
            yield sample


class NpyArrays:
    """Reads embeddings from the bytes of `.npy` files, in tars or by themselves."""

    def __init__(self, index: Index, *, header_nbytes: int) -> None:
        """Open nothing yet; before each array comes a tar header of 512 bytes, or none of 0."""
        self._index = index
        self._header_nbytes = header_nbytes
        self._is_local = np.array([not is_remote(p) or is_gzip_name(p) for p in index.files])
        self.rows_per_block = LOCAL_ROWS_PER_BLOCK if self._is_local.all() else ROWS_PER_BLOCK
        self._files = LocalFiles(index.states)
        self._ranges = RangeReader(states=index.states)

    def start(self, block: Block) -> Callable[[], Results]:
        """Ask for the embeddings of rows; local ones are read when they are waited for."""
        index = self._index
        numbers = index.file_numbers[block.rows]
        begins, ends = index.begins[block.rows] - self._header_nbytes, index.ends[block.rows]
        is_local = self._is_local[numbers]
        remote = np.flatnonzero(~is_local).tolist()
        pieces = [Piece(index.files[numbers[i]], int(begins[i]), int(ends[i])) for i in remote]
        finish = self._ranges.start(pieces) if pieces else list

        def read() -> Results:
            local = numbers[is_local], begins[is_local], ends[is_local]
            views = self._files.read(index.files, *local)
            for place, view in zip(remote, finish(), strict=True):
                views.insert(place, view)
            return self._decode(block, views)

        return read

    def _decode(self, block: Block, views: Views) -> Results:
        """Return the array of each view, or what is wrong with it."""
        results: Results = []
        header_nbytes, append = self._header_nbytes, results.append
        rows = zip(views, block.column("key"), block.column("n_frames"), strict=True)
        for view, key, n_frames in rows:
            place = len(results)
            try:
                append(decode_piece(view, header_nbytes, key, n_frames))
            except ValueError as error:
                row = block.rows[place]
                path = self._index.files[self._index.file_numbers[row]]
                append(DamageError(path, key, int(self._index.begins[row]), str(error)))
        return results


class ParquetArrays:
    """Reads embeddings from Parquet files, a row group at a time."""

    rows_per_block = ROWS_PER_BLOCK

    def __init__(self, index: Index) -> None:
        self._index = index
        self._process = os.getpid()
        self._lock = Lock()
        self._files: OrderedDict[int, tuple[ParquetSource, list[int]]] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], tuple[Array, Array]] = OrderedDict()

    def __reduce__(self) -> tuple[type["ParquetArrays"], tuple[Index]]:
        """Let another process open the files itself."""
        return ParquetArrays, (self._index,)

    def start(self, block: Block) -> Callable[[], Results]:
        """Return the function that reads the embeddings of rows."""
        rows = zip(block.rows.tolist(), block.column("key"), block.column("n_frames"), strict=True)
        return lambda: [self._read(*row) for row in rows]

    def _read(self, row: int, key: str, n_frames: int) -> Array | DamageError:
        """Return the embeddings of one row, a view of its row group, or what is wrong with it."""
        number, row_in_file = int(self._index.file_numbers[row]), int(self._index.begins[row])
        try:
            with self._lock:
                _, group_begins = self._open(number)
                group = bisect.bisect_right(group_begins, row_in_file) - 1
                offsets, frames = self._read_group(number, group)
        except DAMAGE_ERRORS as error:
            return DamageError(self._index.files[number], key, None, describe_damage(error))
        place = row_in_file - group_begins[group]
        array = frames[offsets[place] : offsets[place + 1]]
        if len(array) == n_frames:
            return array
        reason = f"{len(array)} rows of embeddings, but n_frames is {n_frames}"
        return DamageError(self._index.files[number], key, None, reason)

    def _open(self, number: int) -> tuple[ParquetSource, list[int]]:
        """Return a file and the first row of each of its row groups."""
        if os.getpid() != self._process:
            # A forked process cannot use its parent's connections.
            self._files, self._process = OrderedDict(), os.getpid()
        if number not in self._files:
            file = ParquetSource(self._index.files[number], self._index.states)
            metadata = file.metadata
            counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            self._files[number] = file, list(accumulate(counts, initial=0))
            if len(self._files) > MAX_OPEN_FILES:
                self._files.popitem(last=False)
        self._files.move_to_end(number)
        return self._files[number]

    def _read_group(self, number: int, group: int) -> tuple[Array, Array]:
        """Return what `split_frames` makes of a row group; the most recent ones are kept."""
        groups = self._groups
        if (number, group) not in groups:
            table = self._open(number)[0].read_group(group, ["embeddings"])
            groups[number, group] = split_frames(table.column("embeddings"))
            while len(groups) > 1 and sum(f.nbytes for _, f in groups.values()) > MAX_GROUP_BYTES:
                groups.popitem(last=False)
        groups.move_to_end((number, group))
        return groups[number, group]


def split_frames(column: pa.ChunkedArray) -> tuple[Array, Array]:
    """Return a column of embeddings as (n_rows + 1,) offsets and (n_frames, width) floats.

    Anything but lists of vectors of floats of one width, none missing, is a ValueError.
    """
    lists = column.combine_chunks()
    dtype = lists.type
    is_vector = (pa.types.is_list, pa.types.is_fixed_size_list)
    if not pa.types.is_list(dtype) or not any(is_kind(dtype.value_type) for is_kind in is_vector):
        raise ValueError(f"embeddings are of type {dtype}")
    rows = lists.flatten()
    numbers = rows.flatten()
    if not pa.types.is_floating(numbers.type) or rows.null_count or numbers.null_count:
        # A missing vector would move those after it to the place of their neighbours.
        raise ValueError(f"embeddings of type {dtype} are no floats, or some are missing")
    # What `datasets` has mapped no longer says in its type how wide the vectors are.
    widths = pc.unique(pc.list_value_length(rows)).to_pylist() or [0]
    if len(widths) > 1:
        raise ValueError(f"embeddings have vectors of several widths, {widths[0]} and {widths[1]}")
    frames = numbers.to_numpy().reshape(len(rows), widths[0])
    return lists.offsets.to_numpy() - lists.offsets[0].as_py(), frames
