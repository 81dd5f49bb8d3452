"""Samples in, published files out: one tar shard, one Parquet shard, tables of plain rows.

What makes the bytes the same every time lives here: USTAR headers with nothing of the
machine in them, fixed row groups, fixed encodings.
"""

import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from builder.parts import embeddings_array
from builder.write import atomic_path, naming
from clip_kinetics700.features import META_TYPE
from clip_kinetics700.schema import Sample, encode_sample

ROWS_PER_GROUP = 1000
# A row group of very long videos is closed early, so that memory stays bounded.
BYTES_PER_GROUP = 64 << 20


class TarShard:
    """One USTAR tar: members of a sample adjacent, mtime 0, fixed owner and mode."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        """Write to an open binary file, which is to get this name."""
        self._path = path
        self._tar = tarfile.TarFile(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT)

    def add(self, sample: Sample) -> tuple[int, int]:
        """Write a sample; return offset and size in bytes of its npy member's content."""
        place = (0, 0)
        for extension, content in encode_sample(sample):
            header = tarfile.TarInfo(f"{sample.key}.{extension}")
            header.size = len(content)
            header.mode = 0o644
            if extension == "npy":
                place = (self._tar.offset + tarfile.BLOCKSIZE, len(content))
            with naming(self._path):
                self._tar.addfile(header, io.BytesIO(content))
        # tarfile keeps every header it wrote, for a listing nobody asks for.
        self._tar.members.clear()  # type: ignore[attr-defined]  # public, but not in the stubs
        return place

    def close(self) -> None:
        """Write the end of the archive."""
        self._tar.close()


@contextmanager
def open_tar_shard(path: Path) -> Iterator[TarShard]:
    """Yield a shard that appears under its name when the block ends well."""
    with atomic_path(path) as partial, partial.open("wb") as stream:
        shard = TarShard(stream, path)
        yield shard
        shard.close()


class ParquetShard:
    """One Parquet file of the data, in row groups of 1,000 rows."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        """Write to a path, with `clip_kinetics700.schema.data_schema`."""
        self._path = path
        self._schema = schema
        self._width = schema.field("embeddings").type.value_type.list_size
        self.writer = open_parquet_writer(path, schema, plain=("embeddings",))
        self._rows: list[Sample] = []
        self._bytes = 0

    def add(self, sample: Sample) -> None:
        """Take a sample; row groups are written as they fill."""
        self._rows.append(sample)
        self._bytes += sample.embeddings.nbytes
        if len(self._rows) == ROWS_PER_GROUP or self._bytes >= BYTES_PER_GROUP:
            self._flush()

    def close(self) -> None:
        """Write the last row group and the footer."""
        self._flush()
        self.writer.close()

    def _flush(self) -> None:
        if not self._rows:
            return
        lengths = [sample.embeddings.shape[0] for sample in self._rows]
        embeddings = [sample.embeddings for sample in self._rows]
        columns = [
            embeddings_array(embeddings, lengths, self._width),
            pa.array([sample.caption for sample in self._rows], pa.string()),
            pa.array([sample.meta for sample in self._rows], META_TYPE),
        ]
        with naming(self._path):
            self.writer.write_table(pa.table(columns, schema=self._schema))
        self._rows, self._bytes = [], 0


@contextmanager
def open_parquet_shard(path: Path, schema: pa.Schema) -> Iterator[ParquetShard]:
    """Yield a shard that appears under its name when the block ends well."""
    with atomic_path(path) as partial:
        shard = ParquetShard(partial, schema)
        with abandoning(shard.writer):
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

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row; groups are written as they fill."""
        self._rows.append(row)
        if len(self._rows) == 10 * ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        """Write the last rows and the footer."""
        self._flush()
        self.writer.close()

    def _flush(self) -> None:
        if self._rows:
            table = pa.Table.from_pylist(self._rows, self._schema)
            with naming(self._path):
                self.writer.write_table(table)
            self._rows = []


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
        write_page_index=True,
        use_content_defined_chunking=True,
    )


def list_leaves(path: str, dtype: pa.DataType) -> list[str]:
    """Return the Parquet paths of a column's leaves, as its writer names them."""
    if pa.types.is_struct(dtype):
        children = [(dtype.field(i).name, dtype.field(i).type) for i in range(dtype.num_fields)]
        return [leaf for name, child in children for leaf in list_leaves(f"{path}.{name}", child)]
    if pa.types.is_list(dtype) or pa.types.is_fixed_size_list(dtype):
        return list_leaves(f"{path}.list.element", dtype.value_type)
    return [path]


def splits_csv(rows: Sequence[tuple[str, str]]) -> str:
    """Return splits.csv of (tar stem, split word) rows."""
    return "".join(f"{tar},{word}\n" for tar, word in [("tar_file", "split"), *rows])
