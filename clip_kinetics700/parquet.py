"""Reads columns of Parquet files, none of which takes more memory than its file can mean.

A few bytes of Parquet may stand for gigabytes: a dictionary's value comes as often as rows name it.
"""

import errno
import os
from collections import deque
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from .remote import is_remote
from .states import FileStates, local_state
from .streams import RangeFile, max_unpacked, open_local

# No value of a number takes more.
MAX_VALUE_BYTES = 8
# What has been unpacked is counted whenever it may have become so much more.
MAX_BATCH_BYTES = 1 << 30
MAX_BATCH_ROWS = 65_536
# Remote files are objects of Python's: Arrow's threads must not be the last to hold one, see
# `own_by_arrow`.
RECENT_FILES: deque[pq.ParquetFile] = deque(maxlen=4)
# What Arrow raises for a damaged file, besides errors of the system it is read from.
DAMAGE_ERRORS = (pa.ArrowException, ValueError, LookupError, OSError)


class ParquetSource:
    """A Parquet file, local or remote, whose footer has been read."""

    def __init__(
        self, path: str, states: FileStates | None = None, *, pre_buffer: bool = False
    ) -> None:
        """Open a file; `pre_buffer` fetches what is far apart at once.

        Raises:
            ChangedError: it is another one than what was noted.
            pa.ArrowException: it is no Parquet file.
        """
        self._path, self._states = path, states
        if is_remote(path):
            self._file: pa.OSFile | RangeFile = RangeFile(path, states)
        else:
            open_local(path, states).close()
            self._file = pa.OSFile(path)
        self._nbytes = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        self._parquet = pq.ParquetFile(self._file, pre_buffer=pre_buffer)
        RECENT_FILES.append(self._parquet)

    @property
    def metadata(self) -> pq.FileMetaData:
        """The footer."""
        return self._parquet.metadata

    def read_group(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Return columns of one row group.

        Raises:
            ChangedError: the file has changed.
            ValueError: they have more values than so few bytes can mean.
        """
        check_values(self.metadata, [group], columns, self._nbytes)
        table = self._parquet.read_row_group(group, columns=list(columns))
        self._check_state()
        return table

    def read_columns(self, columns: Sequence[str]) -> pa.Table:
        """Return columns of all rows; it raises what `read_group` does."""
        table = read_bounded(self._parquet, columns, self._nbytes)
        self._check_state()
        return table

    def _check_state(self) -> None:
        if isinstance(self._file, pa.OSFile) and self._states is not None:
            self._states.check(self._path, local_state(os.fstat(self._file.fileno())))


def describe_damage(error: BaseException) -> str:
    """Return what is wrong with a file; raise the error where not the file is to blame for it."""
    # Arrow's own errors have no number; those of retries say that they could not connect.
    is_systems = isinstance(error, OSError) and error.errno not in (None, errno.ENOENT)
    if is_systems or isinstance(error, ConnectionError):
        raise error
    return str(error)


def own_by_arrow(data: bytes) -> pa.BufferReader:
    """Return bytes as a file in Arrow's own memory.

    Arrow's threads may be the last to let go of what they have read. If that is an object of
    Python's, and Python is ending at that moment, the process aborts.
    """
    buffer = pa.allocate_buffer(len(data))
    memoryview(buffer).cast("B")[:] = data
    return pa.BufferReader(buffer)


def read_bytes(data: bytes, columns: Sequence[str]) -> pa.Table:
    """Return columns of a Parquet file in memory; it raises what `read_bounded` does."""
    return read_bounded(pq.ParquetFile(own_by_arrow(data)), columns, len(data))


def read_bounded(file: pq.ParquetFile, columns: Sequence[str], nbytes: int) -> pa.Table:
    """Return columns of a Parquet file of so many bytes.

    Raises:
        ValueError: they take more memory than so few bytes can mean.
    """
    longest = check_values(file.metadata, range(file.metadata.num_row_groups), columns, nbytes)
    allowed = max_unpacked(nbytes)
    # Each row of a batch may have the longest text.
    n_rows = min(max(MAX_BATCH_BYTES // longest, 1), MAX_BATCH_ROWS)
    batches, n_unpacked = [], 0
    for batch in file.iter_batches(n_rows, columns=list(columns)):
        n_unpacked += batch.nbytes
        if n_unpacked > allowed:
            raise ValueError(f"{nbytes:,} bytes of Parquet hold more than {allowed:,}")
        batches.append(batch)
    fields = [field for field in file.schema_arrow if field.name in columns]
    return pa.Table.from_batches(batches, pa.schema(fields))


def check_values(
    metadata: pq.FileMetaData, groups: Iterable[int], columns: Sequence[str], nbytes: int
) -> int:
    """Return an upper bound of the bytes of one text in row groups of a Parquet file, at least 1.

    Raises:
        ValueError: their columns have more values than a file of so many bytes can mean.
    """
    n_values, longest, allowed = 0, 1, max_unpacked(nbytes)
    for group in map(metadata.row_group, groups):
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema.partition(".")[0] in columns:
                n_values += column.num_values
                if column.physical_type == "BYTE_ARRAY":
                    longest = max(longest, column.total_uncompressed_size)
    if n_values * MAX_VALUE_BYTES > allowed:
        raise ValueError(
            f"{nbytes:,} bytes of Parquet say that they hold {n_values:,} values; at most "
            f"{allowed // MAX_VALUE_BYTES:,} are allowed"
        )
    return longest
