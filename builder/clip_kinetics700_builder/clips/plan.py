"""Orders the clips of a build, cuts them into parts, and keeps the order in a file of its own.

Order and cut come from the annotations alone, never from the files at hand, so that every machine
and every repair has the same plan.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clip_kinetics700.features import column_list
from clip_kinetics700.schema import SPLITS
from clip_kinetics700_builder.system.files import atomic_path
from clip_kinetics700_builder.types import Clip, InputError, Part

PLAN_SCHEMA = pa.schema(
    [
        pa.field("split", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("time_start", pa.int64()),
        pa.field("time_end", pa.int64()),
        pa.field("label", pa.string()),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("extra", pa.string()),
    ]
)
# Three columns repeat few different texts: as dictionaries they take far less memory.
CODED_SCHEMA = pa.schema(
    field.with_type(pa.dictionary(pa.int32(), pa.string()))
    if field.name in ("split", "label", "caption")
    else field
    for field in PLAN_SCHEMA
)
ROWS_PER_PIECE = 1000


def order_clips(clips: Sequence[Clip], seed: int) -> list[Clip]:
    """Return the clips as train, validation, test, each shuffled by a digest of every row.

    A row's place within its split is that of blake2b, 16 bytes, of the UTF-8 text
    `SEED NUL YOUTUBE_ID NUL TIME_START NUL TIME_END`, of one's own video `SEED NUL PATH`;
    numbers are plain decimals, and no field can hold the NUL that separates them. Equal
    digests go by identity. A row's key is its own, so other rows come and go around it.
    """

    def key(clip: Clip) -> tuple[int, bytes, str]:
        return SPLITS.index(clip.split), digest_identity(clip, seed), clip.identity

    return sorted(clips, key=key)


def digest_identity(clip: Clip, seed: int) -> bytes:
    """Return the 16 bytes by which a clip is ordered within its split."""
    if clip.path is not None:
        parts = [str(seed), clip.path]
    else:
        parts = [str(seed), clip.video_id, str(clip.time_start), str(clip.time_end)]
    return hashlib.blake2b("\0".join(parts).encode("utf-8"), digest_size=16).digest()


def cut_parts(clips: Sequence[Clip], rows_per_part: int) -> list[Part]:
    """Return parts of `rows_per_part` consecutive rows of a plan, of the rest at a split's end.

    Raises:
        InputError: rows_per_part is less than 1.
    """
    runs = groupby(clip.split for clip in clips)
    spans = find_splits((split, sum(1 for _ in run)) for split, run in runs)
    return cut_splits(spans, rows_per_part)


def cut_splits(spans: Mapping[str, range], rows_per_part: int) -> list[Part]:
    """Return the parts that splits are cut into, given the rows of each.

    Raises:
        InputError: rows_per_part is less than 1.
    """
    if rows_per_part < 1:
        raise InputError(f"rows per part must be at least 1, got {rows_per_part}")
    return [
        Part(f"{split}-{index:05d}", span[first : first + rows_per_part])
        for split, span in spans.items()
        for index, first in enumerate(range(0, len(span), rows_per_part))
    ]


def find_splits(runs: Iterable[tuple[str, int]]) -> dict[str, range]:
    """Return the rows of each split, given (split, number of rows) in plan order.

    Raises:
        ValueError: a split comes after one that it should come before.
    """
    spans: dict[str, range] = {}
    begin = n_left = 0
    for split, length in runs:
        if split not in SPLITS[n_left:]:
            raise ValueError(f"row {begin} of the plan, {split}, follows a later split")
        n_left = SPLITS.index(split) + 1
        spans[split] = range(begin, begin + length)
        begin += length
    return spans


def write_plan(path: Path, clips: Sequence[Clip]) -> None:
    """Write the plan as Parquet, one row per clip in plan order."""
    columns = {name: [getattr(clip, name) for clip in clips] for name in PLAN_SCHEMA.names}
    with atomic_path(path) as partial:
        pq.write_table(pa.table(columns, schema=PLAN_SCHEMA), partial)


def plan_digest(clips: Sequence[Clip]) -> str:
    """Return the sha256 of all fields of all rows in order.

    A row is hashed as one line: the JSON array, ASCII and without spaces, of a clip's fields.
    """
    digest = hashlib.sha256()
    names = [field.name for field in fields(Clip)]
    for clip in clips:
        row = [getattr(clip, name) for name in names]
        digest.update(json.dumps(row, separators=(",", ":")).encode("ascii") + b"\n")
    return digest.hexdigest()


class PlanTable:
    """The clips of a plan in order, made only when asked for: a `Clip` takes far more memory."""

    def __init__(self, path: Path) -> None:
        """Read a plan.

        Raises:
            InputError: there is no such file, or it is no plan.
        """
        try:
            with pq.ParquetFile(path) as plan:
                # Threads of Arrow would keep tens of megabytes each for the next time.
                table = plan.read(use_threads=False)
        except (OSError, pa.ArrowException) as error:
            text = f"cannot read plan {path}: no Parquet file can be read there"
            raise InputError(text) from error
        if not table.schema.equals(PLAN_SCHEMA):
            raise InputError(
                f"{path} is no plan: columns {table.schema.names}, expected {PLAN_SCHEMA.names}"
            )
        self._table = table.cast(CODED_SCHEMA)

    @cached_property
    def spans(self) -> dict[str, range]:
        """The rows of each split."""
        splits = self._table.column("split").cast(pa.string()).combine_chunks()
        runs = pc.run_end_encode(splits)
        lengths = np.diff(runs.run_ends.to_numpy(), prepend=0).tolist()
        return find_splits(zip(runs.values.to_pylist(), lengths, strict=True))

    def __len__(self) -> int:
        """Count the clips."""
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[Clip]:
        """Yield all clips."""
        for begin in range(0, len(self), ROWS_PER_PIECE):
            yield from self.take(range(begin, min(begin + ROWS_PER_PIECE, len(self))))

    def take(self, rows: range) -> list[Clip]:
        """Return the clips of consecutive rows."""
        piece = self._table.slice(rows.start, len(rows)).cast(PLAN_SCHEMA)
        columns = [column_list(piece.column(field.name)) for field in fields(Clip)]
        return [Clip(*values) for values in zip(*columns, strict=True)]


def read_plan(path: Path) -> list[Clip]:
    """Return the clips of a plan in order.

    Raises:
        InputError: there is no such file, or it is no plan.
    """
    return list(PlanTable(path))
