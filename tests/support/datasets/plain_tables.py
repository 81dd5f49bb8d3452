"""These functions read an index and Parquet files with pyarrow alone.

The rows that they return are the right answer; None stands for what cannot be read. They use none
of our code.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tests.support.datasets.plain_reading import (
    BLOCK,
    INTEGERS,
    NUMBERS,
    REFUSALS,
    SPLITS,
    WORDS,
    Expected,
    Files,
    Row,
    load_array,
    make_row,
    read_tar,
    unpack,
)

INDEX = "index.parquet"
PARQUET = re.compile(r"data/(\w+)-(\d+)-of-(\d+)\.parquet")
# Types of the index's columns; whatever is cast to these without loss is right.
TYPES: dict[str, pa.DataType] = {
    **dict.fromkeys(("split", "caption", "tar_file", "key", "youtube_id", "extra"), pa.string()),
    **dict.fromkeys(("npy_offset", "npy_nbytes", "n_frames", "time_start"), pa.int64()),
    **dict.fromkeys(("time_end", *INTEGERS), pa.int64()),
    **dict.fromkeys(NUMBERS, pa.float64()),
    "timestamps": pa.list_(pa.float32()),
}
PLACE = ("split", "caption", "tar_file", "npy_offset", "npy_nbytes")
META_TYPES = {name: kind for name, kind in TYPES.items() if name not in PLACE}


def read_parquet(files: Files, names: Sequence[str]) -> Expected:
    """Return the rows of Parquet files, and None for each file of which some are missing."""
    rows: Expected = []
    found = [match for name in names if (match := PARQUET.fullmatch(name))]
    for match in found:
        rows += read_file(WORDS[match[1]], files[match[0]])
    for match in found:
        if int(match[3]) != sum(match[1] == other[1] for other in found):
            rows.append(None)
    return rows


def read_file(split: str, data: bytes) -> Expected:
    """Return the rows of one file; its footer says how many there are."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        table = file.read()
        table.validate(full=True)
        meta = table.column("meta").combine_chunks()
        fields = {name: pc.struct_field(meta, name).cast(kind) for name, kind in META_TYPES.items()}
        metas = pa.table(fields).to_pylist()
    except REFUSALS:
        return [None]
    rows: Expected = [read_row(split, table, row, meta) for row, meta in enumerate(metas)]
    return rows if file.metadata.num_rows == len(rows) else [*rows, None]


def read_row(split: str, table: pa.Table, row: int, meta: dict[str, Any]) -> Row | None:
    """Return one row of a table of samples."""
    try:
        frames = table.column("embeddings")[row].values
        values = frames.flatten()
        is_sound = frames.null_count == values.null_count == 0 and len(frames) == meta["n_frames"]
        array = values.to_numpy(zero_copy_only=False).reshape(-1, find_width(table))
        caption = table.column("caption")[row].as_py()
        caption = caption.decode() if isinstance(caption, bytes) else caption
        return make_row(split, meta["key"], caption, array, meta) if is_sound else None
    except REFUSALS:
        return None


def find_width(table: pa.Table) -> int:
    """Return how wide the vectors of a table are, which their type need not say."""
    dtype = table.schema.field("embeddings").type.value_type
    if pa.types.is_fixed_size_list(dtype):
        return int(dtype.list_size)
    rows = filter(None, table.column("embeddings").to_pylist())
    (width,) = {len(vector) for frames in rows for vector in frames if vector is not None}
    return width


def read_indexed(files: Files, sound: Files) -> Expected | None:
    """Return the rows that the index names, None where it is wrong.

    Args:
        files: the files of the dataset by name.
        sound: the same files before they were damaged.
    """
    try:
        table = pq.read_table(pa.BufferReader(files[INDEX]))
        table.validate(full=True)
        table = pa.table({name: table.column(name).cast(kind) for name, kind in TYPES.items()})
        rows = table.to_pylist()
    except REFUSALS:
        return None
    return [read_index_row(files, sound, row) for row in rows]


def read_index_row(files: Files, sound: Files, row: Mapping[str, Any]) -> Row | None:
    """Return the row of one row of the index, if its array lies where it says."""
    try:
        name, begin, nbytes, key = (row[n] for n in ("tar_file", "npy_offset", "npy_nbytes", "key"))
        data = unpack(files[name])[0]
        piece = data[begin : begin + nbytes]
        if begin < 0 or len(piece) != nbytes or not unpack(files[name])[1]:
            return None
        if not name.endswith(".npy") and not is_there(
            files[name], begin, row, sound.get(name, b"")
        ):
            return None
        array = load_array(piece)
        if row["n_frames"] != len(array) or row["split"] not in SPLITS:
            return None
        return make_row(row["split"], key, row["caption"], array, row)
    except REFUSALS:
        return None


def is_there(tar: bytes, begin: int, row: Mapping[str, Any], sound: bytes) -> bool:
    """Tell whether the array of the row's key starts at this byte of a tar."""
    key, nbytes = row["key"], row["npy_nbytes"]
    before, now = (read_tar(data)[0].get(begin) for data in (sound, tar))
    plain = unpack(tar)[0]
    if before == (key, "npy", plain[begin : begin + nbytes]):
        return True
    if now is not None:
        return now[:2] == (key, "npy") and len(now.data) == nbytes
    # tarfile gave up before this array: the block before it says whose it is.
    name = plain[begin - BLOCK : begin].partition(b"\0")[0]
    return name.lower() == f"{key}.npy".lower().encode()
