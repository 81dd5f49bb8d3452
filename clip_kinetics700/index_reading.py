"""Where an `Index` comes from: its file, the columns of Parquet files, or reading everything once.

In: a `Layout`. Out: the `Index` of its samples; one that says something else than is there is
never believed without a word.
"""

import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .damage import DamageError, OnError, report_damage
from .features import INDEX_SCHEMA, SAMPLE_COLUMNS
from .files import is_gzip_name, is_remote
from .index import Index, scan_pieces
from .layout import Layout
from .ranges import MAX_IN_FLIGHT
from .schema import SPLITS
from .streams import RemoteFile, open_stream, read_whole
from .tars import BLOCK, ZERO_BLOCK

logger = logging.getLogger(__name__)

SAMPLE_SCHEMA = pa.schema([INDEX_SCHEMA.field(name) for name in SAMPLE_COLUMNS])
# Remote files are objects of Python's: Arrow's threads must not be the last to hold one, see
# `own_by_arrow`.
RECENT_FILES: deque[pq.ParquetFile] = deque(maxlen=4)
# Of these every row of an index has one.
NEVER_NULL = ("split", "caption", "key", "n_frames", "tar_file", "npy_offset", "npy_nbytes")


def load_index(layout: Layout, *, on_error: OnError) -> Index:
    """Return the index of a source, read from its file or made by reading the source.

    Raises:
        DamageError: a sample, a file or the index is damaged, and `on_error` is `raise`.
        FileNotFoundError: there is no such index.
        ValueError: the index is of other files than there are, and `on_error` is `raise`.
    """
    if layout.kind == "parquet":
        return index_parquet(layout, on_error=on_error)
    if layout.index is not None:
        first_byte = BLOCK if layout.kind == "tars" else 0
        table = read_index(layout.index, first_byte=first_byte, on_error=on_error)
        if table is not None:
            index = make_index(layout, table)
            return check_complete(layout, index, layout.index, on_error=on_error)
    logger.warning(
        "%s has no index: all of it is read to learn what is where; "
        "`clip-kinetics700 index SOURCE` writes one",
        layout.root or "the source",
    )
    pieces = scan_pieces(layout, on_error=on_error)
    table = pa.concat_tables([INDEX_SCHEMA.empty_table(), *pieces])
    return make_index(layout, table.combine_chunks())


def read_index(path: str, *, first_byte: int, on_error: OnError) -> pa.Table | None:
    """Return an index as a table of `INDEX_SCHEMA`, or None where it is damaged and skipped.

    Args:
        path: of the index, or its URL.
        first_byte: where in a file an array may begin.
        on_error: what to do about damage.

    Raises:
        DamageError: it cannot be read or is not one, and `on_error` is `raise`.
        FileNotFoundError: there is no such file.
    """
    data = read_whole(path)
    try:
        table = pq.read_table(own_by_arrow(data), columns=INDEX_SCHEMA.names)
        table = table.select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA).combine_chunks()
        table.validate(full=True)
        check_rows(table, first_byte)
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        report_damage(DamageError(path, None, None, f"is no index: {reason}"), on_error)
        return None
    return table


def check_rows(table: pa.Table, first_byte: int) -> None:
    """Refuse an index that does not say of each row what it is and where it lies.

    Raises:
        ValueError: it does not.
    """
    for name in NEVER_NULL:
        if table.column(name).null_count:
            raise ValueError(f"it has rows without {name}")
    if table.column("timestamps").combine_chunks().flatten().null_count:
        raise ValueError("it has timestamps that are missing")
    if pc.index_in(table.column("split"), pa.array(SPLITS)).null_count:
        raise ValueError(f"it names splits other than {', '.join(SPLITS)}")
    for name, least in (("npy_offset", first_byte), ("npy_nbytes", 0)):
        if table.num_rows and pc.min(table.column(name)).as_py() < least:
            raise ValueError(f"it has rows whose {name} is below {least}")


def make_index(layout: Layout, table: pa.Table) -> Index:
    """Return the index of a table of `INDEX_SCHEMA` in one chunk; what the layout knows counts."""
    tars = table.column("tar_file").combine_chunks().dictionary_encode()
    tars = tars.combine_chunks() if isinstance(tars, pa.ChunkedArray) else tars
    files = tuple(layout.path(name) for name in tars.dictionary.to_pylist())
    file_numbers = tars.indices.to_numpy()
    splits = pc.index_in(table.column("split"), pa.array(SPLITS)).to_numpy().astype(np.int8)
    begins = table.column("npy_offset").to_numpy()
    return Index(
        samples=table.select(SAMPLE_COLUMNS),
        split_numbers=splits,
        files=files,
        file_numbers=file_numbers,
        begins=begins,
        ends=begins + table.column("npy_nbytes").to_numpy(),
    )


def check_complete(layout: Layout, index: Index, path: str, *, on_error: OnError) -> Index:
    """Return an index whose splits are the source's, if it is of the files that there are.

    Raises:
        ValueError: it knows nothing of a tar that is there, knows one that is not or in another
            split, and `on_error` is `raise`; samples would be lost without a word.
    """
    split_of_file = {file: split for split, group in layout.files.items() for file in group}
    split_numbers = index.split_numbers.copy()
    faults = []
    codes = np.unique(index.file_numbers.astype(np.int64) * len(SPLITS) + index.split_numbers)
    for number, split_number in (divmod(code, len(SPLITS)) for code in codes.tolist()):
        name, split = layout.relative(index.files[number]), SPLITS[split_number]
        there = split_of_file.get(index.files[number])
        if there is None:
            faults.append(f"names {name}, which is not there")
        elif there != split:
            faults.append(f"has {name} in {split}, but it is in {there}")
            split_numbers[index.file_numbers == number] = SPLITS.index(there)
    unknown = set() if layout.kind == "loose" else set(split_of_file) - set(index.files)
    faults += [
        f"knows nothing of {layout.relative(file)}; `clip-kinetics700 index SOURCE` writes it anew"
        for file in sorted(unknown)
        if not is_empty_tar(file)
    ]
    for fault in faults:
        if on_error == "raise":
            raise ValueError(f"{path} {fault}")
        logger.warning("skipped: %s %s", path, fault)
    return replace(index, split_numbers=split_numbers)


def own_by_arrow(data: bytes) -> pa.BufferReader:
    """Return bytes as a file in Arrow's own memory.

    Its threads may be the last to let go of what they have read. When that is an object of
    Python's and Python is ending at that moment, the process aborts.
    """
    buffer = pa.allocate_buffer(len(data))
    memoryview(buffer).cast("B")[:] = data
    return pa.BufferReader(buffer)


def is_empty_tar(path: str) -> bool:
    """Tell whether a tar begins with its end mark, as upstream's last one may."""
    with open_stream(path) as stream:
        return not is_gzip_name(path) and stream.read(BLOCK) == ZERO_BLOCK


def index_parquet(layout: Layout, *, on_error: OnError) -> Index:
    """Return the index of Parquet files: their columns but the embeddings.

    Raises:
        DamageError: one cannot be read, and `on_error` is `raise`.
    """
    files = [path for group in layout.files.values() for path in group]
    numbers = [SPLITS.index(split) for split, group in layout.files.items() for _ in group]
    # Each takes a few requests, one after the other.
    with ThreadPoolExecutor(MAX_IN_FLIGHT) as pool:
        tables = list(pool.map(partial(read_parquet_columns, on_error=on_error), files))
    counts = [table.num_rows for table in tables]
    begins = np.concatenate([np.arange(count, dtype=np.int64) for count in counts])
    return Index(
        samples=pa.concat_tables(tables).combine_chunks(),
        split_numbers=np.repeat(np.array(numbers, np.int8), counts),
        files=tuple(files),
        file_numbers=np.repeat(np.arange(len(files), dtype=np.int32), counts),
        begins=begins,
        ends=begins + 1,
    )


def read_parquet_columns(path: str, *, on_error: OnError) -> pa.Table:
    """Return caption and meta of a Parquet file as `SAMPLE_SCHEMA`, none where it is skipped.

    Raises:
        ConnectionError: it cannot be fetched.
        DamageError: it cannot be read or has other columns, and `on_error` is `raise`.
    """
    try:
        source = RemoteFile(path) if is_remote(path) else path
        file = pq.ParquetFile(source, pre_buffer=True)
        RECENT_FILES.append(file)
        table = file.read(["caption", "meta"])
        captions = table.column("caption").combine_chunks()
        meta = table.column("meta").combine_chunks()
        fields = [captions, *(pc.struct_field(meta, name) for name in SAMPLE_COLUMNS[1:])]
        table = pa.table([*fields], names=list(SAMPLE_COLUMNS)).cast(SAMPLE_SCHEMA)
        table.validate(full=True)
        for name in ("key", "caption", "n_frames"):
            if table.column(name).null_count:
                raise ValueError(f"it has rows without {name}")
        if table.column("timestamps").combine_chunks().flatten().null_count:
            raise ValueError("it has timestamps that are missing")
        return table
    except ConnectionError:
        raise
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        report_damage(DamageError(path, None, None, reason), on_error)
        return SAMPLE_SCHEMA.empty_table()
