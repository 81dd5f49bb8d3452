"""These functions make splits.csv, manifest and index contradict the files that they describe.

Some results are damaged, others are whole tables with other rows, columns or types, so that only a
look at the described files can tell.
"""

import io
import json
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clip_kinetics700.schema import INDEX_NAME
from tests.support.damage.mutated_content import DOCUMENTS, VALUES, damage_bytes
from tests.support.damage.mutated_members import Files


def put(lines: list[str], rng: random.Random, text: str) -> list[str]:
    """Put a text somewhere in one of the lines."""
    number = rng.randrange(len(lines))
    at = rng.randrange(len(lines[number]) + 1)
    changed = lines[number][:at] + text + lines[number][at:]
    return [*lines[:number], changed, *lines[number + 1 :]]


def drop(lines: list[Any], rng: random.Random) -> list[Any]:
    """Leave out one of the lines."""
    number = rng.randrange(len(lines))
    return lines[:number] + lines[number + 1 :]


CSV_CHANGES: dict[str, Callable[[list[str], random.Random], list[str]]] = {
    "no header": lambda lines, rng: lines[1:],
    "header twice": lambda lines, rng: [*lines[:2], *lines],
    "no second column": lambda lines, rng: [line.partition(",")[0] for line in lines],
    "swapped columns": lambda lines, rng: [",".join(line.split(",")[::-1]) for line in lines],
    "a third column": lambda lines, rng: [f"{line},x" for line in lines],
    "a column before": lambda lines, rng: [f"1,{line}" for line in lines],
    "semicolons": lambda lines, rng: [line.replace(",", ";") for line in lines],
    "blanks": lambda lines, rng: [line.replace(",", " , ") for line in lines],
    "quotes": lambda lines, rng: ['"' + line.replace(",", '","') + '"' for line in lines],
    "a quote": lambda lines, rng: put(lines, rng, '"'),
    "NUL": lambda lines, rng: put(lines, rng, "\0"),
    "carriage return": lambda lines, rng: put(lines, rng, "\r"),
    "line separator": lambda lines, rng: put(lines, rng, "\u2028"),
    "comma": lambda lines, rng: put(lines, rng, ","),
    "brace": lambda lines, rng: put(lines, rng, "{"),
    "long cell": lambda lines, rng: put(lines, rng, "z" * 200_000),
    "many rows": lambda lines, rng: lines + lines[-1:] * 20_000,
    "many templates": lambda lines, rng: lines + ["ds_{n},train"] * 20_000,
    "row missing": drop,
    "row twice": lambda lines, rng: [*lines, rng.choice(lines)],
    "unknown split": lambda lines, rng: [line.replace("val", "evaluation") for line in lines],
    "other tar": lambda lines, rng: [line.replace("ds_000001", "ds_000009") for line in lines],
    "directories": lambda lines, rng: [f"/a/b/../{line}" for line in lines],
    "upper case": lambda lines, rng: [line.upper() for line in lines],
    "all of one split": lambda lines, rng: [line.partition(",")[0] + ",test" for line in lines],
    "nothing": lambda lines, rng: [],
}


def mutate_csv(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Return a `splits.csv` with other rows, in another encoding, or damaged."""
    kind = rng.choice(("bytes", "encoding", *CSV_CHANGES, *CSV_CHANGES))
    if kind == "bytes":
        return damage_bytes(data, rng)
    text = data.decode()
    if kind == "encoding":
        encoding = rng.choice(("utf-16", "utf-8-sig", "utf-32"))
        return text.encode(encoding), encoding
    end = rng.choice(("\n", "\n", "\r\n", "\r"))
    return end.join([*CSV_CHANGES[kind](text.splitlines(), rng), ""]).encode(), f"{kind} {end!r}"


def mutate_manifest(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Return a manifest with another value in it, another document, or damaged bytes."""
    kind = rng.choice(("bytes", "document", "class_names", "configuration", "width", "width"))
    if kind == "bytes":
        return damage_bytes(data, rng)
    if kind == "document":
        document = rng.choice(DOCUMENTS)
        return document, f"document {document[:50]!r}"
    value = rng.choice(VALUES)
    manifest = json.loads(data)
    place = manifest["configuration"] if kind == "width" else manifest
    place["embedding_width" if kind == "width" else kind] = "@"
    return json.dumps(manifest).replace('"@"', value).encode(), f"{kind}: {value[:50]}"


HUGE = (1 << 63) - 1
INDEX_VALUES: dict[str, tuple[Any, ...]] = {
    "split": (None, "train", "test", "Train", "", "bogus"),
    "caption": (None, "", "other", "\0"),
    "key": (None, "", "vid_000000001", "vid_00001", "no such", "z" * 500, "é", "a/b.c/d"),
    "n_frames": (None, 0, 1, 2, -1, 99, HUGE),
    "timestamps": (None, [], [0.0], [0.0, 1.0], [None], [float("nan")] * 2),
    "tar_file": (
        *(None, "", ".", "data", "..", "no.tar", "\0", "x" * 5000, "ds_000001.tar", "x.tar.gz"),
        *("../../../../../../dev/zero", "splits.csv", "data/ds_000000.tar", "a\nb.tar"),
    ),
    "npy_offset": (None, -1, 0, 1, 511, 512, 1536, 2048, 1 << 40, HUGE),
    "npy_nbytes": (None, -1, 0, 1, 128, 144, 160, 176, 1 << 40, HUGE),
    "label_id": (None, -1, 99, HUGE),
}


def mutate_index(files: Files, rng: random.Random) -> str:
    """Damage the index, or make it wrong about rows in a sound file."""
    data = files[INDEX_NAME]
    kind = rng.choice(("bytes", "bytes", "document", *["value"] * 4, *ROW_CHANGES, *COLUMN_CHANGES))
    if kind == "bytes":
        files[INDEX_NAME], what = damage_bytes(data, rng)
    elif kind == "document":
        files[INDEX_NAME] = rng.choice(DOCUMENTS)
        what = repr(files[INDEX_NAME][:50])
    else:
        table, what = change_table(pq.read_table(pa.BufferReader(data)), kind, rng)
        files[INDEX_NAME] = write_table(table)
    return f"{INDEX_NAME}: {kind} {what}"


def write_table(table: pa.Table, **options: Any) -> bytes:
    """Return a table as the bytes of a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def change_table(table: pa.Table, kind: str, rng: random.Random) -> tuple[pa.Table, str]:
    """Return an index with other rows or columns, and what was changed."""
    if kind in COLUMN_CHANGES:
        return COLUMN_CHANGES[kind](table, rng), ""
    rows = table.to_pylist()
    row = rng.randrange(len(rows))
    what = f"row {row}"
    if kind == "value":
        for _ in range(rng.choice((1, 1, 1, 2))):
            name = rng.choice(list(INDEX_VALUES))
            rows[row][name] = rng.choice(INDEX_VALUES[name])
            what += f" {name} {rows[row][name]!r:.40}"
    else:
        rows = ROW_CHANGES[kind](rows, row, rng)
    return pa.Table.from_pylist(rows, table.schema), what


def swap(rows: list[Any], row: int, rng: random.Random, names: tuple[str, ...]) -> list[Any]:
    """Let two rows have each other's values."""
    other = rng.randrange(len(rows))
    one, two = ({name: rows[place][name] for name in names} for place in (row, other))
    rows[row] |= two
    rows[other] |= one
    return rows


PLACE = ("npy_offset", "npy_nbytes", "n_frames", "timestamps")
ROW_CHANGES: dict[str, Callable[[list[Any], int, random.Random], list[Any]]] = {
    "places swapped": lambda rows, row, rng: swap(rows, row, rng, (*PLACE, "tar_file")),
    "offsets swapped": lambda rows, row, rng: swap(rows, row, rng, PLACE[:1]),
    "keys swapped": lambda rows, row, rng: swap(rows, row, rng, ("key",)),
    "files swapped": lambda rows, row, rng: swap(rows, row, rng, ("tar_file",)),
    "shifted": lambda rows, row, rng: [r | {"npy_offset": r["npy_offset"] + 512} for r in rows],
    "row twice": lambda rows, row, rng: [*rows, rows[row]],
    "shuffled": lambda rows, row, rng: rng.sample(rows, len(rows)),
    "file missing": lambda rows, row, rng: [
        r for r in rows if r["tar_file"] != rows[row]["tar_file"]
    ],
    "none": lambda rows, row, rng: [],
}


def retype(table: pa.Table, rng: random.Random) -> pa.Table:
    """Return the table with a column in another type."""
    name = rng.choice(("npy_offset", "npy_nbytes", "n_frames", "key", "tar_file", "label_id"))
    at = table.schema.get_field_index(name)
    column = table.column(name)
    kinds = (pa.string(), pa.float64(), pa.uint64(), pa.int16(), pa.large_string(), pa.binary())
    # A value that cannot be of that type becomes null.
    kind = rng.choice(kinds)
    changed = pa.nulls(len(column), kind)
    with suppress(pa.ArrowException):
        changed = column.cast(kind)
    return table.set_column(at, name, changed)


def choose_name(table: pa.Table, rng: random.Random) -> str:
    """Return the name of a column."""
    return str(rng.choice(table.column_names))


COLUMN_CHANGES: dict[str, Callable[[pa.Table, random.Random], pa.Table]] = {
    "column missing": lambda table, rng: table.drop_columns([choose_name(table, rng)]),
    "column twice": lambda table, rng: table.append_column(
        choose_name(table, rng), table.column(0)
    ),
    "column more": lambda table, rng: table.append_column("z", table.column(0)),
    "columns moved": lambda table, rng: table.select(
        rng.sample(table.column_names, table.num_columns)
    ),
    "type": retype,
    "broken text": lambda table, rng: break_text(
        table, rng, ("key", "caption", "tar_file", "split")
    ),
}


def break_text(table: pa.Table, rng: random.Random, names: tuple[str, ...]) -> pa.Table:
    """Return the table with a column of text that is no UTF-8."""
    name = rng.choice(names)
    values = [str(value).encode() for value in table.column(name).to_pylist()]
    values[rng.randrange(len(values))] = b"\xff\xfe"
    _, offsets, data = pa.array(values, pa.binary()).buffers()
    broken = pa.Array.from_buffers(pa.string(), len(values), [None, offsets, data])
    return table.set_column(table.schema.get_field_index(name), name, broken)
