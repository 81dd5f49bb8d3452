"""Reads finished parts: their rows at once, as a table, and embeddings when they are asked for.

Assembly reads gigabytes of parts in the order of the plan. No file stays memory-mapped meanwhile:
its pages would count as memory of the process.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from clip_kinetics700.features import column_list
from clip_kinetics700_builder.parts.part import (
    INFO_ATTRIBUTES,
    PartReport,
    part_schema,
    read_report,
)
from clip_kinetics700_builder.system.files import naming
from clip_kinetics700_builder.types import BuildError, EncodedClip, Failure, Float16Array, VideoInfo

ROW_SCHEMA = pa.schema(
    [
        *(field for field in part_schema(1) if field.name != "embeddings"),
        ("begin", pa.int64()),  # first byte of the embeddings in the file
        ("n_embedded", pa.int64()),  # rows of the embeddings
    ]
)
"""What is kept of the rows of a part: some hundred bytes of each."""
ITEM_NBYTES = 2


class FinishedPart(NamedTuple):
    """What a finished part holds, but for the embeddings."""

    report: PartReport
    rows: pa.Table
    """`ROW_SCHEMA`, in the order of `report.rows`."""
    width: int
    """Columns of the embeddings."""


def read_part(directory: Path, name: str) -> FinishedPart:
    """Read a part whose report is there.

    Raises:
        BuildError: a file of the part is damaged.
    """
    report = read_report(directory, name)
    try:
        with pa.memory_map(str(directory / f"{name}.arrow")) as source:
            base = source.read_buffer(1).address
            file = pa.ipc.open_file(source)
            width = file.schema.field("embeddings").type.value_type.list_size
            batches = [file.get_batch(number) for number in range(file.num_record_batches)]
            rows = pa.Table.from_batches([_place(batch, base) for batch in batches], ROW_SCHEMA)
            rows.validate(full=True)
            # The copy does not hold the map.
            return FinishedPart(report, rows.take(np.arange(len(rows))), width)
    except (pa.ArrowInvalid, KeyError) as error:
        raise damaged_part(name) from error


def _place(batch: pa.RecordBatch, base: int) -> pa.RecordBatch:
    """Return the rows of a batch with the places of their embeddings in a file mapped at `base`."""
    embeddings = batch.column("embeddings")
    offsets = embeddings.offsets.to_numpy().astype(np.int64)
    halves = embeddings.values.values.buffers()[1]
    # An address in the map tells the place in the file, which stays when the map is gone.
    first = 0 if halves is None else halves.address - base
    begins = first + offsets[:-1] * (embeddings.type.value_type.list_size * ITEM_NBYTES)
    columns = [batch.column(name) for name in ROW_SCHEMA.names[:-2]]
    return pa.RecordBatch.from_arrays(
        [*columns, pa.array(begins), pa.array(np.diff(offsets))], schema=ROW_SCHEMA
    )


def make_results(
    rows: pa.Table, paths: Sequence[Path], width: int
) -> Iterator[EncodedClip | Failure]:
    """Yield the results of rows in order; those of several parts have a column `part`.

    That is the number of their Arrow file among the paths.

    Raises:
        BuildError: a file is shorter than it was.
    """
    names = ("row", "stage", "reason", "message", "timestamps", "damaged", "begin", "n_embedded")
    columns = [column_list(rows.column(name)) for name in (*names, *INFO_ATTRIBUTES)]
    parts = column_list(rows.column("part")) if "part" in rows.column_names else [0] * len(rows)
    for part, values in zip(parts, zip(*columns, strict=True), strict=True):
        row, stage, reason, message, timestamps, damaged, begin, n_embedded, *info = values
        if reason is not None:
            yield Failure(row, stage, reason, message)
            continue
        embeddings = read_embeddings(paths[part], begin, (n_embedded, width))
        kept = tuple(np.asarray(damaged).tolist())
        yield EncodedClip(row, embeddings, timestamps, VideoInfo(*info), kept)


def read_embeddings(path: Path, begin: int, shape: tuple[int, int]) -> Float16Array:
    """Return (n_frames, width) float16 embeddings that begin at a byte of a part's Arrow file."""
    nbytes, data = shape[0] * shape[1] * ITEM_NBYTES, b""
    with naming(path):
        # Half the time of `np.fromfile`.
        descriptor = os.open(path, os.O_RDONLY)
        try:
            # The system reads at most 2 GB at a time.
            while more := os.pread(descriptor, nbytes - len(data), begin + len(data)):
                data += more
        finally:
            os.close(descriptor)
    if len(data) < nbytes:
        raise damaged_part(path.stem)
    return np.frombuffer(data, np.float16).reshape(shape)


def damaged_part(name: str) -> BuildError:
    """Return the error of a part whose Arrow file is not what was written."""
    return BuildError(
        f"part {name}: {name}.arrow is damaged; delete {name}.json and run encode again"
    )
