"""Puts the annotation files of several releases into one typed table, and counts what is in it.

A build refuses lists that contradict each other; here the contradictions are counted: clips that
are there twice, and clips of a validation or test split that are in a training split too.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from clip_kinetics700.schema import SPLITS
from clip_kinetics700_builder.clips.annotations import are_one_list, is_json, list_files, read_rows
from clip_kinetics700_builder.system.files import atomic_path
from clip_kinetics700_builder.types import InputError

SCHEMA = pa.schema(
    [
        pa.field("version", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("youtube_id", pa.string(), nullable=False),
        pa.field("time_start", pa.int64(), nullable=False),
        pa.field("time_end", pa.int64(), nullable=False),
        pa.field("is_cc", pa.bool_()),
        pa.field("file", pa.string(), nullable=False),
    ]
)
UNKNOWN = "unknown"
VERSION = re.compile(r"(?:^|[^0-9])(400|600|700)(?:[-_ ]?(2020))?(?:[^0-9]|$)")
USUAL_SECONDS = 10

Segment: TypeAlias = tuple[str, int, int]
Release: TypeAlias = tuple[str, str]
"""A version and a split of it."""


class Row(NamedTuple):
    """What is counted of one annotated clip."""

    label: str | None
    segment: Segment
    is_cc: bool | None


def find_version(path: Path) -> str | None:
    """Return the release that a path names, the file's name before its directories."""
    for name in (path.name, *(parent.name for parent in path.absolute().parents)):
        match = VERSION.search(name)
        if match is not None:
            return match[1] + ("-2020" if match[2] else "")
    return None


def list_release_files(paths: Iterable[tuple[Path, str | None]]) -> dict[Path, str | None]:
    """Return the files of paths with their releases; a table stands for the same list in JSON.

    Args:
        paths: files or directories, each with its release if that is given.
    """
    files: dict[Path, str | None] = {}
    for path, version in paths:
        files |= {file: version or find_version(file) for file in list_files([path])}
    return {
        file: version
        for file, version in files.items()
        if not is_json(file) or not any(are_one_list(file, other) for other in files)
    }


def read_release_files(files: Mapping[Path, str | None]) -> pa.Table:
    """Return all rows of annotation files, in their order.

    Raises:
        InputError: a file cannot be read, or a row is wrong or of one's own videos.
    """
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for file, version in files.items():
        for row in read_rows(file):
            clip = row.clip
            if clip.path is not None:
                raise InputError(f"{row}: names one's own video, and no release has such videos")
            segment = (clip.video_id, clip.time_start, clip.time_end)
            values = (version, clip.split, clip.label, *segment, row.is_cc, str(file))
            for name, value in zip(SCHEMA.names, values, strict=True):
                columns[name].append(value)
    return pa.table(columns, schema=SCHEMA)


def write_table(path: Path, table: pa.Table) -> None:
    """Write the table as Parquet, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        pq.write_table(table, partial)


def describe_table(table: pa.Table) -> dict[str, Any]:
    """Return the counts of a table: rows by release and split, duplicates, leakage."""
    groups = group_rows(table)
    segments = {key: [row.segment for row in rows] for key, rows in groups.items()}
    return {
        "rows": table.num_rows,
        "releases": [describe_release(*key, rows) for key, rows in groups.items()],
        "duplicates": describe_duplicates(segments),
        "leakage": list(describe_leakage(segments)),
    }


def group_rows(table: pa.Table) -> dict[Release, list[Row]]:
    """Return the rows of each release and split, releases by name, splits in their order."""
    groups: dict[Release, list[Row]] = defaultdict(list)
    columns = [table[name].to_pylist() for name in SCHEMA.names]
    for version, split, label, *segment, is_cc, _ in zip(*columns, strict=True):
        groups[version or UNKNOWN, split].append(Row(label, tuple(segment), is_cc))
    return dict(sorted(groups.items(), key=lambda item: (item[0][0], SPLITS.index(item[0][1]))))


def describe_release(version: str, split: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the counts of one split of a release."""
    return {
        "version": version,
        "split": split,
        "rows": len(rows),
        "without_label": sum(row.label is None for row in rows),
        "other_length": sum(row.segment[2] - row.segment[1] != USUAL_SECONDS for row in rows),
        "is_cc": sum(row.is_cc is True for row in rows),
        "is_cc_unknown": sum(row.is_cc is None for row in rows),
        "classes": len({row.label for row in rows} - {None}),
    }


def describe_duplicates(groups: Mapping[Release, Sequence[Segment]]) -> dict[str, Any]:
    """Return for each release how many segments occur twice, and how many ids have several."""
    duplicates = {}
    for version in dict.fromkeys(version for version, _ in groups):
        segments = [s for key, group in groups.items() if key[0] == version for s in group]
        times = Counter(segments)
        ids = Counter(segment[0] for segment in times)
        duplicates[version] = {
            "segments": sum(count > 1 for count in times.values()),
            "rows_too_many": len(segments) - len(times),
            "ids_with_several_segments": sum(count > 1 for count in ids.values()),
        }
    return duplicates


def describe_leakage(groups: Mapping[Release, Sequence[Segment]]) -> Iterator[dict[str, Any]]:
    """Yield how much of each validation or test split is in each training split."""
    for (version, split), held_out in groups.items():
        for (other, other_split), train in groups.items():
            if split == "train" or other_split != "train":
                continue
            overlapping = count_overlaps(set(held_out), train)
            yield {
                "version": version,
                "split": split,
                "in_train_of": other,
                "clips": len(set(held_out)),
                "same_segment": len(set(held_out) & set(train)),
                "overlapping": overlapping,
                "share": overlapping / len(set(held_out)),
            }


def count_overlaps(held_out: Iterable[Segment], train: Iterable[Segment]) -> int:
    """Return how many held-out segments share a moment of their video with one of train."""
    times: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for video_id, start, end in train:
        times[video_id].append((start, end))
    return sum(
        any(start < stop and begin < end for begin, stop in times.get(video_id, ()))
        for video_id, start, end in held_out
    )
