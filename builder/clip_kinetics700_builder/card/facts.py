"""The card states these facts of a manifest: splits, sizes, classes, lengths, failures.

Nothing is measured here: each number is one of the manifest's, or follows from some of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from clip_kinetics700_builder.dataset.layout import CLASS_BALANCE, FRAMES_PER_CLIP
from clip_kinetics700_builder.dataset.manifest import Manifest
from clip_kinetics700_builder.parts.work import flatten

# What a row of failures.parquet means to somebody who looks for its clip.
REASON_MEANINGS = {
    "missing": "no source has the clip: its video was removed, made private or never archived",
    "empty_file": "the file has no bytes",
    "unreadable": "the file is no video that FFmpeg opens",
    "no_video_stream": "the file has sound or pictures, and no video",
    "no_frames": "the video has no frame that is displayed",
    "truncated": "the video ends more than a second before its container says",
    "encrypted": "the video stream is encrypted",
    "decode_error": "a frame that is needed is damaged or cannot be decoded",
    "timed_out": "decoding took longer than allowed",
    "crashed": "the video crashed its decoder",
    "out_of_memory": "decoding took more memory than allowed",
}


def describe_splits(manifest: Manifest) -> list[dict[str, Any]]:
    """Return counts and files of each split that has rows."""
    shards = manifest.list_shards()
    found = []
    for split, totals in manifest.splits.items():
        tars = [shard.tar for shard in shards if shard.split == split and shard.tar is not None]
        braces, numbers = span_tars(tars)
        n_parquet = sum(shard.split == split and shard.parquet is not None for shard in shards)
        found.append(
            {
                "name": split,
                **totals.document(),
                "braces": braces,
                "numbers": numbers,
                "parquet": f"data/{split}-*.parquet" if n_parquet else "",
                "n_parquet": n_parquet,
            }
        )
    return found


def span_tars(names: Sequence[str]) -> tuple[str, str]:
    """Return consecutive tars as webdataset expands them, and the `range` of their numbers."""
    if not names:
        return "", ""
    first, last = (name.removeprefix("ds_").removesuffix(".tar") for name in (names[0], names[-1]))
    braces = names[0] if len(names) == 1 else f"ds_{{{first}..{last}}}.tar"
    return braces, f"{int(first)}, {int(last) + 1}"


def choose_class(manifest: Manifest) -> str | None:
    """Return the largest class of the first split, for examples; None where none is labelled."""
    for totals in manifest.splits.values():
        counts = totals.samples_by_label
        if counts and manifest.class_names and max(counts):
            return manifest.class_names[counts.index(max(counts))]
    return None


def describe_sizes(manifest: Manifest) -> list[dict[str, Any]]:
    """Return what fetches each format, and its bytes: that of its data files."""
    shards = manifest.list_shards()
    tables = ["index.parquet", "manifest.json"]
    parquet = [shard.parquet for shard in shards if shard.parquet is not None]
    tars = [shard.tar for shard in shards if shard.tar is not None]
    formats = (
        ("Parquet", parquet, ["README.md", "data/*.parquet", "manifest.json"]),
        ("WebDataset", tars, ["README.md", "ds_*.tar", "splits.csv", *tables]),
    )
    return [
        {
            "name": name,
            "n_files": len(files),
            "bytes": sum(manifest.files[file].bytes for file in files),
            "patterns": patterns,
        }
        for name, files, patterns in formats
        if files
    ]


def describe_pictures(manifest: Manifest) -> list[tuple[str, str]]:
    """Return name and words of each picture that the dataset has."""
    pictures = (
        (CLASS_BALANCE, "Bars of the clips of each class, largest class first", describe_balance),
        (FRAMES_PER_CLIP, "Bars of the clips by their number of frames", describe_lengths),
    )
    return [
        (name, ". ".join([title, *describe(manifest)]) + ".")
        for name, title, describe in pictures
        if name in manifest.files
    ]


def describe_balance(manifest: Manifest) -> Iterator[str]:
    """Yield in words what the picture of the classes shows of each split."""
    for split, totals in manifest.splits.items():
        counts = [count for count in totals.samples_by_label or () if count]
        if counts:
            yield (
                f"{split}: {len(counts):,} classes, the largest of {max(counts):,}, "
                f"the median of {median(counts):,g}, the smallest of {min(counts):,}"
            )


def describe_lengths(manifest: Manifest) -> Iterator[str]:
    """Yield in words what the picture of the frames shows of each split."""
    for split, totals in manifest.splits.items():
        counts = {int(name): n for name, n in (totals.samples_by_n_frames or {}).items()}
        if counts:
            most = max(counts, key=lambda n_frames: (counts[n_frames], -n_frames))
            share = counts[most] / sum(counts.values())
            yield (
                f"{split}: {min(counts):,} to {max(counts):,} frames, "
                f"{most:,} in {share:.1%} of them"
            )


def describe_failures(manifest: Manifest) -> list[dict[str, Any]]:
    """Return how many rows of each split failed for which reason, the most frequent first."""
    splits = [totals.failures_by_reason for totals in manifest.splits.values()]
    return [
        {
            "name": reason,
            "meaning": REASON_MEANINGS.get(reason, ""),
            "counts": [counts.get(reason, 0) for counts in splits],
            "all": count,
        }
        for reason, count in sorted(
            manifest.totals.failures_by_reason.items(), key=lambda item: (-item[1], item[0])
        )
    ]


def list_configuration(configuration: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the configuration as rows of a table, nested values by dotted name."""
    rows = []
    for name, value in sorted(flatten(configuration).items()):
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        rows.append((name, "none" if value is None else text))
    return rows
