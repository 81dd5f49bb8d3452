"""The published files are written here: tars, Parquet files of data, tables of plain rows.

What makes their bytes the same every time lives here, in `tar.py` and in `row_groups.py`: headers
with nothing of the machine in them, fixed row groups, fixed encodings.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from clip_kinetics700.schema import SPLITS_CSV_WORD, Sample
from clip_kinetics700_builder.assemble.row_groups import ROWS_PER_GROUP, FrameMemory, RowGroup
from clip_kinetics700_builder.assemble.tar import Place, TarStream
from clip_kinetics700_builder.dataset.shards import Shard
from clip_kinetics700_builder.system.files import GrowingHash, atomic_path, naming
from clip_kinetics700_builder.system.threads import Background

ROWS_PER_TABLE_GROUP = 10 * ROWS_PER_GROUP


class TarShard:
    """One tar, written and hashed beside what makes its bytes; or hashed alone."""

    def __init__(self, background: Background, path: Path, stream: IO[bytes] | None) -> None:
        """Write to an open binary file, which is to get this name, or to none."""
        self._background = background
        self._path = path
        self._stream = stream
        self._sha256 = hashlib.sha256()
        self._tar = TarStream(self._take)
        self.samples_sha256 = ""
        """Digest of the tar without its end, that is of its samples; set by `close`."""
        self.sha256 = ""
        """Hash of the file; set by `close`."""

    def add(self, sample: Sample) -> Place:
        """Write a sample; return where its array lies."""
        return self._tar.add(sample)

    def close(self) -> None:
        """Write the end of the archive."""
        self._tar.flush()
        self._background.wait()
        self.samples_sha256 = self._sha256.hexdigest()
        self._tar.close()
        self._background.wait()
        self.sha256 = self._sha256.hexdigest()

    def _take(self, data: memoryview) -> None:
        # The buffer of the last ones is filled next.
        self._background.wait()
        self._background.submit(self._write, data)

    def _write(self, data: memoryview) -> None:
        self._sha256.update(data)
        if self._stream is not None:
            with naming(self._path):
                self._stream.write(data)


@contextmanager
def open_tar_shard(path: Path, background: Background) -> Iterator[TarShard]:
    """Yield a shard that appears under its name when the block ends well."""
    with (
        atomic_path(path) as partial,
        partial.open("wb") as stream,
        background.finishing(),
    ):
        shard = TarShard(background, path, stream)
        yield shard
        shard.close()


@contextmanager
def open_unwritten_tar(background: Background) -> Iterator[TarShard]:
    """Yield a shard that is hashed and not written."""
    with background.finishing():
        shard = TarShard(background, Path(), None)
        yield shard
        shard.close()


class ParquetShard:
    """One Parquet file of the data, written and hashed beside what makes its row groups."""

    def __init__(self, background: Background, path: Path, writer: pq.ParquetWriter) -> None:
        """Write with this writer, which is closed elsewhere, to this path."""
        self._background = background
        self._path = path
        self._writer = writer
        self._hash = GrowingHash(path)
        self._has_failed = False
        self.sha256 = ""
        """Hash of the file; set by `close`."""

    def add(self, group: RowGroup, memory: FrameMemory) -> None:
        """Write a row group, once there is room for it, and give its memory back."""
        memory.await_room(group)
        self._background.submit(self._write, group, memory)

    def close(self) -> None:
        """Write the footer."""
        self._background.wait()
        self._writer.close()
        self.sha256 = self._hash.hexdigest()

    def _write(self, group: RowGroup, memory: FrameMemory) -> None:
        try:
            # After an error the writer is good for nothing any more.
            if not self._has_failed:
                self._has_failed = True
                with naming(self._path):
                    self._writer.write_table(group.data_table(self._writer.schema))
                    self._hash.follow()
                self._has_failed = False
        finally:
            memory.give_back(group)


@contextmanager
def open_parquet_shard(
    path: Path, schema: pa.Schema, background: Background
) -> Iterator[ParquetShard]:
    """Yield a shard that appears under its name when the block ends well.

    Args:
        path: of the file.
        schema: `clip_kinetics700.features.data_schema`.
        background: where row groups are written.
    """
    with atomic_path(path) as partial:
        writer = open_parquet_writer(partial, schema, plain=("embeddings",))
        with abandoning(writer), background.finishing():
            shard = ParquetShard(background, partial, writer)
            yield shard
            shard.close()


class TableFile:
    """A Parquet file of plain rows, written group by group: the index, the failures."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        """Write to a path."""
        self._path = path
        self._schema = schema
        self.writer = open_parquet_writer(path, schema)
        self._rows: list[Mapping[str, Any]] = []
        self._tables: list[pa.Table] = []
        self._n_rows = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row."""
        self._rows.append(row)
        if len(self._rows) == ROWS_PER_GROUP:
            self._take_rows()

    def add_table(self, table: pa.Table) -> None:
        """Take rows; groups are written as they fill."""
        self._tables.append(table)
        self._n_rows += table.num_rows
        while self._n_rows >= ROWS_PER_TABLE_GROUP:
            self._write(ROWS_PER_TABLE_GROUP)

    def close(self) -> None:
        """Write the last rows and the footer."""
        self._take_rows()
        if self._n_rows:
            self._write(self._n_rows)
        self.writer.close()

    def _take_rows(self) -> None:
        self.add_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows = []

    def _write(self, n_rows: int) -> None:
        """Write the first rows of those that were taken, as one group."""
        table = pa.concat_tables(self._tables)
        with naming(self._path):
            self.writer.write_table(table.slice(0, n_rows).combine_chunks())
        self._tables = [table.slice(n_rows)]
        self._n_rows -= n_rows


@contextmanager
def open_table_file(path: Path, schema: pa.Schema) -> Iterator[TableFile]:
    """Yield a table that appears under its name when the block ends well."""
    with atomic_path(path) as partial:
        table = TableFile(partial, schema)
        with abandoning(table.writer):
            yield table
            table.close()


@contextmanager
def abandoning(writer: pq.ParquetWriter) -> Iterator[None]:
    """Close the writer of a block that fails: left to its destructor it prints a traceback."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            writer.close()
        writer.is_open = False
        raise


def open_parquet_writer(
    path: Path, schema: pa.Schema, *, plain: Sequence[str] = ()
) -> pq.ParquetWriter:
    """Open a writer; columns under the names in `plain` are neither compressed nor encoded.

    Random bits do not shrink; page index and content-defined chunks let readers and the
    Hub's storage move only what they need.
    """
    leaves = [path for field in schema for path in list_leaves(field.name, field.type)]
    packed = [leaf for leaf in leaves if leaf.split(".")[0] not in plain]
    return pq.ParquetWriter(
        path,
        schema,
        compression={leaf: "zstd" if leaf in packed else "none" for leaf in leaves},
        use_dictionary=packed,
        # Nobody looks for rows by the least number of their embeddings: a quarter of the time.
        write_statistics=packed,
        write_page_index=True,
        use_content_defined_chunking=True,
        memory_pool=choose_pool(),
    )


@cache
def choose_pool() -> pa.MemoryPool:
    """Return the memory pool that gives back what is free: a row group takes ten times its size.

    The one that Arrow prefers keeps it, for each thread by itself.
    """
    if "jemalloc" not in pa.supported_memory_backends():
        return pa.system_memory_pool()
    pa.jemalloc_set_decay_ms(0)
    return pa.jemalloc_memory_pool()


def list_leaves(path: str, dtype: pa.DataType) -> list[str]:
    """Return the Parquet paths of a column's leaves, as its writer names them."""
    if pa.types.is_struct(dtype):
        children = [(dtype.field(i).name, dtype.field(i).type) for i in range(dtype.num_fields)]
        return [leaf for name, child in children for leaf in list_leaves(f"{path}.{name}", child)]
    if pa.types.is_list(dtype) or pa.types.is_fixed_size_list(dtype):
        return list_leaves(f"{path}.list.element", dtype.value_type)
    return [path]


def splits_csv(shards: Iterable[Shard]) -> str:
    """Return splits.csv, which names the split of each tar in upstream's words."""
    rows = [
        (shard.tar.removesuffix(".tar"), SPLITS_CSV_WORD[shard.split])
        for shard in shards
        if shard.tar is not None
    ]
    return "".join(f"{tar},{word}\n" for tar, word in [("tar_file", "split"), *rows])
