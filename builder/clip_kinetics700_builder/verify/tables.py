"""Gives the rows of one of our Parquet files as Arrow batches, checked first.

Row groups are read one at a time and checked before anything looks at their values, so a
damaged file costs neither memory nor a traceback.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clip_kinetics700.features import FAILURES_SCHEMA, META_TYPE
from clip_kinetics700_builder.dataset.problems import DamagedFileError

Convert = Callable[[pa.RecordBatch], pa.RecordBatch]


def read_table(
    path: Path, schema: pa.Schema, n_rows: int, convert: Convert = lambda batch: batch
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet file, which must have this schema and so many rows, converted.

    Raises:
        DamagedFileError: it is no Parquet file, has others, or cannot be read on.
    """
    try:
        table = pq.ParquetFile(path)
        found = table.schema_arrow
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DamagedFileError(f"is no readable Parquet file: {first_line(error)}") from error
    with table:
        check_schema(found, schema)
        if table.metadata.num_rows != n_rows:
            raise DamagedFileError(f"holds {table.metadata.num_rows} rows, must hold {n_rows}")
        n_read = 0
        for number in range(table.num_row_groups):
            for batch in read_group(table, number):
                n_read += batch.num_rows
                yield convert(batch)
        if n_read != n_rows:
            raise DamagedFileError("its row groups do not hold the rows that its footer says")


def check_schema(found: pa.Schema, expected: pa.Schema) -> None:
    """Raise DamagedFileError for other columns, other types or other `datasets` features."""
    if found.names != expected.names:
        raise DamagedFileError(f"has the columns {found.names}, must have {expected.names}")
    for field in expected:
        dtype = found.field(field.name).type
        if not dtype.equals(field.type):
            raise DamagedFileError(f"column {field.name} is {dtype}, must be {field.type}")
    if (found.metadata or {}) != (expected.metadata or {}):
        raise DamagedFileError(
            "the `huggingface` metadata of its schema are not the features of this dataset"
        )


def read_group(table: pq.ParquetFile, number: int) -> list[pa.RecordBatch]:
    """Return the rows of one row group, safe to look at; else raise DamagedFileError."""
    try:
        group = table.read_row_group(number)
        group.validate(full=True)
    except (OSError, pa.ArrowException) as error:
        reason = first_line(error)
        raise DamagedFileError(f"row group {number} cannot be read: {reason}") from error
    return [batch for batch in group.to_batches() if batch.num_rows]


def check_data_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return rows of data, of which nothing may be null but fields of `meta`, as they are."""
    embeddings = batch.column("embeddings")
    parts = {
        "embeddings": embeddings,
        "frames of embeddings": embeddings.flatten(),
        "numbers of embeddings": embeddings.flatten().flatten(),
        "caption": batch.column("caption"),
        "meta": batch.column("meta"),
    }
    for name, array in parts.items():
        if array.null_count:
            raise DamagedFileError(f"{array.null_count} {name} are null")
    return batch


def nest_index_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return rows of the index with the fields of `meta` in one column, as the data have it."""
    fields = [batch.column(field.name) for field in META_TYPE]
    meta = pa.StructArray.from_arrays(fields, fields=list(META_TYPE))
    others = ("split", "caption", "tar_file", "npy_offset", "npy_nbytes")
    columns = {name: batch.column(name) for name in others}
    return pa.RecordBatch.from_pydict({"meta": meta, **columns})


def count_failures(path: Path, n_rows: int) -> Counter[tuple[str, str]]:
    """Return how many failures of each (split, reason) a table of them, which is checked, holds."""
    counts: Counter[tuple[str, str]] = Counter()
    first = 0
    for batch in read_table(path, FAILURES_SCHEMA, n_rows):
        for name in ("split", "stage", "reason", "message"):
            check_lines(batch.column(name), name, first)
        splits, reasons = (batch.column(name).to_pylist() for name in ("split", "reason"))
        counts.update(zip(splits, reasons, strict=True))
        first += batch.num_rows
    return counts


def check_lines(column: pa.Array, name: str, first: int) -> None:
    """Refuse a value that is null, empty or more than one line."""
    is_line = pc.match_substring_regex(column, r"^[^\r\n]+$")
    row = pc.index(pc.fill_null(is_line, fill_value=False), value=False).as_py()
    if row >= 0:
        value = column[row].as_py()
        raise DamagedFileError(f"row {first + row}: {name} is {value!r:.80}, must be one line")


def first_line(error: Exception) -> str:
    """Return the first line of a library's error."""
    return (str(error).splitlines() or [type(error).__name__])[0]
