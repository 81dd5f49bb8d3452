"""Rows of an index -> their embeddings: views of memory maps, byte ranges, or Parquet row groups.

In: an `Index` and row numbers. Out: arrays in that order; one that cannot be read is a
`DamageError` in its place, so that what is done about it is decided once, by who iterates.
"""

import bisect
import os
import tarfile
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from gzip import BadGzipFile
from itertools import accumulate
from threading import Lock
from typing import Any, Protocol, TypeAlias

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from .damage import DamageError
from .index import Block, Index, IntArray
from .remote import Piece, RangeReader, file_ends, is_gzip_name, is_remote
from .schema import Sample, decode_npy
from .streams import Buffers, RangeFile
from .tars import BLOCK

# A tar header holds ASCII names of this many letters; other ones stand elsewhere.
MAX_PLAIN_NAME = 95


def decode_piece(
    piece: memoryview | ValueError, header_nbytes: int, key: str, n_frames: int
) -> npt.NDArray[Any]:
    """Return the array of a tar header and a `.npy`, or of a `.npy` alone.

    Raises:
        ValueError: something else lies there than the index says.
    """
    if isinstance(piece, ValueError):
        raise piece
    if header_nbytes and len(key) <= MAX_PLAIN_NAME and key.isascii():
        name = key.encode() + b".npy"
        there = piece[: len(name)]
        if there != name and bytes(there).replace(b".NPY", b".npy") != name:
            raise ValueError("another file than the index says lies there")
    elif header_nbytes and not may_be_header_of(bytes(piece[:header_nbytes]), f"{key}.npy"):
        raise ValueError("another file than the index says lies there")
    if header_nbytes and not has_size(bytes(piece[124:136]), len(piece) - header_nbytes):
        raise ValueError("a file of another size than the index says lies there")
    array = decode_npy(piece[header_nbytes:])
    if array.ndim != 2 or len(array) != n_frames or array.dtype.kind != "f":
        raise ValueError(
            f"an array of shape {array.shape} and dtype {array.dtype} lies there, "
            f"the index says {n_frames} frames"
        )
    return array


def has_size(field: bytes, nbytes: int) -> bool:
    """Tell whether the size in a tar header is this one."""
    if field[:11] == b"%011o" % nbytes:
        return True
    # As all common writers have it; the other ways are tarfile's to know.
    try:
        return int(tarfile.nti(field)) == nbytes  # type: ignore[attr-defined]  # not in the stubs
    except tarfile.HeaderError:
        return False


def may_be_header_of(header: bytes, name: str) -> bool:
    """Tell whether a header may be that of a name that does not fit it, by how writers cut it."""
    field, prefix = (header[a:b].partition(b"\0")[0] for a, b in ((0, 100), (345, 500)))
    raw = name.encode()
    # Cut, as GNU and as PAX with other letters replaced, or of an archive without UTF-8.
    spellings = [raw, *(name.encode(encoding, "replace") for encoding in ("ascii", "latin-1"))]
    is_cut = any(field == spelling[:100] for spelling in spellings)
    return is_cut or prefix + b"/" + field == raw


Array: TypeAlias = npt.NDArray[Any]
# Rows that are asked for together, and how many such blocks are on their way while one is used:
# of a remote dataset read in order, sixteen requests of about 1.5 MB.
ROWS_PER_BLOCK = 128
BLOCKS_AHEAD = 16
# Whatever their number, so many bytes: clips of hours are megabytes each.
MAX_BYTES_AHEAD = 64 << 20
# Decoded row groups of Parquet files are kept up to this many bytes.
MAX_GROUP_BYTES = 256 << 20
# The columns that follow `caption` in a Sample, in its order.
COLUMNS_AFTER_CAPTION = tuple(Sample.__dataclass_fields__)[3:]

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
    ahead: deque[tuple[Block, int, Callable[[], Results]]] = deque()
    # Who looks at the first sample only shall not wait for, or pay, megabytes of others.
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
    """Yield the samples of a block of an index and its embeddings, damage in its place."""
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
            yield DamageError(path, key, None, str(error).removeprefix(f"sample {key}: "))
        else:
            yield sample


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
    """Embeddings in Parquet files, decoded a row group at a time."""

    def __init__(self, index: Index) -> None:
        """Read from the files of an index."""
        self._index = index
        self._process = os.getpid()
        self._lock = Lock()
        self._files: dict[int, tuple[pq.ParquetFile, list[int]]] = {}
        self._groups: OrderedDict[tuple[int, int], tuple[Array, Array]] = OrderedDict()

    def __reduce__(self) -> tuple[type["ParquetArrays"], tuple[Index]]:
        """Another process opens the files itself."""
        return ParquetArrays, (self._index,)

    def start(self, block: Block) -> Callable[[], Results]:
        """Return what reads the embeddings of rows."""
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
        except ConnectionError:
            raise
        except (pa.ArrowException, ValueError, KeyError, IndexError, OSError) as error:
            reason = " ".join(str(error).split())
            return DamageError(self._index.files[number], key, None, reason)
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
        """Return offsets and (n, width) frames of a row group, the most recent ones kept."""
        cached = self._groups.get((number, group))
        if cached is None:
            table = self._open(number)[0].read_row_group(group, columns=["embeddings"])
            cached = self._groups[number, group] = split_frames(table.column("embeddings"))
            while sum(frames.nbytes for _, frames in self._groups.values()) > MAX_GROUP_BYTES:
                if len(self._groups) == 1:
                    break
                self._groups.popitem(last=False)
        else:
            self._groups.move_to_end((number, group))
        return cached


def split_frames(column: pa.ChunkedArray) -> tuple[Array, Array]:
    """Return offsets and (n, width) frames of a column of embeddings, without a copy.

    Raises:
        ValueError: it is no list of rows of floats of one width, or one of those is missing.
    """
    lists = column.combine_chunks()
    dtype = lists.type
    if not pa.types.is_list(dtype) or not pa.types.is_fixed_size_list(dtype.value_type):
        raise ValueError(f"embeddings are of type {dtype}")
    rows = lists.flatten()
    numbers = rows.flatten()
    if not pa.types.is_floating(numbers.type) or rows.null_count or numbers.null_count:
        # A missing row would move those after it to the place of their neighbours.
        raise ValueError(f"embeddings of type {dtype} are no floats, or some are missing")
    frames = numbers.to_numpy().reshape(-1, dtype.value_type.list_size)
    return lists.offsets.to_numpy() - lists.offsets[0].as_py(), frames
