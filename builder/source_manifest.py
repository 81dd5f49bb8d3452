"""What a source of ours says of itself: its manifest, and its failures as results again.

A conversion carries both over. The failures are rows of the plan that the source was made of, so
without them its counts would not add up.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from builder.manifest import Totals
from builder.problems import DamagedFileError
from builder.reading import read_own_manifest
from builder.types import BuildError, Clip, Failure, InputError
from builder.verify_manifest import check_own_hash, parse_contract
from clip_kinetics700.damage import DamageError, OnError
from clip_kinetics700.features import FAILURES_SCHEMA
from clip_kinetics700.layout import Layout
from clip_kinetics700.schema import FAILURES_NAME, MANIFEST_NAME, REASONS

log = logging.getLogger(__name__)


def read_source_manifest(layout: Layout) -> dict[str, Any] | None:
    """Return the manifest of a source of ours, or None where there is none.

    Raises:
        InputError: it is not as it was written.
    """
    manifest = read_own_manifest(layout)
    if manifest is not None:
        try:
            check_own_hash(manifest)
            parse_contract(manifest)
        except DamagedFileError as error:
            raise InputError(f"{layout.root}/{MANIFEST_NAME}: {error}") from error
    return manifest


def check_rows(
    totals: Mapping[str, Totals], manifest: Mapping[str, Any], name: str, on_error: OnError
) -> None:
    """Refuse a source that holds other rows than its manifest says: files are missing.

    Raises:
        BuildError: it does, and damage is not to be skipped.
    """
    stated = {split: counts["rows"] for split, counts in manifest["totals"]["splits"].items()}
    found = {split: counts.rows for split, counts in totals.items()}
    if found != stated:
        message = f"{name}: holds {found} rows, its {MANIFEST_NAME} says {stated}"
        if on_error == "raise":
            raise BuildError(message)
        log.warning("%s", message)


def read_failures(
    layout: Layout, manifest: Mapping[str, Any] | None, split: str
) -> Iterator[tuple[Clip, Failure]]:
    """Yield the failed rows of a split in order; none where the source is not ours.

    Args:
        layout: of a local source.
        manifest: of ours, or None.
        split: `train`, `validation` or `test`.

    Raises:
        InputError: the table is not there, or a reason in it is unknown.
        DamageError: the table cannot be read.
    """
    if manifest is None or FAILURES_NAME not in manifest["files"]:
        return
    path = Path(layout.root) / FAILURES_NAME
    if not path.is_file():
        raise InputError(f"{path}: is missing, though the manifest beside it lists it")
    for row in read_table(path):
        if row["reason"] not in REASONS:
            raise InputError(f"{path}: reason {row['reason']!r}, allowed are {', '.join(REASONS)}")
        if row["split"] == split:
            yield make_failure(row)


def read_table(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table of failures.

    Raises:
        DamageError: it cannot be read.
    """
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(columns=FAILURES_SCHEMA.names):
                yield from batch.cast(FAILURES_SCHEMA).to_pylist()
    except (pa.ArrowException, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DamageError(str(path), None, None, reason) from error


def make_failure(row: Mapping[str, Any]) -> tuple[Clip, Failure]:
    """Return a row of the table as the result it was."""
    clip = Clip(
        split=row["split"],
        video_id=row["youtube_id"],
        time_start=row["time_start"],
        time_end=row["time_end"],
        label=row["label"],
        caption=row["label"] or "",
    )
    return clip, Failure(0, row["stage"], row["reason"], row["message"])
