"""A manifest in, what the card says of it out: splits, sizes, classes, lengths, failures.

Nothing is measured here: each number is one of the manifest's, or follows from some of them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from clip_kinetics700.schema import SPLITS
from clip_kinetics700_builder.card.header import list_parquet_files, list_tars
from clip_kinetics700_builder.dataset.layout import CLASS_BALANCE, FRAMES_PER_CLIP

# What a row of failures.parquet means to somebody who looks for its clip.
REASON_MEANINGS = {
    "missing": "no source has the clip: its video was removed, made private or never archived",
    "empty_file": "the file has no bytes",
    "unreadable": "the file is no video that FFmpeg opens",
    "no_video_stream": "the file has sound or pictures, and no video",
    "no_frames": "the video has no frame that is displayed",
    "truncated": "the video ends more than a second before its container says",
    "decode_error": "a frame that is needed cannot be decoded",
    "timed_out": "decoding took longer than allowed",
    "crashed": "the video crashed its decoder",
    "out_of_memory": "decoding took more memory than allowed",
}


def describe_splits(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return counts and files of each split that has rows."""
    totals, tars = manifest["totals"]["splits"], list_tars(manifest)
    found = []
    for split in SPLITS:
        if split in totals:
            parquet = list_parquet_files(manifest, split)
            found.append(
                {
                    "name": split,
                    **totals[split],
                    "braces": brace_tars(tars.get(split, [])),
                    "numbers": number_tars(tars.get(split, [])),
                    "parquet": f"data/{split}-*.parquet" if parquet else "",
                    "n_parquet": len(parquet),
                }
            )
    return found


def brace_tars(names: Sequence[str]) -> str:
    """Return consecutive tars in the form that webdataset expands; empty for none."""
    if len(names) < 2:
        return "".join(names)
    first, last = (name.removeprefix("ds_").removesuffix(".tar") for name in (names[0], names[-1]))
    return f"ds_{{{first}..{last}}}.tar"


def number_tars(names: Sequence[str]) -> str:
    """Return the arguments of the `range` that numbers consecutive tars; empty for none."""
    if not names:
        return ""
    first = int(names[0].removeprefix("ds_").removesuffix(".tar"))
    return f"{first}, {first + len(names)}"


def choose_class(manifest: Mapping[str, Any]) -> str | None:
    """Return the largest class of the first split, for examples; None where none is labelled."""
    for split in SPLITS:
        counts = manifest["totals"]["splits"].get(split, {}).get("samples_by_label")
        if counts and max(counts):
            name: str = manifest["class_names"][counts.index(max(counts))]
            return name
    return None


def describe_sizes(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what fetches each format, and its bytes: that of its data files."""
    files = manifest["files"]
    tables = ["index.parquet", "manifest.json"]
    formats = (
        ("Parquet", r"data/.*", ["README.md", "data/*.parquet", "manifest.json"]),
        ("WebDataset", r"ds_.*", ["ds_*.tar", "splits.csv", *tables]),
    )
    found = []
    for name, pattern, patterns in formats:
        sizes = [entry["bytes"] for file, entry in files.items() if re.fullmatch(pattern, file)]
        if sizes:
            found.append(
                {"name": name, "n_files": len(sizes), "bytes": sum(sizes), "patterns": patterns}
            )
    return found


def describe_pictures(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return name and words of each picture that the dataset has."""
    pictures = (
        (CLASS_BALANCE, "Bars of the clips of each class, largest class first", describe_balance),
        (FRAMES_PER_CLIP, "Bars of the clips by their number of frames", describe_lengths),
    )
    return [
        (name, ". ".join([title, *describe(manifest)]) + ".")
        for name, title, describe in pictures
        if name in manifest["files"]
    ]


def describe_balance(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield in words what the picture of the classes shows of each split."""
    for split, totals in sort_splits(manifest):
        counts = [count for count in totals.get("samples_by_label") or () if count]
        if counts:
            yield (
                f"{split}: {len(counts):,} classes, the largest of {max(counts):,}, "
                f"the median of {median(counts):,g}, the smallest of {min(counts):,}"
            )


def describe_lengths(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield in words what the picture of the frames shows of each split."""
    for split, totals in sort_splits(manifest):
        counts = {int(name): n for name, n in (totals.get("samples_by_n_frames") or {}).items()}
        if counts:
            most = max(counts, key=lambda n_frames: (counts[n_frames], -n_frames))
            share = counts[most] / sum(counts.values())
            yield (
                f"{split}: {min(counts):,} to {max(counts):,} frames, "
                f"{most:,} in {share:.1%} of them"
            )


def sort_splits(manifest: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the counts of the splits in their order."""
    splits = manifest["totals"]["splits"]
    return [(split, splits[split]) for split in SPLITS if split in splits]


def describe_failures(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return how many rows of each split failed for which reason, the most frequent first."""
    totals = manifest["totals"]
    splits = [counts["failures_by_reason"] for _, counts in sort_splits(manifest)]
    return [
        {
            "name": reason,
            "meaning": REASON_MEANINGS.get(reason, ""),
            "counts": [counts.get(reason, 0) for counts in splits],
            "all": count,
        }
        for reason, count in sorted(
            totals["failures_by_reason"].items(), key=lambda item: (-item[1], item[0])
        )
    ]


def list_configuration(configuration: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return the configuration as rows of a table, nested values by dotted name."""
    rows: list[tuple[str, str]] = []
    for name, value in sorted(configuration.items()):
        if isinstance(value, Mapping):
            rows += list_configuration(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            rows.append((prefix + name, ", ".join(map(str, value))))
        else:
            rows.append((prefix + name, "none" if value is None else str(value)))
    return rows
