"""Reads finished parts: their rows at once, as a table, and embeddings when they are asked for.

Nothing of a part is assembled before its bytes have the hash that its report says.

Assembly reads gigabytes of parts in the order of the plan. No file stays memory-mapped meanwhile:
its pages would count as memory of the process.
"""

import logging
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from clip_kinetics700.features import column_list
from clip_kinetics700_builder.parts.part import (
    INFO_ATTRIBUTES,
    DamagedPartError,
    PartReport,
    part_schema,
    read_report,
    report_path,
    split_name,
)
from clip_kinetics700_builder.system.files import hash_file, naming
from clip_kinetics700_builder.system.machine import count_cores
from clip_kinetics700_builder.system.progress import Progress
from clip_kinetics700_builder.system.threads import work_off
from clip_kinetics700_builder.types import EncodedClip, Failure, Float16Array, VideoInfo

log = logging.getLogger(__name__)

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


def read_part(directory: Path, name: str, *, is_hashed: bool = True) -> FinishedPart:
    """Read a part whose report is there, once its bytes are known to be those that were written.

    Args:
        directory: of the parts.
        name: of the part.
        is_hashed: compare the hash of the Arrow file, too; who only counts can do with its size.

    Raises:
        DamagedPartError: a file of the part is damaged.
    """
    path = directory / f"{name}.arrow"
    report = check_arrow(read_report(directory, name), path, is_hashed=is_hashed)
    try:
        with pa.memory_map(str(path)) as source:
            base = source.read_buffer(1).address
            file = pa.ipc.open_file(source)
            width = file.schema.field("embeddings").type.value_type.list_size
            batches = [file.get_batch(number) for number in range(file.num_record_batches)]
            # Parts of older versions have no hash: what is in them may be anything.
            for batch in batches:
                batch.validate(full=True)
            rows = pa.Table.from_batches([_place(batch, base) for batch in batches], ROW_SCHEMA)
            # The copy does not hold the map.
            return FinishedPart(report, rows.take(np.arange(len(rows))), width)
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise DamagedPartError(name, path.name, "it is no Arrow file of a part") from error


def check_arrow(report: PartReport, path: Path, *, is_hashed: bool) -> PartReport:
    """Return a report whose Arrow file has the size and, if that is hashed, the hash that it says.

    One of an older version says no hash and gets that of the file.

    Raises:
        DamagedPartError: the file is another one, or is missing.
    """
    n_bytes = path.stat().st_size if path.is_file() else None
    if n_bytes != report.arrow_bytes:
        reason = f"it has {n_bytes} bytes, its report says {report.arrow_bytes}"
        raise DamagedPartError(report.name, path.name, reason)
    if not is_hashed:
        return report
    sha256 = hash_file(path)
    if report.arrow_sha256 not in (None, sha256):
        reason = f"it has the sha256 {sha256}, its report says {report.arrow_sha256}"
        raise DamagedPartError(report.name, path.name, reason)
    return replace(report, arrow_sha256=sha256)


def remove_damaged(directory: Path, names: Collection[str], progress: Progress) -> None:
    """Check all tries of parts; one that is damaged loses its report, so it is not finished."""
    found = [path.stem for path in directory.glob("*.json") if split_name(path.stem)[0] in names]
    with progress("check", len(found), "parts") as advance:
        work_off(partial(_remove_if_damaged, directory), found, count_cores(), advance)


def _remove_if_damaged(directory: Path, name: str) -> None:
    try:
        read_part(directory, name)
    except DamagedPartError as error:
        log.warning("%s; it is encoded again", error.what)
        report_path(directory, name).unlink()


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
        DamagedPartError: a file is shorter than it was.
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
            while len(data) < nbytes and (
                more := os.pread(descriptor, nbytes - len(data), begin + len(data))
            ):
                data += more
        finally:
            os.close(descriptor)
    if len(data) < nbytes:
        raise DamagedPartError(path.stem, path.name, "it is shorter than it was")
    return np.frombuffer(data, np.float16).reshape(shape)
