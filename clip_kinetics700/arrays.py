"""Rows of an index -> their embeddings: views of memory maps, byte ranges, or Parquet row groups.

In: an `Index` and row numbers. Out: arrays in that order; one that cannot be read is a
`DamageError` in its place, so that what is done about it is decided once, by who iterates.
"""

import bisect
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from gzip import BadGzipFile
from itertools import accumulate
from typing import Any, Protocol, TypeAlias

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from .files import Buffers, Piece, RangeReader, is_gzip_name, is_remote, open_stream
from .index import Block, Index, IntArray
from .schema import DamageError, decode_npy
from .tars import BLOCK

Array: TypeAlias = npt.NDArray[Any]
# Rows that are asked for together, and how many such blocks are on their way while one is used:
# of a remote dataset read in order, sixteen requests of about 1.5 MB.
ROWS_PER_BLOCK = 128
BLOCKS_AHEAD = 16
# Decoded row groups of Parquet files are kept up to this many bytes.
MAX_GROUP_BYTES = 256 << 20
# A tar header holds ASCII names of this many letters; other ones stand elsewhere.
MAX_PLAIN_NAME = 95


Results: TypeAlias = list[Array | DamageError]


class Arrays(Protocol):
    """Where the embeddings of an index lie."""

    def start(self, block: Block) -> Callable[[], Results]:
        """Ask for the embeddings of rows; the function that is returned waits for them."""
        ...


def open_arrays(index: Index, *, kind: str) -> Arrays:
    """Return the reader of an index's embeddings; nothing is opened yet."""
    if kind == "parquet":
        return ParquetArrays(index)
    return NpyArrays(index, header_nbytes=BLOCK if kind == "tars" else 0)


def read_ahead(index: Index, arrays: Arrays, rows: IntArray) -> Iterator[tuple[Block, Results]]:
    """Yield rows in blocks with their embeddings, later blocks being fetched meanwhile."""
    ahead: deque[tuple[Block, Callable[[], Results]]] = deque()
    for begin in range(0, len(rows), ROWS_PER_BLOCK):
        block = index.take(rows[begin : begin + ROWS_PER_BLOCK])
        ahead.append((block, arrays.start(block)))
        if len(ahead) > BLOCKS_AHEAD:
            block, finish = ahead.popleft()
            yield block, finish()
    for block, finish in ahead:
        yield block, finish()


class NpyArrays:
    """Embeddings as the bytes of `.npy` files, in tars or by themselves."""

    def __init__(self, index: Index, *, header_nbytes: int) -> None:
        """Read from the files of an index.

        Args:
            index: where each array begins and ends.
            header_nbytes: 512 where a tar header with the sample's key comes before each array.
        """
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
        """Return each array, or what is wrong with it."""
        rows = zip(places, block.column("key"), block.column("n_frames"), strict=True)
        return [self._decode_row(*place, key, n_frames, remote) for place, key, n_frames in rows]

    def _decode_row(
        self,
        number: int,
        begin: int,
        end: int,
        key: str,
        n_frames: int,
        remote: Iterator[memoryview | ValueError],
    ) -> Array | DamageError:
        """Return the array of one row, or what is wrong with it."""
        path = self._index.files[number]
        try:
            piece = self._buffers.view(path)[begin:end] if self._is_local[number] else next(remote)
            if isinstance(piece, ValueError):
                raise piece
            if len(piece) < end - begin:
                raise ValueError("the file ends before it")
            return decode_piece(piece, self._header_nbytes, key, n_frames)
        except (ValueError, EOFError, zlib.error, BadGzipFile) as error:
            return DamageError(path, key, begin + self._header_nbytes, str(error))


def decode_piece(piece: memoryview, header_nbytes: int, key: str, n_frames: int) -> Array:
    """Return the array of a tar header and a `.npy`, or of a `.npy` alone.

    Raises:
        ValueError: something else lies there than the index says.
    """
    if header_nbytes and len(key) <= MAX_PLAIN_NAME and key.isascii():
        name = key.encode() + b"."
        if piece[: len(name)] != name:
            raise ValueError("another file than the index says lies there")
    array = decode_npy(piece[header_nbytes:])
    if len(array) != n_frames or array.ndim != 2 or array.dtype.kind != "f":
        raise ValueError(
            f"an array of shape {array.shape} and dtype {array.dtype} lies there, "
            f"the index says {n_frames} frames"
        )
    return array


class ParquetArrays:
    """Embeddings in Parquet files, decoded a row group at a time."""

    def __init__(self, index: Index) -> None:
        """Read from the files of an index."""
        self._index = index
        self._files: dict[int, tuple[pq.ParquetFile, list[int]]] = {}
        self._groups: OrderedDict[tuple[int, int], tuple[Array, Array]] = OrderedDict()

    def __reduce__(self) -> tuple[type["ParquetArrays"], tuple[Index]]:
        """Another process opens the files itself."""
        return ParquetArrays, (self._index,)

    def start(self, block: Block) -> Callable[[], Results]:
        """Return what reads the embeddings of rows."""
        return lambda: [self._read(row) for row in block.rows.tolist()]

    def _read(self, row: int) -> Array | DamageError:
        """Return the embeddings of one row, a view of its row group."""
        number, row_in_file = int(self._index.file_numbers[row]), int(self._index.begins[row])
        try:
            _, group_begins = self._open(number)
            group = bisect.bisect_right(group_begins, row_in_file) - 1
            offsets, frames = self._read_group(number, group)
        except (pa.ArrowException, ValueError, KeyError) as error:
            key = self._index.samples.column("key")[row].as_py()
            reason = " ".join(str(error).split())
            return DamageError(self._index.files[number], key, None, reason)
        place = row_in_file - group_begins[group]
        return frames[offsets[place] : offsets[place + 1]]

    def _open(self, number: int) -> tuple[pq.ParquetFile, list[int]]:
        """Return a file and the first row of each of its row groups."""
        if number not in self._files:
            path = self._index.files[number]
            source = open_stream(path) if is_remote(path) else pa.memory_map(path)
            file = pq.ParquetFile(source)
            metadata = file.metadata
            counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            self._files[number] = file, list(accumulate(counts, initial=0))
        return self._files[number]

    def _read_group(self, number: int, group: int) -> tuple[Array, Array]:
        """Return offsets and (n, width) frames of a row group, the most recent ones kept."""
        cached = self._groups.get((number, group))
        if cached is None:
            table = self._open(number)[0].read_row_group(group, columns=["embeddings"])
            lists = table.column("embeddings").combine_chunks()
            width = lists.type.value_type.list_size
            frames = lists.flatten().flatten().to_numpy().reshape(-1, width)
            offsets = lists.offsets.to_numpy() - lists.offsets[0].as_py()
            cached = self._groups[number, group] = offsets, frames
            while sum(frames.nbytes for _, frames in self._groups.values()) > MAX_GROUP_BYTES:
                if len(self._groups) == 1:
                    break
                self._groups.popitem(last=False)
        else:
            self._groups.move_to_end((number, group))
        return cached
