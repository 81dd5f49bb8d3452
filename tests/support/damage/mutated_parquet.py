"""`mutate_parquet` damages the bytes of a Parquet file, or its rows, columns, types or names."""

import random
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.damage.mutated_content import damage_bytes
from tests.support.damage.mutated_members import Files
from tests.support.damage.mutated_tables import (
    COLUMN_CHANGES,
    INDEX_VALUES,
    break_text,
    write_table,
)

PARQUET_VALUES: dict[str, tuple[Any, ...]] = {
    "embeddings": (None, [], [None], [[None] * 8], [[0.5] * 8], [[0.5] * 8] * 9),
    "caption": (None, "", "other"),
    **{name: INDEX_VALUES[name] for name in ("key", "n_frames", "timestamps", "label_id")},
    "meta": (None,),
}
EMBEDDINGS_TYPES = (
    *(pa.list_(pa.list_(kind, 8)) for kind in (pa.float32(), pa.float64(), pa.int16())),
    *(pa.list_(pa.list_(pa.float16())), pa.large_list(pa.list_(pa.float16(), 8)), pa.string()),
    *(pa.list_(pa.list_(pa.float16(), 4)), pa.list_(pa.float16()), pa.float16(), pa.int64()),
)
WRITE_OPTIONS: tuple[dict[str, Any], ...] = (
    {"row_group_size": 1},
    {"compression": "zstd"},
    {"compression": "none", "use_dictionary": False},
    {"data_page_version": "2.0", "data_page_size": 1},
    {"write_page_checksum": True},
    {"store_schema": False},
    {"compression": "gzip", "use_byte_stream_split": ["embeddings.list.element.list.element"]},
)


def mutate_parquet(files: Files, rng: random.Random) -> str:
    """Damage a Parquet file, let its rows or columns be others, or take it away."""
    name = rng.choice([name for name in files if name.endswith(".parquet")])
    data = files[name]
    kind = rng.choice(("bytes", "footer", "footer", "value", "value", "type", "options", "file"))
    what = ""
    if kind == "bytes":
        files[name], what = damage_bytes(data, rng)
    elif kind == "footer":
        begin = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        footer, what = damage_bytes(data[begin:], rng)
        files[name] = data[:begin] + footer
    elif kind == "file":
        what = change_file(files, name, rng)
    else:
        table = pq.read_table(pa.BufferReader(data))
        if kind == "value":
            table, what = change_cell(table, rng)
        elif kind == "type":
            table, what = change_type(table, rng)
        options: dict[str, Any] = rng.choice(({}, *WRITE_OPTIONS))
        files[name] = write_table(table, **options)
        what += f" {options}"
    return f"{name}: {kind} {what}"


def change_file(files: Files, name: str, rng: random.Random) -> str:
    """Take a file away, or let its name say that there are more."""
    kind = rng.choice(("gone", "one of two", "empty", "no rows", "another's"))
    data = files[name]
    if kind in ("gone", "one of two"):
        del files[name]
        if kind == "one of two":
            files[name.replace("-of-00001", "-of-00002")] = data
    elif kind == "empty":
        files[name] = b""
    elif kind == "no rows":
        files[name] = write_table(pq.read_table(pa.BufferReader(data)).slice(0, 0))
    else:
        files[name] = files[rng.choice([other for other in files if other.endswith(".parquet")])]
    return kind


def change_cell(table: pa.Table, rng: random.Random) -> tuple[pa.Table, str]:
    """Return a table of samples in which some values are others."""
    rows = table.to_pylist()
    what = ""
    for _ in range(rng.choice((1, 1, 2))):
        row, name = rng.randrange(len(rows)), rng.choice(list(PARQUET_VALUES))
        value = rng.choice(PARQUET_VALUES[name])
        is_column = name in table.column_names
        place = rows[row] if is_column else rows[row]["meta"]
        if place is not None:
            place[name] = value
        what += f"row {row} {name} {value!r:.40} "
    return pa.Table.from_pylist(rows, table.schema), what


def change_type(table: pa.Table, rng: random.Random) -> tuple[pa.Table, str]:
    """Return a table of samples with a column missing, twice, renamed or of another type."""
    kind = rng.choice(("embeddings", "embeddings", "caption", "meta", "text", *COLUMN_CHANGES))
    if kind in COLUMN_CHANGES and kind not in ("type", "broken text"):
        return COLUMN_CHANGES[kind](table, rng), kind
    if kind == "embeddings":
        dtype = rng.choice(EMBEDDINGS_TYPES)
        column = pa.nulls(table.num_rows, dtype)
        with suppress(pa.ArrowException):
            column = table.column("embeddings").cast(dtype)
        return table.set_column(0, "embeddings", column), f"embeddings {dtype}"
    if kind == "caption":
        dtype = rng.choice((pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())))
        column = table.column("caption").cast(dtype)
        return table.set_column(1, "caption", column), f"caption {dtype}"
    if kind == "meta":
        names = rng.sample([field.name for field in table.schema.field("meta").type], 9)
        meta = [{name: row[name] for name in names} for row in table.column("meta").to_pylist()]
        return table.set_column(2, "meta", pa.array(meta)), f"meta {names}"
    return break_text(table, rng, ("caption",)), "broken text"
