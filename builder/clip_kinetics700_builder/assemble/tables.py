"""The Parquet files of a dataset are written here, with the same bytes every time.

That takes fixed row groups and fixed encodings, and nothing of the machine in them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clip_kinetics700_builder.system.files import atomic_path, naming

ROWS_PER_TABLE_GROUP = 10_000


class TableFile:
    """A Parquet file that is open: whole row groups are written to it, or single rows."""

    def __init__(self, path: Path, schema: pa.Schema, plain: Sequence[str] = ()) -> None:
        """Open a file; columns under the names in `plain` are neither compressed nor encoded.

        Random bits do not shrink; page index and content-defined chunks let readers and the
        Hub's storage move only what they need.
        """
        self._path = path
        leaves = [leaf for field in schema for leaf in list_leaves(field.name, field.type)]
        packed = [leaf for leaf in leaves if leaf.split(".")[0] not in plain]
        self._writer = pq.ParquetWriter(
            path,
            schema,
            compression={leaf: "zstd" if leaf in packed else "none" for leaf in leaves},
            use_dictionary=packed,
            # Nobody looks for rows by the least number of their embeddings: a quarter of the time.
            write_statistics=packed,
            write_page_index=True,
            use_content_defined_chunking=True,
        )
        self._rows: list[Mapping[str, Any]] = []

    def write(self, group: pa.Table) -> None:
        """Write rows as one group."""
        with naming(self._path):
            self._writer.write_table(group)

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row; groups of 10,000 are written as they fill."""
        self._rows.append(row)
        if len(self._rows) == ROWS_PER_TABLE_GROUP:
            self._write_rows()

    def close(self) -> None:
        """Write the last rows and the footer."""
        if self._rows:
            self._write_rows()
        self._writer.close()

    def abandon(self) -> None:
        """Close a file that is not to be: left to its destructor the writer prints a traceback."""
        with suppress(OSError):
            self._writer.close()
        self._writer.is_open = False

    def _write_rows(self) -> None:
        self.write(pa.Table.from_pylist(self._rows, self._writer.schema))
        self._rows = []


@contextmanager
def open_table_file(
    path: Path, schema: pa.Schema, *, plain: Sequence[str] = ()
) -> Iterator[TableFile]:
    """Yield a file that appears under its name when the block ends well; see `TableFile`."""
    with atomic_path(path) as partial:
        table = TableFile(partial, schema, plain)
        try:
            yield table
            table.close()
        except BaseException:
            table.abandon()
            raise


def list_leaves(path: str, dtype: pa.DataType) -> list[str]:
    """Return the Parquet paths of a column's leaves, as its writer names them."""
    if pa.types.is_struct(dtype):
        return [leaf for field in dtype for leaf in list_leaves(f"{path}.{field.name}", field.type)]
    if pa.types.is_list(dtype) or pa.types.is_fixed_size_list(dtype):
        return list_leaves(f"{path}.list.element", dtype.value_type)
    return [path]
