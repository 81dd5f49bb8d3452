"""Reads the embeddings of rows of an index: from memory maps, byte ranges or Parquet row groups.

An array that cannot be read is a `DamageError` in its place, so that what is done about damage is
decided once, by whoever iterates.
"""

import bisect
import os
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from gzip import BadGzipFile
from itertools import accumulate
from threading import Lock
from typing import Any, Protocol, TypeAlias

import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .damage import DamageError
from .index import Block, Index, IntArray
from .remote import Piece, RangeReader, file_ends, is_gzip_name, is_remote
from .schema import Sample, decode_npy, split_member_name
from .streams import Buffers, RangeFile
from .tars import BLOCK, NAME_NBYTES, decode_name, read_header

Array: TypeAlias = npt.NDArray[Any]
Results: TypeAlias = list[Array | DamageError]
"""(n_frames, width) floats as stored, or what is wrong with them, for each of some rows."""

# Rows that are asked for together, and how many such blocks are on their way while one is used:
# in a remote dataset that is read in order, sixteen requests of about 1.5 MB.
ROWS_PER_BLOCK = 128
BLOCKS_AHEAD = 16
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
    for begin in range(0, len(rows), ROWS_PER_BLOCK):
        block = index.take(rows[begin : begin + ROWS_PER_BLOCK])
        nbytes = int((index.ends[block.rows] - index.begins[block.rows]).sum())
        ahead.append((block, nbytes, arrays.start(block)))
        bytes_ahead += nbytes
        while len(ahead) > n_ahead or (len(ahead) > 1 and bytes_ahead > MAX_BYTES_AHEAD):
            block, nbytes, finish = ahead.popleft()
            bytes_ahead -= nbytes
            yield block, finish()
            n_ahead = min(2 * n_ahead, BLOCKS_AHEAD)
    while ahead:
        block, _, finish = ahead.popleft()
        yield block, finish()


def make_samples(index: Index, block: Block, results: Results) -> Iterator[Sample | DamageError]:
    """Yield the samples of a block of an index with its embeddings, damage in its place."""
    meta = [block.column(name) for name in COLUMNS_AFTER_CAPTION]
    rows = zip(block.column("key"), results, block.column("caption"), *meta, strict=True)
    for place, (key, array, caption, *values) in enumerate(rows):
        if type(array) is DamageError:
            yield array
            continue
        try:
            sample = Sample(key, array, caption, *values)
        except ValueError as error:
            path = index.files[index.file_numbers[block.rows[place]]]
            yield DamageError(path, key, None, str(error))
        else:
            yield sample


class NpyArrays:
    """Reads embeddings from the bytes of `.npy` files, in tars or by themselves."""

    def __init__(self, index: Index, *, header_nbytes: int) -> None:
        """Open nothing yet; before each array comes a tar header of 512 bytes, or none of 0."""
        self._index = index
        self._header_nbytes = header_nbytes
        self._is_local = [not is_remote(path) or is_gzip_name(path) for path in index.files]
        self._buffers = Buffers()
        self._ranges = RangeReader()

    def start(self, block: Block) -> Callable[[], Results]:
        """Ask for the embeddings of rows; local ones are read when they are waited for."""
        index = self._index
        numbers = index.file_numbers[block.rows].tolist()
        begins = (index.begins[block.rows] - self._header_nbytes).tolist()
        ends = index.ends[block.rows].tolist()
        places = list(zip(numbers, begins, ends, strict=True))
        pieces = [
            Piece(index.files[number], begin, end)
            for number, begin, end in places
            if not self._is_local[number]
        ]
        finish = self._ranges.start(pieces) if pieces else list
        return lambda: self._decode(block, places, iter(finish()))

    def _decode(
        self,
        block: Block,
        places: Sequence[tuple[int, int, int]],
        remote: Iterator[memoryview | ValueError],
    ) -> Results:
        """Return each array, given file number, begin and end of each, or what is wrong with it.

        Rows whose files are remote take their pieces from `remote`.
        """
        header_nbytes = self._header_nbytes
        files: dict[int, memoryview | ValueError] = {}
        results: Results = []
        rows = zip(places, block.column("key"), block.column("n_frames"), strict=True)
        for (number, begin, end), key, n_frames in rows:
            piece: memoryview | ValueError
            if self._is_local[number]:
                file = files.get(number) or files.setdefault(number, self._view(number))
                piece = file if isinstance(file, ValueError) else file[begin:end]
                if isinstance(file, memoryview) and len(file) < end:
                    piece = file_ends(len(file))
            else:
                piece = next(remote)
            try:
                array = decode_piece(piece, header_nbytes, key, n_frames)
            except ValueError as error:
                path = self._index.files[number]
                results.append(DamageError(path, key, begin + header_nbytes, str(error)))
            else:
                results.append(array)
        return results

    def _view(self, number: int) -> memoryview | ValueError:
        """Return a view of a local or compressed file, or why there is none."""
        try:
            return self._buffers.view(self._index.files[number])
        except FileNotFoundError:
            return ValueError("the file is not there")
        except (EOFError, zlib.error, BadGzipFile) as error:
            return ValueError(f"damaged gzip stream: {error}")


class ParquetArrays:
    """Reads embeddings from Parquet files, a row group at a time."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._process = os.getpid()
        self._lock = Lock()
        self._files: dict[int, tuple[pq.ParquetFile, list[int]]] = {}
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
        except ConnectionError:  # no damage: the file is whole, but cannot be fetched
            raise
        except (pa.ArrowException, ValueError, KeyError, IndexError, OSError) as error:
            return DamageError(self._index.files[number], key, None, str(error))
        place = row_in_file - group_begins[group]
        array = frames[offsets[place] : offsets[place + 1]]
        if len(array) == n_frames:
            return array
        reason = f"{len(array)} rows of embeddings, but n_frames is {n_frames}"
        return DamageError(self._index.files[number], key, None, reason)

    def _open(self, number: int) -> tuple[pq.ParquetFile, list[int]]:
        """Return a file and the first row of each of its row groups."""
        if os.getpid() != self._process:
            # A forked process cannot use its parent's connections.
            self._files, self._process = {}, os.getpid()
        if number not in self._files:
            path = self._index.files[number]
            file = pq.ParquetFile(RangeFile(path) if is_remote(path) else pa.memory_map(path))
            metadata = file.metadata
            counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            self._files[number] = file, list(accumulate(counts, initial=0))
        return self._files[number]

    def _read_group(self, number: int, group: int) -> tuple[Array, Array]:
        """Return what `split_frames` makes of a row group; the most recent ones are kept."""
        groups = self._groups
        if (number, group) not in groups:
            table = self._open(number)[0].read_row_group(group, columns=["embeddings"])
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
