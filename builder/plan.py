"""Clips -> the ordered plan -> parts; pure, apart from the plan's own file.

In: the clips of the annotations. Out: their order, the runs of rows that are encoded
together, and a digest. Order and cut come from the annotations alone, never from the
files at hand, so every machine and every repair sees the same plan.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from builder.types import Clip, InputError, Part
from builder.write import atomic_path
from clip_kinetics700.schema import SPLITS

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
    """Return runs of at most rows_per_part rows, none across two splits.

    Args:
        clips: the plan, in order.
        rows_per_part: rows of a part; the last part of a split holds the rest.

    Raises:
        InputError: rows_per_part is less than 1.
    """
    if rows_per_part < 1:
        raise InputError(f"rows per part must be at least 1, got {rows_per_part}")
    parts: list[Part] = []
    begin = 0
    for split in SPLITS:
        end = begin
        while end < len(clips) and clips[end].split == split:
            end += 1
        for index, first in enumerate(range(begin, end, rows_per_part)):
            rows = range(first, min(first + rows_per_part, end))
            parts.append(Part(f"{split}-{index:05d}", rows))
        begin = end
    if begin < len(clips):
        raise ValueError(f"row {begin} of the plan, {clips[begin].split}, follows a later split")
    return parts


def write_plan(path: Path, clips: Sequence[Clip]) -> None:
    """Write the plan as Parquet, one row per clip in plan order."""
    columns = {name: [getattr(clip, name) for clip in clips] for name in PLAN_SCHEMA.names}
    with atomic_path(path) as partial:
        pq.write_table(pa.table(columns, schema=PLAN_SCHEMA), partial)


def read_plan(path: Path) -> list[Clip]:
    """Return the clips of a plan in order.

    Raises:
        InputError: there is no such file, or it is no plan.
    """
    try:
        with pq.ParquetFile(path) as plan:
            table = plan.read()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read plan {path}: no Parquet file can be read there") from error
    if not table.schema.equals(PLAN_SCHEMA):
        raise InputError(
            f"{path} is no plan: columns {table.schema.names}, expected {PLAN_SCHEMA.names}"
        )
    columns = [table.column(field.name).to_pylist() for field in fields(Clip)]
    return [Clip(*values) for values in zip(*columns, strict=True)]


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
